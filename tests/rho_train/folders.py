"""Folders of comparisons, made up."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NASTY = 'Loss <b> & "quotes"'
FIVE = {
    "half": "Uniform, not held-out half",
    "all": "Uniform, all data",
    "loss": "Training loss",
    "holdout": "RHO-LOSS, holdout IL",
    "crossfit": NASTY,
}
# Those of folders that were written before runs kept time by part and what they selected.
WITHOUT_RECORDS = {"accuracy-steps", "accuracy-seconds", "noisy", "correct"}
FLAGS = {"less_relevant", "redundant", "unsure"}
FIGURES = {*WITHOUT_RECORDS, *FLAGS, "overlap", "time", "classes"}
# A red pixel.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3"
    "A0FDAAAAAElFTkSuQmCC"
)
QUADRANTS = {"quadrant-3", "quadrant-4"}


def write_plan(
    out: Path, methods: dict[str, str], seeds: Sequence[int], *, baseline: str, steps: int
) -> None:
    plan = {
        "title": "RHO-LOSS on <synthetic> & noisy data",
        "description": "Made up.",
        "methods": [{"name": name, "label": label} for name, label in methods.items()],
        "seeds": list(seeds),
        "baseline": baseline,
        "steps": steps,
        "config": {"selection": {"large_batch": 320, "ratio": 0.1}, "model": "x" * 120},
        "environment": {"python": "3.11", "threads": 2},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "experiment.json").write_text(json.dumps(plan))


def write_run(out: Path, method: str, seed: int, records: Sequence[dict[str, Any]]) -> Path:
    path = out / "runs" / f"{method}-{seed}" / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record | {"method": method, "seed": seed}) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def end(step: int, il_seconds: float = 0.0) -> dict[str, Any]:
    return {"event": "end", "step": step, "seconds": 0.1 * step, "il_seconds": il_seconds}


def hand_checkable(out: Path) -> None:
    """Three seeds, evals at 0, 10, 20, 30; every number of the summary can be done by hand."""
    accuracies = {
        "base": [(0.1, 0.5, 0.6, 0.55), (0.1, 0.4, 0.7, 0.9), (0.1, 0.3, 0.4, 0.5)],
        "fast": [(0.1, 0.6, 0.7, 0.8), (0.1, 0.5, 0.8, 0.85), (0.1, 0.2, 0.5, 0.6)],
        "slow": [(0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4), (0.1, 0.5, 0.4, 0.4)],
    }
    write_plan(out, {name: name for name in accuracies}, range(3), baseline="base", steps=30)
    for method, seeds in accuracies.items():
        for seed, curve in enumerate(seeds):
            records: list[dict[str, Any]] = []
            for index, accuracy in enumerate(curve):
                step = 10 * index
                if step:
                    counts = {"selected": 10, "noisy": (1, 2, 0)[index - 1], "correct": 5}
                    records.append({"event": "train", "step": step, **counts})
                seconds = 0.1 * step
                records.append(
                    {"event": "eval", "step": step, "accuracy": accuracy, "seconds": seconds}
                )
            write_run(out, method, seed, [*records, end(30, 5.0 if method == "fast" else 0.0)])


def synthetic(
    out: Path,
    methods: dict[str, str] = FIVE,
    *,
    seeds: int = 3,
    noise_known: bool = True,
    with_il: bool = True,
    steps: int = 2000,
    with_records: bool = True,
) -> None:
    """Something like the demo; the last two methods have IL, losses hold NaN, infinity and null.

    Without records it is what a run wrote before it kept time by part and what it selected.
    """
    write_plan(out, methods, range(seeds), baseline=list(methods)[1 % len(methods)], steps=steps)
    for place, method in enumerate(methods):
        rho = with_il and place >= len(methods) - 2
        for seed in range(seeds):
            rng = random.Random(100 * place + seed)
            records: list[dict[str, Any]] = []
            for index in range(41):
                step, seconds = index * steps // 40, 0.1 * index * (1 + rho)
                if index:
                    noisy = min(160, int(16 * (1 + place) * rng.uniform(0.8, 1.2)))
                    correct = int(160 * (1 - math.exp(-index / 10)) * rng.uniform(0.9, 1.0))
                    counts: dict[str, Any] = {"selected": 160, "correct": correct}
                    counts["noisy"] = noisy if noise_known else None
                    if with_records:
                        counts |= {"less_relevant": noisy // 2, "redundant": noisy // 3}
                        counts["unsure"] = noisy // 4
                    records.append({"event": "train", "step": step, "loss": 1.0, **counts})
                level = 0.9 + 0.01 * place - 0.3 * (place == 2)
                accuracy = level * (1 - 0.96 * math.exp(-index / 4)) + rng.uniform(-0.01, 0.01)
                accuracy = min(1.0, max(0.0, accuracy))
                evaluation = {
                    "event": "eval",
                    "step": step,
                    "accuracy": accuracy,
                    "seconds": seconds,
                }
                if with_records and index == 40:
                    evaluation["class_accuracy"] = [accuracy, 0.5 * accuracy, None, accuracy**2]
                records.append(evaluation)
                if with_records and place > 1 and index in (8, 16, 24, 32):
                    counts = {"selected": 300, "again": 200 - 5 * index if index > 8 else None}
                    records.append({"event": "epoch", "step": step, "epoch": index // 8, **counts})
                if index in (20, 40):
                    il = [rng.expovariate(2.0) for _ in range(320)]
                    loss: list[Any] = [value + rng.gauss(0.2, 0.2) for value in il]
                    loss[:3] = [math.nan, math.inf, None]
                    selected = [i % 10 == 0 for i in range(320)]
                    records.append(
                        {
                            "event": "sample",
                            "step": step,
                            "ids": list(range(320)),
                            "loss": loss,
                            "il": il if rho else None,
                            "selected": selected,
                            "noisy": [i % 9 == 0 for i in range(320)] if noise_known else None,
                        }
                    )
            last = end(steps, 4.0 * rho)
            if with_records:
                last |= totals(place, steps) | {"noisy": 1 / 9 if noise_known else None}
            path = write_run(out, method, seed, [*records, last])
            if with_records and place > 1:
                path.with_name("selected.json").write_text(json.dumps(what_was_selected()))


def totals(place: int, steps: int) -> dict[str, Any]:
    """The times and counts of an end record."""
    parts = {"loading": 1.0, "scoring": 2.0 * place, "selecting": 1.0, "training": 4.0}
    parts |= {"evaluation": 3.0, "other": 0.5}
    return {
        "part_seconds": parts,
        "epochs": steps / 50,
        "batch": 32,
        "large_batch": 320,
        "scored": 320 * steps,
        "trained": 32 * steps,
    }


def what_was_selected() -> dict[str, Any]:
    """A `selected.json` with every kind of example, and names that must be escaped."""
    known = {"noisy": True, "il": 0.25, "loss": 1.5, "seen": 9, "selected": 7}
    unknown = {"noisy": None, "il": None, "loss": None, "seen": 3, "selected": 0}
    views: list[dict[str, Any]] = [{"image": PIXEL}, {"text": f"{NASTY} " * 9}]
    views.append({"features": [0.5, -1.0, 2.0]})
    return {
        "classes": ["plain", NASTY, "third", "a name of some length"],
        "seen": 900,
        "examples": [400, 300, 200, 100],
        "selected": [100, 600, 0, 300],
        "never": 40,
        "never_noisy": 10,
        "most_selected": [{"id": i, "label": i, **known, **v} for i, v in enumerate(views)],
        "never_selected": [{"id": 9, "label": 2 * i, **unknown, **v} for i, v in enumerate(views)],
    }
