"""Read the rows and curves of a suite from the folders that its comparisons wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.derive import SHARES, Row

_NAMES = {"date": "date", "commit": "commit", "machine": "processor", "torch": "torch"}


def read(folder: Path, *, tuning: bool = False) -> tuple[list[Row], list[Row]]:
    """Return the rows of the finished runs of a comparison, and their curves.

    Args:
        folder: of the comparison.
        tuning: leave out what the test set says.
    """
    plan = folder / "experiment.json"
    if not plan.exists():
        return [], []
    described = json.loads(plan.read_text("utf-8"))
    labels = {method["name"]: method["label"] for method in described["methods"]}
    runs: dict[tuple[str, int], _Run] = {}
    for name in labels:
        for seed in described["seeds"]:
            run = folder / "runs" / f"{name}-seed{seed}"
            if (run / "test.json").exists():
                runs[name, seed] = _Run(run)
    base = {seed: run for (name, seed), run in runs.items() if name == described["baseline"]}
    rows = []
    for (name, seed), run in runs.items():
        target = base[seed].evaluations[-1]["accuracy"] if seed in base else None
        fields = run.row(target, validated=described["validation"] > 0, tuning=tuning)
        rows.append({"method": name, "label": labels[name], "seed": f"{seed}", **fields})
    curves = [
        {"method": name, "label": label, **at}
        for name, label in labels.items()
        for at in _curve([run for (method, _), run in runs.items() if method == name])
    ]
    return rows, curves


class _Run:
    """The records of a finished run."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        if not records or records[-1]["event"] != "end":
            raise ValueError(f"{folder / 'metrics.jsonl'} does not end with the end of the run")
        self.end: dict[str, Any] = records[-1]
        self.evaluations = [record for record in records if record["event"] == "eval"]
        self.counts = [record for record in records if record["event"] == "train"]
        self.test: dict[str, Any] = json.loads((folder / "test.json").read_text("utf-8"))
        self.origin: dict[str, Any] = json.loads((folder / "origin.json").read_text("utf-8"))

    def row(self, target: float | None, *, validated: bool, tuning: bool) -> Row:
        """Return the fields of a row."""
        reached = (e for e in self.evaluations if target is not None and e["accuracy"] >= target)
        hit = next(reached, None)
        classes = [value for value in self.test["class_accuracy"] if value is not None]
        model, il_model = (self.origin.get(part) or {} for part in ("model", "il_model"))
        values = {
            "steps": self.end["step"],
            "test": None if tuning else self.test["accuracy"],
            "worst_class": None if tuning else min(value for value in classes if value == value),
            "validation": self.evaluations[-1]["accuracy"] if validated else None,
            "steps_to_target": None if hit is None else hit["step"],
            "seconds_to_target": None if hit is None else round(hit["seconds"], 3),
            "seconds": round(self.end["seconds"], 3),
            "il_seconds": round(self.end["il_seconds"], 3),
            **{name: self._count(name) for name in ("selected", *SHARES)},
            "flops": model.get("flops"),
            "il_flops": il_model.get("flops"),
            "il_loss": il_model.get("loss"),
            **{name: self.origin.get(field) for name, field in _NAMES.items()},
        }
        return {name: _text(value) for name, value in values.items()}

    def _count(self, name: str) -> int | None:
        if any(record.get(name) is None for record in self.counts):
            return None
        return sum(record[name] for record in self.counts)


def _curve(runs: list[_Run]) -> Iterator[Row]:
    """Yield mean, lowest and highest of the seeds at the steps that all were evaluated at."""
    by_step = [{e["step"]: e for e in run.evaluations} for run in runs]
    for step in sorted(set.intersection(*map(set, by_step))) if runs else ():
        accuracies = [of[step]["accuracy"] for of in by_step]
        at = {
            "step": step,
            "accuracy": fmean(accuracies),
            "lowest": min(accuracies),
            "highest": max(accuracies),
            "seconds": fmean(of[step]["seconds"] for of in by_step),
            "il_seconds": fmean(run.end["il_seconds"] for run in runs),
        }
        yield {name: _text(value) for name, value in at.items()}


def _text(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value}"
