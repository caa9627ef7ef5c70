"""Read the rows and curves of a suite from the folders that its comparisons wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.derive import SHARES
from keep import Row
from rho_train.report import pair, read_experiment

_NAMES = {"date": "date", "commit": "commit", "machine": "processor", "torch": "torch"}


def read(folder: Path) -> tuple[list[Row], list[Row]]:
    """Return the rows of the finished runs of a comparison, and their curves.

    Args:
        folder: of the comparison.
    """
    try:
        experiment = read_experiment(folder)
    except ValueError:  # nothing is finished yet
        return [], []
    base = {run.seed: run for run in experiment.runs.get(experiment.baseline, ())}
    rows, curves = [], []
    for name, runs in experiment.runs.items():
        label = {"method": name, "label": experiment.labels[name]}
        for run in runs:
            path = folder / "runs" / f"{name}-seed{run.seed}" / "origin.json"
            origin = json.loads(path.read_text("utf-8"))
            target = pair(run, base[run.seed]) if run.seed in base else None
            cost = run.end["cost"]
            classes = [value for value in run.test["class_accuracy"] if value is not None]
            validated = experiment.watched == "validation"
            met = target is not None and math.isfinite(target.target_steps)
            values = {
                "steps": run.end["step"],
                "test": run.test["accuracy"],
                "balanced": fmean(classes),
                "worst_class": min(classes),
                "validation": run.eval[-1]["accuracy"] if validated else None,
                "steps_to_target": target.target_steps if target and met else None,
                "cost_to_target": target.target_cost - cost["il"] if target and met else None,
                "cost": cost["training"] + cost["scoring"],
                "il_cost": cost["il"],
                "seconds": round(run.end["seconds"], 3),
                "il_seconds": round(run.end["il_seconds"], 3),
                **{name: _count(run.train, name) for name in ("selected", *SHARES)},
                "il_loss": origin.get("il_loss"),
                **{name: origin.get(field) for name, field in _NAMES.items()},
            }
            texts = {name: _text(value) for name, value in values.items()}
            rows.append({**label, "seed": f"{run.seed}", **texts})
        curves += [{**label, **at} for at in _curve(runs)]
    return rows, curves


def _count(records: Sequence[dict[str, Any]], name: str) -> int | None:
    if any(record.get(name) is None for record in records):
        return None
    return sum(record[name] for record in records)


def _curve(runs: Sequence[Any]) -> Iterator[Row]:
    """Yield mean, lowest and highest of the seeds at the steps that all were evaluated at."""
    by_step = [{e["step"]: e for e in run.eval} for run in runs]
    for step in sorted(set.intersection(*map(set, by_step))):
        accuracies = [of[step]["accuracy"] for of in by_step]
        costs = [sum(of[step]["cost"].values()) for of in by_step]
        at = {
            "step": step,
            "accuracy": fmean(accuracies),
            "lowest": min(accuracies),
            "highest": max(accuracies),
            "cost": fmean(costs),
        }
        yield {name: _text(value) for name, value in at.items()}


def _text(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value}"
