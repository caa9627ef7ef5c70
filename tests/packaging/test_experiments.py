"""The suites of experiments: all are possible, and the runner goes on where it was killed."""

from __future__ import annotations

import csv
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from rho_train.experiment import load_experiment

SUITES = Path(__file__).parents[2] / "benchmarks" / "experiments"
TINY: dict[str, Any] = {
    "letter": "a",
    "title": "Tiny",
    "question": "Does it run?",
    "experiment": {
        "methods": [
            "uniform_all",
            "uniform_all_decay",
            "rho_crossfit",
            "rho_crossfit_decay",
            "all_minutes_charged",
        ],
        "baseline": "uniform_all_decay",
        "seeds": [0, 1],
        "validation": 0.1,
        "il": {"epochs": 1},
        "il_model": {"widths": [8]},
        "train": {"steps": 100, "eval_every": 20},
    },
    "vary": {
        "set": ["Letters"],
        "target": {"one": {}, "two": {"model": {"widths": [8]}}},
    },
    "quick": {"experiment": {"train.steps": 40}},
    "against": ["uniform_all_decay", "all_minutes_charged"],
    "ours": ["rho_crossfit"],
    "columns": ["correct", "worst_class"],
    "figures": ["curves", "minutes", "differences", "worst_class", "factors", "shares"],
}


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SUITES)
    return importlib.import_module("suite")


def test_all_suites_are_possible(suite: ModuleType) -> None:
    letters = set()
    for name in suite.names():
        for variant in suite.VARIANTS:
            found = suite.load(name, variant)
            letters.add(found.letter)
            for cell in found.cells:
                if variant == "full" and cell.rates is not None:
                    # Their rates are known when the full tuning was run.
                    cell = replace(cell, rates=None)
                config = cell.config(Path("data"))
                # What the results claim: seeds enough, and nothing chosen on the test set.
                assert len(config.seeds) >= 5 or found.tune, name
                assert config.validation > 0, name
                if not found.tune:
                    names = {method.name for method in config.methods}
                    assert {*found.against, *found.ours} <= names, name
                    assert (
                        any(
                            method.select == "uniform"
                            and config.of(method).train.schedule != "constant"
                            for method in config.methods
                        )
                        or found.letter == "b"
                    ), name
            slugs = [cell.slug for cell in found.cells]
            assert len(set(slugs)) == len(slugs), name
    assert letters >= set("abcdefghi")


def test_entries_of_methods(suite: ModuleType) -> None:
    two = suite.methods([{"use": "rho_crossfit", "grid": {"il_model.widths": [[8], [16, 4]]}}])
    assert [m["name"] for m in two] == ["rho_crossfit-widths-8", "rho_crossfit-widths-16x4"]
    assert [m["overrides"] for m in two] == [{"il_model.widths": [8]}, {"il_model.widths": [16, 4]}]
    grid = {"il.epochs": [3, 6], "il.lr": [0.1]}
    product = suite.methods([{"use": "rho_crossfit", "grid": grid}])
    assert [m["label"] for m in product] == [
        "RHO-LOSS, all, epochs 3, lr 0.1",
        "RHO-LOSS, all, epochs 6, lr 0.1",
    ]
    assert [m["overrides"]["il.epochs"] for m in product] == [3, 6]
    with pytest.raises(ValueError, match="no method 'best' in _methods.yaml"):
        suite.methods(["best"])


