"""Read the folder of a comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rho_train.comparison.jobs import run_path
from rho_train.files import from_line, read_lines

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its records by event, the result on the test set, and what was selected.

    The unit of all costs is a uniform step of the baseline with this seed.
    """

    seed: int
    train: Sequence[Record]
    eval: Sequence[Record]
    end: Record
    test: Record
    selected: Record

    @property
    def best(self) -> Record:
        """The first evaluation with the highest accuracy."""
        return max(self.eval, key=lambda record: record["accuracy"])


@dataclass(frozen=True)
class Experiment:
    """A comparison, as experiment.json has it, with its finished runs by method, in order.

    `left_out` says why other runs are none of them; `watched` names the examples of the curves,
    `test` or `validation`.
    """

    title: str
    description: str
    labels: Mapping[str, str]
    seeds: Sequence[int]
    baseline: str
    config: Mapping[str, Any]
    environment: Mapping[str, object]
    watched: str
    runs: Mapping[str, Sequence[Run]]
    left_out: Sequence[str]


def read_experiment(out: Path) -> Experiment:
    """Read the comparison in the folder `out`: `experiment.json` and what its runs wrote.

    A run that is not finished (killed, still running) is no error but named in `left_out`.

    Raises:
        ValueError: a file is missing or damaged, with its name and the fix; no run is finished.
        OSError: a file cannot be opened.

    Examples:
        >>> read_experiment(Path("nowhere"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: read_experiment: nowhere/experiment.json is missing; give the folder ...
    """
    path = Path(out) / "experiment.json"
    if not path.is_file():
        raise ValueError(f"read_experiment: {path} is missing; give the folder of a comparison")
    plan = from_line(path.read_bytes(), path)
    labels = {method["name"]: method["label"] for method in plan["methods"]}
    runs, left_out = defaultdict[str, list[Run]](list), []
    for name, label in labels.items():
        for seed in plan["seeds"]:
            found = _read_run(run_path(out, name, seed), name, seed, plan["step_cost"][f"{seed}"])
            if isinstance(found, Run):
                runs[name].append(found)
            else:
                left_out.append(f"{label}, seed {seed}: {found}")
    if not runs:
        raise ValueError(
            f"read_experiment: {path.with_name('runs')} has no finished run; let at least one "
            "finish, then write the report again"
        )
    kept = ("title", "description", "seeds", "baseline", "config", "environment")
    watched = "validation" if plan["config"]["validation"] > 0 else "test"
    own: Any = {key: plan[key] for key in kept}
    return Experiment(**own, labels=labels, watched=watched, runs=dict(runs), left_out=left_out)


def _read_run(folder: Path, method: str, seed: int, step_cost: float) -> Run | str:
    """Return the run in a folder, or why it is not finished."""
    path = folder / "metrics.jsonl"
    records = read_lines(path) if path.exists() else []
    if not records:
        return "no record"
    *_, end = records
    if (end["method"], end["seed"]) != (method, seed):
        raise ValueError(
            f"read_experiment: {path} is of {end['method']}, seed {end['seed']}, not of {method}, "
            f"seed {seed}; move its folder away and run it again"
        )
    if end["event"] != "end":
        return f"unfinished, last record at step {end['step']:,}"
    test, selected = folder / "test.json", folder / "selected.json"
    if not test.exists():
        return "not tested"
    for record in records:
        # A model in which torch can count no work has a step of cost 0.
        costs = record.get("cost", {}).items()
        record["cost"] = {part: cost / (step_cost or 1.0) for part, cost in costs}
    return Run(
        seed=seed,
        train=[record for record in records if record["event"] == "train"],
        eval=[record for record in records if record["event"] == "eval"],
        end=end,
        test=from_line(test.read_bytes(), test),
        selected=from_line(selected.read_bytes(), selected) if selected.exists() else {},
    )
