"""Folders of comparisons, made up."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rho_train.comparison.jobs import run_path
from rho_train.files import to_line

NASTY = 'Loss <b> & "quotes"'
FIVE = {
    "half": "Uniform, not held-out half",
    "all": "Uniform, all data",
    "loss": "Training loss",
    "holdout": "RHO-LOSS, holdout IL",
    "crossfit": NASTY,
}
# Those of a comparison without selection, whose examples have no flags.
PLAIN = {"accuracy-steps", "accuracy-cost"}
FIGURES = {*PLAIN, "noisy"}
# A red pixel.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3"
    "A0FDAAAAAElFTkSuQmCC"
)
STEP_COST = 50.0
"""The cost of a uniform step."""


def write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_line(values), encoding="utf-8")


def write_plan(out: Path, methods: dict[str, str], seeds: Sequence[int], *, baseline: str) -> None:
    plan = {
        "title": "RHO-LOSS on <synthetic> & noisy data",
        "description": "Made up.",
        "methods": [{"name": n, "label": label} for n, label in methods.items()],
        "seeds": list(seeds),
        "baseline": baseline,
        "step_cost": {f"{seed}": STEP_COST for seed in seeds},
        "config": {"validation": 0.0, "train": {"batch": 32}, "model": "x" * 120},
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


def cost(step: int, scoring: float = 0.0, il: float = 0.0) -> dict[str, float]:
    """Costs up to a step, from uniform steps: of scoring for each, and of the IL in all."""
    parts = {"training": float(step), "scoring": scoring * step, "il": il}
    return {part: STEP_COST * of for part, of in parts.items()}


def end(step: int, scoring: float = 0.0, il: float = 0.0) -> dict[str, Any]:
    """The last record of a run, which takes 0.1 s a step, and as long for the same cost of IL."""
    spent = {"cost": cost(step, scoring, il), "seconds": 0.1 * step, "il_seconds": 0.1 * il}
    return {"event": "end", "step": step, **spent, "noisy": None}


FAST = 0.5, 25.0
"""Cost of scoring a step, and of the IL, in uniform steps."""


def hand_checkable(out: Path) -> None:
    """Three seeds, evals at 0, 10, 20, 30; every number of the summary can be done by hand."""
    accuracies = {
        "base": [(0.1, 0.5, 0.6, 0.55), (0.1, 0.4, 0.7, 0.9), (0.1, 0.3, 0.4, 0.5)],
        "fast": [(0.1, 0.6, 0.7, 0.8), (0.1, 0.5, 0.8, 0.85), (0.1, 0.2, 0.5, 0.6)],
        "slow": [(0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4), (0.1, 0.5, 0.4, 0.4)],
    }
    write_plan(out, {name: name for name in accuracies}, range(3), baseline="base")
    for method, seeds in accuracies.items():
        for seed, curve in enumerate(seeds):
            records: list[dict[str, Any]] = []
            for index, accuracy in enumerate(curve):
                step = 10 * index
                if step:
                    counts = {"selected": 10, "noisy": (1, 2, 0)[index - 1], "correct": 5}
                    records.append({"event": "train", "step": step, **counts})
                spent = cost(step, *FAST) if method == "fast" else cost(step)
                records.append({"event": "eval", "step": step, "accuracy": accuracy, "cost": spent})
            last = end(30, *FAST) if method == "fast" else end(30)
            write_run(out, method, seed, [*records, last])


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
    write_plan(out, methods, range(seeds), baseline=list(methods)[1 % len(methods)])
    for place, method in enumerate(methods):
        selects = selecting and (place > 1 or len(methods) == 1)
        rho = selects and place >= len(methods) - 2
        for seed in range(seeds):
            rng = random.Random(100 * place + seed)
            records: list[dict[str, Any]] = []
            for index in range(41):
                step = index * steps // 40
                if index:
                    noisy = min(160, int(16 * (1 + place) * rng.uniform(0.8, 1.2)))
                    correct = int(160 * (1 - math.exp(-index / 10)) * rng.uniform(0.9, 1.0))
                    counts: dict[str, Any] = {"selected": 160, "correct": correct, "noisy": None}
                    if noise_known:
                        counts |= {"noisy": noisy}
                    records.append({"event": "train", "step": step, "loss": 1.0, **counts})
                level = 0.9 + 0.01 * place - 0.3 * (place == 2)
                accuracy = level * (1 - 0.96 * math.exp(-index / 4)) + rng.uniform(-0.01, 0.01)
                accuracy = min(1.0, max(0.0, accuracy))
                spent = cost(step, 0.5 * place, 40.0 * rho)
                records.append({"event": "eval", "step": step, "accuracy": accuracy, "cost": spent})
            last = end(steps, 0.5 * place, 40.0 * rho)
            last["noisy"] = 1 / 9 if noise_known else None
            path = write_run(out, method, seed, [*records, last])
            if selects:
                write(path.with_name("selected.json"), what_was_selected())


def what_was_selected() -> dict[str, Any]:
    """A `selected.json` with every kind of example, and names that must be escaped."""
    known = {"noisy": True, "il": 0.25, "loss": 1.5, "seen": 9, "selected": 7}
    unknown = {"noisy": None, "il": None, "loss": None, "seen": 3, "selected": 0}
    views: list[dict[str, Any]] = [{"image": PIXEL}, {"text": f"{NASTY} " * 9}]
    return {
        "classes": ["plain", NASTY, "third", "a name of some length"],
        "never": 40,
        "most_selected": [{"id": i, "label": i, **known, **v} for i, v in enumerate(views)],
        "never_selected": [{"id": 9, "label": 2 * i, **unknown, **v} for i, v in enumerate(views)],
    }
