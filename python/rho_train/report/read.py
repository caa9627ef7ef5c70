"""Read the folders of comparisons; a damaged file gives one clear error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_METHODS = 24
"""A report has a colour and a marker for each of so many methods."""
FLAGS = ("noisy", "correct", "less_relevant", "redundant", "unsure")
"""What training records count of the selected examples."""
PARTS = ("training", "scoring", "selecting", "loading", "other", "evaluation")
"""What the seconds of a run went into."""

Record = dict[str, Any]
_FIX = "move the folder of this run away and run it again"

# Fields of the JSON objects: name and kind, "?" where it may be missing or null, [] around the
# kind of a list's values. Losses of a diverged model are NaN or infinite, unknown ones null.
_OBJECTS = {
    "plan": "title text, description text, methods [method], seeds [integer], baseline text, "
    "steps positive, config object, environment object",
    "method": "name text, label text, steps positive?",
    "head": "event text, method text, seed integer, step count",
    "train": "selected count, correct count, noisy count?, less_relevant count?, redundant count?, "
    "unsure count?",
    "eval": "accuracy share, seconds seconds, class_accuracy [share?]?",
    "epoch": "epoch count, chosen count, again count?",
    "sample": "loss [loss?], il [loss?]?, selected [flag], noisy [flag]?",
    "end": "seconds seconds, il_seconds seconds, noisy share?, ledger_seconds parts?, "
    "epochs seconds?, scored count?, trained count?, batch positive?, large_batch positive?",
    "parts": ", ".join(f"{part} seconds" for part in PARTS),
    "steps": "steps positive",
    "test": "accuracy share, class_accuracy [share?]",
    "selections": "classes [text]?, points [count], chosen [count], never count, "
    "never_noisy count?, tied count?, most_chosen [example], never_chosen [example]",
    "example": "id count, label integer, noisy flag?, il number?, loss number?, seen count, "
    "chosen count, image image?, text text?, features [number]?",
}
_EVENTS = ("train", "eval", "epoch", "sample", "end")


def _integer(v: Any, least: float = -math.inf) -> bool:
    return type(v) is int and least <= v < 2**63


def _number(v: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    return (isinstance(v, float) or _integer(v)) and least <= v <= most and math.isfinite(v)


# Nothing but an image may come into the page this way.
_PNG = re.compile("data:image/png;base64,[A-Za-z0-9+/]+=*")
_KINDS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "text": ("a string", lambda v: isinstance(v, str)),
    "flag": ("true or false", lambda v: isinstance(v, bool)),
    "integer": ("an integer", _integer),
    "count": ("an integer of 0 or more", lambda v: _integer(v, 0)),
    "positive": ("an integer of 1 or more", lambda v: _integer(v, 1)),
    "number": ("a finite number", _number),
    "seconds": ("a finite number of 0 or more", lambda v: _number(v, 0)),
    "share": ("a number in [0, 1]", lambda v: _number(v, 0, 1)),
    "loss": ("a number", lambda v: isinstance(v, float) or _integer(v)),
    "image": ("a PNG as data URI", lambda v: isinstance(v, str) and _PNG.fullmatch(v)),
    "object": ("an object", lambda v: isinstance(v, dict)),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its checked records by event, `end` the last one; unknown values are None.

    `test` is the result on the test set, `selections` what chosen.json says.
    """

    method: str
    seed: int
    train: Sequence[Record]
    eval: Sequence[Record]
    epoch: Sequence[Record]
    sample: Sequence[Record]
    end: Record
    test: Record | None
    selections: Record | None

    @property
    def best(self) -> float:
        """Highest accuracy of the curve."""
        return float(max(record["accuracy"] for record in self.eval))

    def first_at(self, target: float) -> Record | None:
        """Return the first evaluation with an accuracy of `target` or more."""
        return next((record for record in self.eval if record["accuracy"] >= target), None)


@dataclass(frozen=True)
class Experiment:
    """A comparison and its finished runs; `left_out` has method, seed and reason of the others.

    `labels` are those of the methods, by name and in order; `watched` names the examples of the
    curves, `test` or `validation`; `steps` are those of methods without steps of their own.
    """

    title: str
    description: str
    labels: Mapping[str, str]
    seeds: Sequence[int]
    baseline: str
    steps: int
    config: Mapping[str, object]
    environment: Mapping[str, object]
    watched: str
    runs: Sequence[Run]
    left_out: Sequence[tuple[str, int, str]]

    def of(self, method: str) -> dict[int, Run]:
        """Return the finished runs of a method by seed."""
        return {run.seed: run for run in self.runs if run.method == method}

    def finished(self) -> Iterator[tuple[str, list[Run]]]:
        """Yield the name of each method that has finished runs, with these."""
        return ((name, runs) for name in self.labels if (runs := list(self.of(name).values())))


