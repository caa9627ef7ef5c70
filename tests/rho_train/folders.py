"""Folders of comparisons, made up."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rho_train.comparison.jobs import run_path
from rho_train.records import to_line

NASTY = 'Loss <b> & "quotes"'
FIVE = {
    "half": "Uniform, not held-out half",
    "all": "Uniform, all data",
    "loss": "Training loss",
    "holdout": "RHO-LOSS, holdout IL",
    "crossfit": NASTY,
}
# Those of a comparison without selection, whose examples have no flags.
PLAIN = {"accuracy-steps", "accuracy-seconds", "correct", "time", "classes"}
FIGURES = {*PLAIN, "noisy", "less_relevant", "redundant", "unsure", "overlap"}
# A red pixel.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3"
    "A0FDAAAAAElFTkSuQmCC"
)
QUADRANTS = {"quadrant-3", "quadrant-4"}


DATA = {"task": "made up", "train": {"n": "900", "labels": "0"}, "test": {"n": "90"}, "flags": {}}


def write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_line(values), encoding="utf-8")


def write_plan(
    out: Path, methods: dict[str, str], seeds: Sequence[int], *, baseline: str, steps: int
) -> None:
    plan = {
        "title": "RHO-LOSS on <synthetic> & noisy data",
        "description": "Made up.",
        "methods": [{"name": n, "label": label, "steps": None} for n, label in methods.items()],
        "seeds": list(seeds),
        "baseline": baseline,
        "steps": steps,
        "config": {"data": DATA, "validation": 0.0, "train": {"batch": 32}, "model": "x" * 120},
        "environment": {"python": "3.11", "threads": 2},
    }
    write(out / "experiment.json", plan)


def write_run(out: Path, method: str, seed: int, records: Sequence[dict[str, Any]]) -> Path:
    """Write the metrics of a run and, if it is finished, the result on the test set."""
    path = run_path(out, method, seed) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (to_line({**record, "method": method, "seed": seed}) for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    if records[-1]["event"] == "end":
        accuracy = next(one["accuracy"] for one in records[::-1] if one["event"] == "eval")
        by_class = [accuracy, 0.5 * accuracy, None, accuracy**2]
        write(path.with_name("test.json"), {"accuracy": accuracy, "class_accuracy": by_class})
    return path


def end(step: int, il_seconds: float = 0.0, place: int = 0) -> dict[str, Any]:
    """The last record of a run; its scoring takes longer with its place."""
    parts = {"loading": 1.0, "scoring": 2.0 * place, "selecting": 1.0, "training": 4.0}
    return {
        **{"event": "end", "step": step, "seconds": 0.1 * step, "il_seconds": il_seconds},
        "part_seconds": {**parts, "evaluation": 3.0, "other": 0.5},
        **{"epochs": step / 50, "batch": 32, "large_batch": 320},
        **{"scored": 320 * step, "trained": 32 * step, "noisy": None},
    }


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
    selecting: bool = True,
    steps: int = 2000,
) -> None:
    """Something like the demo; the last two methods have IL, the first two do not select."""
    write_plan(out, methods, range(seeds), baseline=list(methods)[1 % len(methods)], steps=steps)
    for place, method in enumerate(methods):
        selects = selecting and (place > 1 or len(methods) == 1)
        rho = selects and place >= len(methods) - 2
        for seed in range(seeds):
            rng = random.Random(100 * place + seed)
            records: list[dict[str, Any]] = []
            for index in range(41):
                step = index * steps // 40
                seconds = 0.1 * step * (1 + rho)
                if index:
                    noisy = min(160, int(16 * (1 + place) * rng.uniform(0.8, 1.2)))
                    correct = int(160 * (1 - math.exp(-index / 10)) * rng.uniform(0.9, 1.0))
                    counts: dict[str, Any] = {"selected": 160, "correct": correct, "noisy": None}
                    if noise_known:
                        counts |= {"noisy": noisy, "less_relevant": noisy // 2}
                        counts |= {"redundant": noisy // 3, "unsure": noisy // 4}
                    records.append({"event": "train", "step": step, "loss": 1.0, **counts})
                level = 0.9 + 0.01 * place - 0.3 * (place == 2)
                accuracy = level * (1 - 0.96 * math.exp(-index / 4)) + rng.uniform(-0.01, 0.01)
                accuracy = min(1.0, max(0.0, accuracy))
                records.append(
                    {"event": "eval", "step": step, "accuracy": accuracy, "seconds": seconds}
                )
                if selects and index in (8, 16, 24, 32):
                    counts = {"selected": 300, "again": 200 - 5 * index if index > 8 else None}
                    records.append({"event": "epoch", "step": step, "epoch": index // 8, **counts})
                if selects and index in (20, 40):
                    il = [rng.expovariate(2.0) for _ in range(320)]
                    loss = [value + rng.gauss(0.2, 0.2) for value in il]
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
            last = end(steps, 4.0 * rho, place) | {"seconds": 0.1 * steps * (1 + rho)}
            last["noisy"] = 1 / 9 if noise_known else None
            path = write_run(out, method, seed, [*records, last])
            if selects:
                write(path.with_name("selected.json"), what_was_selected())


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
        "tied": 1,
        "most_selected": [{"id": i, "label": i, **known, **v} for i, v in enumerate(views)],
        "never_selected": [{"id": 9, "label": 2 * i, **unknown, **v} for i, v in enumerate(views)],
    }
