"""Smoke runs of the experiments on small sets."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from experiments import steering, unequal


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_method_of_steering_keeps_to_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs.csv"
    common = f"steering --data {tmp_path} --out {out} --curated 50 --budgets 60 --seeds 7".split()
    monkeypatch.setattr(sys, "argv", [*common, "--sets", "Letters, unequal"])
    monkeypatch.setattr(steering, "RATES", (0.01,))
    steering.main()
    rows = rows_of(out)
    assert [row["method"] for row in rows] == list(steering.METHODS)
    width, classes = 16, 26
    forward, training = steering.costs(width, *steering.TARGET, classes)
    for row in rows:
        method = steering.METHODS[row["method"]]
        step = 32 * training + method.large * forward
        whole = 60 * 32 * training
        spent = int(row["steps"]) * step + float(row["tuned"]) * whole
        spent += float(row["il_cost"]) * whole
        assert spent <= 1.001 * whole
        # No room for another step; of the online IL model more is counted than here.
        if not method.online and method.small:
            assert spent > 0.999 * whole - 2 * step
        assert float(row["lr"]) == 0.01
    before = out.read_bytes()
    steering.main()
    assert out.read_bytes() == before


def test_remedies_for_rare_classes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "runs.csv"
    common = f"unequal --data {tmp_path} --out {out} --steps 20 --seeds 7".split()
    monkeypatch.setattr(sys, "argv", [*common, "--sets", "Letters", "--noise", "0"])
    unequal.main()
    rows = {row["method"]: row for row in rows_of(out)}
    assert list(rows) == list(unequal.METHODS)
    assert float(rows["RHO-LOSS"]["rare_il"]) > float(rows["RHO-LOSS"]["il"])
    often = {name: float(row["rare_selected"]) for name, row in rows.items()}
    assert often["RHO-LOSS"] < often["IL 0 below 20 examples"]