def test_rates_come_from_the_tuning(
    suite: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = importlib.import_module("rates")
    monkeypatch.setattr(rates, "_RESULTS", tmp_path)
    methods = suite.methods(
        ["uniform_all", "all_minutes_reused", "rho_crossfit_decay", "rho_crossfit"]
    )
    methods[3]["overrides"]["train.lr"] = 0.5
    with pytest.raises(ValueError, match="rates of t: it has no results yet"):
        rates.Rates("t", "full", "x").give(methods)
    (tmp_path / "t-quick").mkdir()
    kinds = {"uniform_all": (1, 3), "uniform_all_decay": (2, 1), "rho_crossfit_decay": (0.5, 0.6)}
    rows = [f"x,{kind}-lr-{i}e-05,{of[i]},3" for kind, of in kinds.items() for i in (0, 1)]
    others = ["y,uniform_all-lr-9,9,3", "z,uniform_all-lr-9,9,3", "z,uniform_all-lr-8,9,2"]
    others += ["v,uniform_all-lr-9,9,3", "v,uniform_all-lr-8,9,3", "v,rho_crossfit-lr-9,9,3"]
    text = "\n".join(["cell,method,validation,seeds", *rows, *others])
    (tmp_path / "t-quick" / "methods.csv").write_text(text)
    rates.Rates("t", "full", "x").give(methods)
    given = [method["overrides"]["train.lr"] for method in methods]
    assert given == [1e-05, 0e-05, 1e-05, 0.5]
    refused = {
        "w": "t-quick has no results for 'w'",
        "y": "'y' has no results for uniform_all_decay",
        "z": "t-quick has not all results for 'z'",
        "v": "t-quick has not all results for 'v'",
    }
    for method in methods[:3]:
        del method["overrides"]["train.lr"]
    for cell, message in refused.items():
        with pytest.raises(ValueError, match=message):
            rates.Rates("t", "quick", cell).give(methods)


def command(folder: Path) -> list[str]:
    places = {"suites-in": "suites", "out": "runs", "results": "results"}
    options = [f"--{option}={folder / place}" for option, place in places.items()]
    return [sys.executable, str(SUITES), "run", "--quick", "--processes=1", *options]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder),
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_suite_goes_on_and_leaves_a_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", exc_type=ImportError)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    process = start(tmp_path)
    deadline = time.monotonic() + 120
    while not (done := list(tmp_path.glob("runs/*/*/runs/*/test.json"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = {path: path.stat().st_mtime_ns for path in done}
    again = start(tmp_path)
    printed, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "page: " in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # Both targets use one store a seed.
    assert len(list(tmp_path.glob("runs/tiny-quick/il/*.safetensors"))) == 2

    # One of them alone, by rho-ext experiment.
    for file in tmp_path.glob("runs/tiny-quick/*/experiment.yaml"):
        assert load_experiment(file).train.steps == 40

    results = tmp_path / "results"
    with open(results / "results" / "tiny-quick" / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5 * 2
    assert {row["steps"] for row in rows if row["method"] != "all_minutes_charged"} == {"40"}
    needed = ("command", "seed", "commit", "machine", "torch", "rho_ext", "python", "date")
    assert all(row[name] for row in rows for name in needed)
    assert all(row["test_accuracy"] and row["validation_accuracy"] for row in rows)
    assert {row["targets_of_il"] for row in rows if row["method"] == "rho_crossfit"} == {"2"}

    page = (results / "RESULTS.md").read_text()
    assert "## (a) Tiny" in page
    assert "Against “Uniform, all, decayed”, “RHO-LOSS, all” ends higher" in page
    linked = re.findall(r"\]\((figures/[^)]+)\)", page)
    assert len(linked) == 6
    assert all((results / path).read_text().startswith("<?xml") for path in linked)
    # The page and the figures are made from the CSV files alone.
    figures = {path: (results / path).read_bytes() for path in linked}
    arguments = ["page", f"--suites-in={tmp_path / 'suites'}", f"--results={results}"]
    subprocess.run([sys.executable, str(SUITES), *arguments], cwd=tmp_path, check=True)
    assert (results / "RESULTS.md").read_text() == page
    assert {path: (results / path).read_bytes() for path in linked} == figures

    # A run that ends before it has as much leaves the rows that are there, and so does a folder of
    # other runs.
    tables = {path: path.read_bytes() for path in results.glob("results/*/*.csv")}
    assert len(tables) == 4
    for target in ("one", "two"):
        blocked = tmp_path / "blocked" / "tiny-quick" / f"letters-{target}"
        blocked.parent.mkdir(parents=True, exist_ok=True)
        blocked.write_text("in the way")
    changed = TINY | {"experiment": TINY["experiment"] | {"validation": 0.2}}
    for out, suite in (("blocked", TINY), ("runs", changed)):
        (tmp_path / "suites" / "tiny.yaml").write_text(yaml.safe_dump(suite))
        ended = [*command(tmp_path), f"--out={tmp_path / out}"]
        assert subprocess.run(ended, cwd=tmp_path, check=False).returncode == 1
        assert {path: path.read_bytes() for path in tables} == tables

    # Rows of settings that the suite no longer has are no reason to stop.
    other = TINY | {"vary": TINY["vary"] | {"target": {"three": {}}}}
    (tmp_path / "suites" / "tiny.yaml").write_text(yaml.safe_dump(other))
    subprocess.run([sys.executable, str(SUITES), *arguments], cwd=tmp_path, check=True)