def read_experiment(out: Path) -> Experiment:
    """Read the comparison in the folder `out`: `experiment.json` and `runs/*/metrics.jsonl`.

    A run without an end record (killed, still running; its last line may be cut) is not an error:
    it is named in `left_out`.

    Raises:
        ValueError: a file that cannot be read as such, with file, line and fix; no finished run.
        OSError: a file cannot be opened.

    Example:
        >>> read_experiment(Path("nowhere"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: read_experiment: nowhere/experiment.json is missing; give the folder that ...
    """
    path = Path(out) / "experiment.json"
    if not path.is_file():
        raise ValueError(
            f"read_experiment: {path} is missing; give the folder that the experiment wrote"
        )
    file = _Json(path, "restore the file or run again")
    plan = file.read("plan")
    methods, seeds, share = plan.pop("methods"), plan["seeds"], plan["config"].get("validation")
    labels = {method["name"]: method["label"] for method in methods}
    if len(labels) < len(methods) or not labels:
        raise file.error(f"needs one or more methods with different names, got {list(labels)}")
    if len(set(seeds)) < len(seeds) or not seeds:
        raise file.error(f"needs one or more different seeds, got {seeds}")
    if plan["baseline"] not in labels:
        raise file.error(f"baseline must be one of {list(labels)}, got {plan['baseline']!r}")
    steps = {method["name"]: method["steps"] or plan["steps"] for method in methods}
    watched = "validation" if isinstance(share, float) and share > 0 else "test"
    states: dict[tuple[str, int], Run | str] = {(m, s): "no record" for m in labels for s in seeds}
    read_from: dict[tuple[str, int], Path] = {}
    for metrics in sorted(path.parent.glob("runs/*/metrics.jsonl")):
        # A kill leaves a last line without its newline, cut anywhere: it is never read.
        lines = metrics.read_bytes().split(b"\n")[:-1]
        records = [_Json(f"{metrics}, line {i}", _FIX, line) for i, line in enumerate(lines, 1)]
        if records:
            head = records[0].read("head")
            key = head["method"], head["seed"]
            if key not in states:
                raise records[0].error(f"method {key[0]!r}, seed {key[1]} is not in {path.name}")
            if key in read_from:
                raise records[0].error(f"{read_from[key]} holds the same method and seed")
            read_from[key] = metrics
            states[key] = _read_run(records, steps[key[0]], metrics.parent, watched)
    runs = [state for state in states.values() if isinstance(state, Run)]
    if not runs:
        raise ValueError(
            f"read_experiment: {path.parent / 'runs'} has no finished run ({len(read_from)} "
            "started); let the experiment finish at least one run, then write the report again"
        )
    left_out = [(*key, state) for key, state in states.items() if isinstance(state, str)]
    return Experiment(**plan, labels=labels, watched=watched, runs=runs, left_out=left_out)


def read_experiments(folders: Sequence[Path]) -> Experiment:
    """Read comparisons as one: methods carry the name of their folder, the first folder's baseline
    is that of all.

    Raises:
        ValueError: see `read_experiment`; the comparisons were made on other data, do not say on
            which, or have too many methods in all; a folder is given twice.
    """
    if not folders:
        raise ValueError("report: give at least one folder that an experiment wrote")
    resolved = [Path(folder).resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"report: a folder is given twice: {', '.join(map(str, folders))}")
    read = [read_experiment(folder) for folder in folders]
    for folder, other in zip(folders[1:], read[1:], strict=True):
        one, two = _data(folders[0], read[0]), _data(folder, other)
        if differing := sorted(key for key in {*one, *two} if one.get(key) != two.get(key)):
            told = "; ".join(f"{key}: {one.get(key)} and {two.get(key)}" for key in differing)
            raise ValueError(
                f"report: {folders[0]} and {folder} were made on other data ({told}); compare "
                "experiments on the same data"
            )
    if (count := sum(len(one.labels) for one in read)) > MAX_METHODS:
        raise ValueError(
            f"report: the folders have {count} methods in all, at most {MAX_METHODS} can be "
            "told apart; give fewer folders"
        )
    if len(read) == 1:
        return read[0]
    # The shortest ends of the paths that are all different.
    ends = (["/".join(p.parts[-n:]) for p in resolved] for n in range(1, 1 + len(str(resolved))))
    names = next(names for names in ends if len(set(names)) == len(names))
    both = list(zip(names, read, strict=True))
    return replace(
        read[0],
        title=" beside ".join(names),
        description=" ".join(dict.fromkeys(one.description for one in read)),
        labels={f"{f}/{m}": f"{label} ({f})" for f, one in both for m, label in one.labels.items()},
        seeds=sorted({seed for one in read for seed in one.seeds}),
        baseline=f"{names[0]}/{read[0].baseline}",
        config={name: one.config for name, one in both},
        environment={name: one.environment for name, one in both},
        runs=[replace(run, method=f"{f}/{run.method}") for f, one in both for run in one.runs],
        left_out=[(f"{f}/{m}", seed, why) for f, one in both for m, seed, why in one.left_out],
    )


