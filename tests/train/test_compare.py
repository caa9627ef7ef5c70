"""Paired statistics over seeds, against numbers that can be done by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rho_train.report import compare, format_comparison, read_outcomes
from rho_train.report.compare import Comparison, paired

SECONDS_A_STEP = {"base": 1.0, "fast": 2.0, "slow": 1.0}
# Curves at the steps 0, 10, 20, 30 of three seeds. The targets are the ends of base: .6, .8, .5;
# its maxima, .7 and .9 in the first two, must play no part.
CURVES = {
    "base": [(0.1, 0.5, 0.7, 0.6), (0.1, 0.4, 0.9, 0.8), (0.1, 0.3, 0.4, 0.5)],
    "fast": [(0.1, 0.6, 0.5, 0.7), (0.1, 0.5, 0.85, 0.8), (0.1, 0.2, 0.3, 0.4)],
    "slow": [(0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4), (0.1, 0.5, 0.4, 0.3)],
}
TESTS = {"base": (0.60, 0.80, 0.50), "fast": (0.66, 0.82, 0.48), "slow": (0.40, 0.40, 0.30)}
WORST = {"base": 0.3, "fast": 0.2, "slow": 0.1}


def write_experiment(out: Path, seeds: Sequence[int] = (0, 1, 2)) -> None:
    methods = [
        {"name": name, "label": name.title(), "il": "x" if name == "fast" else "none", "targets": 2}
        for name in CURVES
    ]
    plan = {"title": "t", "methods": methods, "seeds": list(seeds), "baseline": "base"}
    out.mkdir(exist_ok=True)
    (out / "experiment.json").write_text(json.dumps({**plan, "validation": 0.1, "environment": {}}))
    for name, curves in CURVES.items():
        for seed in seeds:
            write_run(out, name, seed, curves[seed])


def write_run(out: Path, name: str, seed: int, curve: Sequence[float]) -> None:
    folder = out / "runs" / f"{name}-seed{seed}"
    folder.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for index, accuracy in enumerate(curve):
        step, seconds = 10 * index, 10 * index * SECONDS_A_STEP[name]
        if index:
            # Correct: 1, 3, 8 of 10. Noisy: 1, 2, 3 of 10.
            counts = {"selected": 10, "correct": (1, 3, 8)[index - 1], "noisy": index}
            records.append({"event": "train", "step": step, **counts})
        records.append({"event": "eval", "step": step, "accuracy": accuracy, "seconds": seconds})
    il_seconds = 30.0 if name == "fast" else 0.0
    records.append({"event": "end", "step": 30, "seconds": seconds, "il_seconds": il_seconds})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    test = {"accuracy": TESTS[name][seed], "class_accuracy": [0.9, None, WORST[name]]}
    (folder / "test.json").write_text(json.dumps(test))
    (folder / "origin.json").write_text("{}")


def rows(out: Path, baseline: str = "base") -> Mapping[str, Comparison]:
    return {row.method: row for row in compare(read_outcomes(out).runs, baseline)}


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    fast, slow = rows(tmp_path)["fast"], rows(tmp_path)["slow"]
    assert fast.gain is not None
    assert slow.gain is not None
    # .06, .02, -.02: mean .02, deviation .04.
    assert (fast.gain.n, fast.gain.ahead) == (3, 2)
    assert fast.gain.mean == pytest.approx(0.02)
    assert fast.gain.error == pytest.approx(0.04 / math.sqrt(3))
    # -.2, -.4, -.2
    assert slow.gain.mean == pytest.approx(-0.8 / 3)
    assert slow.gain.error == pytest.approx(math.sqrt(2 / 3 * 0.02) / math.sqrt(3))
    assert fast.test == pytest.approx(1.96 / 3)
    assert fast.worst_gain is not None
    assert fast.worst_gain.mean == pytest.approx(-0.1)
    assert fast.worst_class == pytest.approx(0.2)


def test_time_to_the_end_of_the_baseline(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    base, fast, slow = (rows(tmp_path)[name] for name in ("base", "fast", "slow"))
    # First at or above .6, .8, .5: base at 20, 20, 30; fast at 10, 20, never; slow in the last.
    assert (base.steps, base.reached, base.factor) == (20, 3, 1.0)
    assert (fast.steps, fast.reached) == (20, 2)
    assert (slow.steps, slow.reached, slow.factor) == (None, 1, None)
    # Factors 20/10, 20/20, 0.
    assert fast.factor == 1.0
    # 20 s, 40 s, never; the IL costs 30 s more, or 15 where two targets share it.
    assert (fast.seconds_reused, fast.seconds_charged, fast.seconds_shared) == (40, 70, 55)
    # 20/20, 20/40, 0; and 20/50, 20/70, 0.
    assert fast.factor_reused == 0.5
    assert fast.factor_charged == pytest.approx(20 / 70)
    assert (fast.charged, fast.shared) == (90, 75)


def test_shares_of_selected_points(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    found = rows(tmp_path)
    assert found["base"].shares["noisy"] == pytest.approx(0.2)
    # The lowest ends are .4, .4, .3; base is there after 10, 10, 10 steps: 1 of 10.
    assert found["base"].shares["correct"] == pytest.approx(0.1)
    # fast after 10, 10, 20: .1, .1, .2.
    assert found["fast"].shares["correct"] == pytest.approx(0.4 / 3)
    assert "less_relevant" not in found["fast"].shares


def test_only_seeds_that_both_finished_are_compared(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    (tmp_path / "runs" / "base-seed0" / "test.json").unlink()
    found = read_outcomes(tmp_path)
    assert found.missing == (("base", 0),)
    fast = rows(tmp_path)["fast"]
    assert fast.finished == 3
    assert fast.gain is not None
    assert (fast.gain.n, fast.gain.ahead) == (2, 1)
    assert "Not finished: Base, seed 0." in format_comparison(found)


def test_one_seed_has_no_error_and_none_no_difference() -> None:
    alone = paired([0.5])
    assert alone is not None
    assert (alone.n, alone.error) == (1, None)
    assert paired([]) is None


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    metrics = tmp_path / "runs" / "fast-seed1" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().rpartition(b'{"event": "end"')[0])
    with pytest.raises(ValueError, match="fast-seed1.* does not end with the end of the run"):
        read_outcomes(tmp_path)
