"""What the finished runs of an experiment came to, for statistics over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rho_train.report.checked_json import CheckedJson

SHARES = ("noisy", "unsure", "correct", "less_relevant", "redundant")
_FIX = "move the folder of this run away and run it again"


@dataclass(frozen=True)
class Look:
    """Accuracy in [0, 1] at a step, and the training seconds until then."""

    step: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    `looks` are the curve over time, on the validation split where there is one; `test` is the
    accuracy on the test set at the end, `worst_class` that of its worst class. `counts` are, in
    steps, the selected points and how many of them were noisy, correct already, and so on; a
    count is missing where it is unknown. Seconds are of training, without evaluation; `il_seconds`
    those of the irreducible losses `il`, which `targets` models of the experiment share.
    """

    method: str
    seed: int
    steps: int
    looks: tuple[Look, ...]
    test: float
    worst_class: float
    counts: tuple[tuple[int, Mapping[str, int]], ...]
    seconds: float
    il_seconds: float
    il: str
    targets: int
    origin: Mapping[str, object]


@dataclass(frozen=True)
class Outcomes:
    """The finished runs of an experiment in the order of its plan, and its `missing` ones."""

    title: str
    labels: Mapping[str, str]
    baseline: str
    validated: bool
    runs: tuple[Outcome, ...]
    missing: tuple[tuple[str, int], ...]
    environment: Mapping[str, object]


def read_outcomes(out: Path) -> Outcomes:
    """Read `experiment.json` and the finished runs of an experiment's folder.

    Raises:
        ValueError: the folder holds no experiment, or a file is not as it should be.
        OSError: a file cannot be read.
    """
    path = Path(out) / "experiment.json"
    if not path.is_file():
        raise ValueError(f"read_outcomes: {path} is missing; give the folder of an experiment")
    plan = CheckedJson.parse(path.read_bytes(), f"{path}", "restore the file or run again")
    methods = plan.entries("methods")
    runs, missing = [], []
    for method in methods:
        name = method.text("name")
        for seed in plan.integers("seeds"):
            folder = path.parent / "runs" / f"{name}-seed{seed}"
            if (folder / "test.json").is_file():
                il, targets = method.text("il"), method.count("targets")
                runs.append(_outcome(folder, name, seed, il, targets))
            else:
                missing.append((name, seed))
    return Outcomes(
        title=plan.text("title"),
        labels={method.text("name"): method.text("label") for method in methods},
        baseline=plan.text("baseline"),
        validated=plan.number("validation", 1.0) > 0,
        runs=tuple(runs),
        missing=tuple(missing),
        environment=plan.mapping("environment"),
    )


def _outcome(folder: Path, method: str, seed: int, il: str, targets: int) -> Outcome:
    result = CheckedJson.parse((folder / "test.json").read_bytes(), f"{folder / 'test.json'}", _FIX)
    file = folder / "metrics.jsonl"
    records = [
        CheckedJson.parse(line, f"{file}, line {number}", _FIX)
        for number, line in enumerate(file.read_bytes().splitlines(), 1)
    ]
    if not records or records[-1].text("event") != "end":
        raise result.error(f"{file} does not end with the end of the run")
    end = records[-1]
    looks = [
        Look(r.count("step"), r.number("accuracy", 1.0), r.number("seconds"))
        for r in records
        if r.text("event") == "eval"
    ]
    counts = [
        (r.count("step"), {k: r.count(k) for k in ("selected", *SHARES) if not r.missing(k)})
        for r in records
        if r.text("event") == "train"
    ]
    known = [value for value in result.losses("class_accuracy") if value == value]
    return Outcome(
        method=method,
        seed=seed,
        steps=end.count("step"),
        looks=tuple(looks),
        test=result.number("accuracy", 1.0),
        worst_class=min(known),
        counts=tuple(counts),
        seconds=end.number("seconds"),
        il_seconds=end.number("il_seconds"),
        il=il,
        targets=max(1, targets),
        origin=json.loads((folder / "origin.json").read_text()),
    )


def by_seed(runs: Sequence[Outcome], method: str) -> dict[int, Outcome]:
    """Return the runs of one method by their seed."""
    return {run.seed: run for run in runs if run.method == method}