def _data(folder: Path, experiment: Experiment) -> dict[str, object]:
    data = experiment.config.get("data")
    if not isinstance(data, Mapping):
        raise ValueError(
            f"report: {folder} does not say what it was trained on (no config.data in its "
            "experiment.json), so it cannot be compared with another; report on it alone"
        )
    # The content of a file counts, not its name; curves of other examples are other data too.
    counted = {key: value for key, value in data.items() if key != "path"}
    return {**counted, "validation": experiment.config.get("validation", 0.0)}


def _read_run(records: list[_Json], steps: int, folder: Path, watched: str) -> Run | str:
    """Return the run in a folder, or why it is not finished."""
    if (file := folder / "plan.json").exists():
        # Steps that follow from the seconds of another run.
        steps = _Json(file, _FIX).read("steps")["steps"]
    found: dict[str, Any] = {event: [] for event in _EVENTS}
    first, last = records[0].read("head"), 0
    for record in records:
        head = record.read("head")
        event, step = head["event"], head["step"]
        if (head["method"], head["seed"]) != (first["method"], first["seed"]):
            start = f"method {first['method']!r}, seed {first['seed']}"
            raise record.error(f"the file began with {start}; this differs")
        if step < last:
            raise record.error(f"step {step} comes after step {last}")
        if found["end"]:
            raise record.error("records follow the end record")
        if event not in _EVENTS:
            raise record.error(f"event must be one of {', '.join(_EVENTS)}, got {event!r}")
        values = record.read(event)
        for part in FLAGS if event == "train" else ("again",) if event == "epoch" else ():
            record.at_most(part, values["selected" if event == "train" else "chosen"])
        if event == "sample" and len({len(v) for v in values.values() if v is not None}) > 1:
            raise record.error("loss, il, selected and noisy must have the same length")
        found[event].append({"step": step, **values})
        last = step
    if not found["end"]:
        return f"unfinished, last record at step {last:,} of {steps:,}"
    if not found["eval"]:
        raise records[-1].error("the run has no eval record")
    if last != steps:
        return f"ended at step {last:,} of {steps:,}"
    found["end"] = found["end"][0]
    # Old runs have no test.json: their curve is of the test set.
    found["test"] = found["eval"][-1] if watched == "test" else None
    if (file := folder / "test.json").exists():
        found["test"] = _Json(file, "delete the file and run the same command again").read("test")
    found["selections"] = _selections(folder / "chosen.json")
    return Run(first["method"], first["seed"], **found)


def _selections(path: Path) -> Record | None:
    if not path.exists():
        return None
    file = _Json(path, "delete the file, or move the folder of this run away and run it again")
    values = file.read("selections")
    count = len(values["points"])
    classes = values["classes"] = values["classes"] or [str(c) for c in range(count)]
    if count != len(values["chosen"]):
        raise file.error("points and chosen must be counts of the same classes")
    if len(classes) < count:
        raise file.error(f"classes must name all {count}, got {len(classes)}")
    file.at_most("never_noisy", values["never"])
    for one in (*values["most_chosen"], *values["never_chosen"]):
        if [one["image"], one["text"], one["features"]].count(None) != 2:
            raise file.error(f"example {one['id']} needs one of image, text and features")
        known = 0 <= one["label"] < len(classes)
        one["label"] = classes[one["label"]] if known else str(one["label"])
    return values


class _Json:
    """A JSON object in a file, or in a line of one, and what mends it."""

    def __init__(self, place: Path | str, fix: str, data: bytes | None = None) -> None:
        self.place, self.fix = place, fix
        try:
            self.values = json.loads(Path(place).read_bytes() if data is None else data)
        except (ValueError, RecursionError):
            self.values = None
        if not isinstance(self.values, dict):
            raise self.error("not a JSON object")

    def error(self, problem: str) -> ValueError:
        return ValueError(f"read_experiment: {self.place}: {problem}; {self.fix}")

    def at_most(self, field: str, most: int) -> None:
        if (self.values.get(field) or 0) > most:
            raise self.error(f"field {field!r} must be an integer in [0, {most}]")

    def read(self, kind: str, values: Any = None, inside: str = "") -> Record:
        """Return the fields of an object of _OBJECTS, checked; `inside` says of which field."""
        values, found = self.values if values is None else values, {}
        for field in _OBJECTS[kind].split(", "):
            name, of = field.split()
            try:
                found[name] = self._checked(of, values.get(name), f"{inside}{name}: ")
            except TypeError as wanted:
                got = repr(values[name])[:60] if name in values else "nothing"
                problem = f"{inside}field {name!r} must be {wanted}, got {got}"
                raise self.error(problem) from None
        return found

    def _checked(self, kind: str, value: Any, inside: str) -> Any:
        """Return a value of a kind; TypeError says what it must be."""
        if value is None and kind.endswith("?"):
            return None
        kind = kind.removesuffix("?")
        if kind.startswith("["):
            if not isinstance(value, list):
                raise TypeError("a list")
            return [self._checked(kind[1:-1], one, inside) for one in value]
        wanted, test = _KINDS["object" if kind in _OBJECTS else kind]
        if not test(value):
            raise TypeError(wanted)
        return self.read(kind, value, inside) if kind in _OBJECTS else value
