"""Read the folders of comparisons."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rho_train.comparison.jobs import run_path
from rho_train.records import from_line, read_lines

MAX_METHODS = 24
"""A report has a colour and a marker for each of so many methods."""

Record = dict[str, Any]

_PNG = re.compile("data:image/png;base64,[A-Za-z0-9+/]+=*")  # nothing else may come into the page


@dataclass(frozen=True)
class Run:
    """A finished run: its records by event, and `end`, the last one.

    `test` is the result on the test set; `selected` what selected.json says, empty without one.
    """

    seed: int
    train: Sequence[Record]
    eval: Sequence[Record]
    epoch: Sequence[Record]
    sample: Sequence[Record]
    end: Record
    test: Record
    selected: Record

    @property
    def best(self) -> Record:
        """The first evaluation with the highest accuracy."""
        return max(self.eval, key=lambda record: record["accuracy"])


@dataclass(frozen=True)
class Experiment:
    """A comparison and its finished runs; `left_out` has method, seed and reason of the others.

    `labels` are those of the methods, by name and in order; `runs` those of each method that has
    any. `watched` names the examples of the curves, `test` or `validation`; `steps` are those of
    methods without steps of their own.
    """

    title: str
    description: str
    labels: Mapping[str, str]
    seeds: Sequence[int]
    baseline: str
    steps: int
    config: Mapping[str, Any]
    environment: Mapping[str, object]
    watched: str
    runs: Mapping[str, Sequence[Run]]
    left_out: Sequence[tuple[str, int, str]]


def read_experiment(out: Path) -> Experiment:
    """Read the comparison in the folder `out`: `experiment.json` and what its runs wrote.

    A run that is not finished (killed, still running) is no error but named in `left_out`.

    Raises:
        ValueError: a file is missing or damaged, with its name and the fix; no run is finished.
        OSError: a file cannot be opened.

    Example:
        >>> read_experiment(Path("nowhere"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: read_experiment: nowhere/experiment.json is missing; give the folder ...
    """
    out = Path(out)
    path = out / "experiment.json"
    if not path.is_file():
        raise ValueError(f"read_experiment: {path} is missing; give the folder of a comparison")
    plan = from_line(path.read_bytes(), path)
    runs, left_out = defaultdict[str, list[Run]](list), []
    for method in plan["methods"]:
        for seed in plan["seeds"]:
            name, steps = method["name"], method["steps"] or plan["steps"]
            found = _read_run(run_path(out, name, seed), name, seed, steps)
            if isinstance(found, Run):
                runs[name].append(found)
            else:
                left_out.append((name, seed, found))
    if not runs:
        raise ValueError(
            f"read_experiment: {out / 'runs'} has no finished run; let at least one finish, then "
            "write the report again"
        )
    kept = ("title", "description", "seeds", "baseline", "steps", "config", "environment")
    return Experiment(
        **{key: plan[key] for key in kept},
        labels={method["name"]: method["label"] for method in plan["methods"]},
        watched="validation" if plan["config"]["validation"] > 0 else "test",
        runs=dict(runs),
        left_out=left_out,
    )


def read_experiments(folders: Sequence[Path]) -> Experiment:
    """Read comparisons as one: methods carry the name of their folder, the baseline is the first's.

    Raises:
        ValueError: see `read_experiment`; a folder given twice; other data; too many methods.
    """
    resolved = [Path(folder).resolve() for folder in folders]
    if not folders or len(set(resolved)) < len(resolved):
        raise ValueError(f"report: give one or more different folders, got {[*map(str, folders)]}")
    read = [read_experiment(folder) for folder in folders]
    first, *others = map(_data, read)
    for folder, other in zip(folders[1:], others, strict=True):
        keys = (key for key in first if key in other and first[key] != other[key])
        if told := "; ".join(f"{key}: {first[key]} and {other[key]}" for key in keys):
            both = f"{folders[0]} and {folder}"
            raise ValueError(f"report: {both} were made on other data ({told}); give others")
    if (n := sum(len(one.labels) for one in read)) > MAX_METHODS:
        raise ValueError(f"report: {n} methods, only {MAX_METHODS} can be told apart; give fewer")
    if len(read) == 1:
        return read[0]
    # The shortest ends of the paths that are all different.
    ends = (["/".join(p.parts[-n:]) for p in resolved] for n in range(1, 1 + len(str(resolved))))
    names = next(names for names in ends if len(set(names)) == len(names))
    each = list(zip(names, read, strict=True))
    return replace(
        read[0],
        title=" beside ".join(names),
        description=" ".join(dict.fromkeys(one.description for one in read)),
        labels={f"{f}/{m}": f"{label} ({f})" for f, one in each for m, label in one.labels.items()},
        seeds=sorted({seed for one in read for seed in one.seeds}),
        baseline=f"{names[0]}/{read[0].baseline}",
        config={name: one.config for name, one in each},
        environment={name: one.environment for name, one in each},
        runs={f"{f}/{m}": runs for f, one in each for m, runs in one.runs.items()},
        left_out=[(f"{f}/{m}", seed, why) for f, one in each for m, seed, why in one.left_out],
    )


def _data(experiment: Experiment) -> dict[str, object]:
    """Return what comparisons side by side must share: the data, and the examples of the curves."""
    config, seed = experiment.config, experiment.seeds[0]
    # Noise is drawn by seed, and with it labels, flags and all that depends on them.
    by_seed = ("train", "content", "groups", "flags")
    named = ((f"{k} of seed {seed}" if k in by_seed else k, v) for k, v in config["data"].items())
    n = config["data"]["train"]["n"]
    return {"n": n, "validation": config["validation"], **dict(named)}


def _read_run(folder: Path, method: str, seed: int, steps: int) -> Run | str:
    """Return the run in a folder, or why it is not finished."""
    path, last = folder / "metrics.jsonl", 0
    records = read_lines(path) if path.exists() else []
    if not records:
        return "no record"
    if (plan := folder / "plan.json").exists():
        # Steps that follow from the seconds of another run.
        steps = from_line(plan.read_bytes(), plan)["steps"]
    events = defaultdict[str, list[Record]](list)
    for line, record in enumerate(records, 1):
        now = record["step"]
        if (record["method"], record["seed"]) != (method, seed) or now < last or events["end"]:
            raise ValueError(
                f"read_experiment: {path}, line {line}: step {now} of {record['method']}, seed "
                f"{record['seed']} cannot follow step {last} of {method}, seed {seed}; restore the "
                "file, or move the folder of this run away and run it again"
            )
        events[record["event"]].append(record)
        last = now
    if not events["end"]:
        return f"unfinished, last record at step {last:,} of {steps:,}"
    if last != steps:
        return f"ended at step {last:,} of {steps:,}"
    if not (test := folder / "test.json").exists():
        return "not tested"
    return Run(
        seed=seed,
        train=events["train"],
        eval=events["eval"],
        epoch=events["epoch"],
        sample=events["sample"],
        end=events["end"][0],
        test=from_line(test.read_bytes(), test),
        selected=_read_selected(folder / "selected.json"),
    )


def _read_selected(path: Path) -> Record:
    """Return what selected.json says, with the names of the classes as labels."""
    if not path.exists():
        return {}
    found = from_line(path.read_bytes(), path)
    names = found["classes"] or [str(label) for label in range(len(found["examples"]))]
    for one in (*found["most_selected"], *found["never_selected"]):
        if "image" in one and not _PNG.fullmatch(one["image"]):
            raise ValueError(
                f"read_experiment: {path}: image of example {one['id']} is no PNG; restore the file"
            )
        label = one["label"]
        one["label"] = names[label] if 0 <= label < len(names) else str(label)
    return {**found, "classes": names}
