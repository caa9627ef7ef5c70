"""The check-list for a GPU, as far as a machine without one can test it."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Module = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(importlib.import_module("common"), "_busy", lambda: "0.00")
    return lambda name: importlib.import_module(f"gpu.{name}")


def summary(folder: Path) -> dict[str, tuple[str, str]]:
    results = [json.loads(line) for line in (folder / "summary.jsonl").read_text().splitlines()]
    return {result["step"]: (result["outcome"], result["reason"]) for result in results}


def test_a_step_that_fails_or_hangs_takes_no_other_with_it(module: Module, tmp_path: Path) -> None:
    gpu = module("__main__")
    sleeping = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    child = f"import subprocess, sys; subprocess.run({sleeping})"
    look = (
        "import os, pathlib; print(os.environ['TOLD'], pathlib.Path('summary.jsonl').read_text())"
    )
    steps = [
        gpu.Step("right", ("-c", "print('fine')"), 600),
        gpu.Step("wrong", ("-c", "raise SystemExit('broken')"), 600),
        gpu.Step("killed", ("-c", "import os; os.kill(os.getpid(), 9)"), 600),
        gpu.Step("hangs", ("-c", child), 1),
        gpu.Step("lacking", (), 600, modules=("no_such_module",)),
        gpu.Step("toolless", (), 600, tools=("no-such-tool",)),
        gpu.Step("told", ("-c", look), 600, environment={"TOLD": "yes"}),
    ]
    assert gpu.check(steps, tmp_path, minutes=100) == 3
    assert summary(tmp_path) == {
        "right": ("ok", ""),
        "wrong": ("failed", "exit status 1"),
        "killed": ("failed", "exit status -9"),
        "hangs": ("failed", "took longer than 1 s"),
        "lacking": ("skipped", "Python has no no_such_module"),
        "toolless": ("skipped", "no-such-tool is not on the PATH"),
        "told": ("ok", ""),
    }
    assert (tmp_path / "right.log").read_text() == "fine\n"
    assert "broken" in (tmp_path / "wrong.log").read_text()
    # Each step finds the results of those before it on the disk.
    assert '"toolless"' in (tmp_path / "told.log").read_text()
    steps = [gpu.Step("late", ("-c", "print('never')"), 600)]
    assert gpu.check(steps, tmp_path, minutes=0.1) == 0
    assert summary(tmp_path) == {"late": ("skipped", "the minutes are over")}
    assert not (tmp_path / "late.log").exists()


def test_every_step_is_there(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = module("__main__")
    steps = gpu.all_steps("90")
    assert len({step.name for step in steps}) == len(steps) > 12
    for step in steps:
        for argument in step.arguments:
            if argument.endswith(".py"):
                assert Path(argument).is_file()
            if argument.startswith("gpu."):
                assert callable(module(argument.removeprefix("gpu.")).main)
    assert steps[0].environment == {"CUDAARCHS": "90-real"} or "CUDAARCHS" in os.environ
    with pytest.raises(SystemExit):
        gpu.main(["--steps", "build,grids"])
    assert "'grids' is none of build, gpu" in capsys.readouterr().err


def test_the_steps_of_the_op_on_the_cpu(
    module: Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but the device, on a few sizes."""
    speed, checks, out = module("speed"), module("checks"), tmp_path / "speed.csv"
    sizes = ((40, 30, torch.bfloat16), (20, 10, torch.float32))
    monkeypatch.setattr(speed, "SIZES", sizes)
    monkeypatch.setattr(speed, "CEILING", 1 << 12)
    assert speed.main(["--device=cpu", "--seconds=0", f"--out={out}"]) == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["plan"] for row in rows[:4]] == ["read_sum", "read_largest", "copy", "empty"]
    found = [(row["stage"], row["n"], row["k"], row["predicted_us"] != "") for row in rows[4:]]
    assert found == [
        *(("score", "40", "0", False), ("select", "40", "1", False), ("select", "40", "4", True)),
        *(("score", "20", "0", False), ("select", "20", "1", False), ("select", "20", "2", True)),
    ]
    assert not any(row["error"] for row in rows)
    monkeypatch.setattr(checks, "SIZES", ((64, 10),))
    assert checks.main(["--device=cpu", "--repeats=2"]) == 0
    monkeypatch.setattr(checks, "same", lambda a, b: False)
    assert checks.main(["--device=cpu", "--repeats=2", "--every=9"]) == 1
    # One that fails hides no other.
    shown = capsys.readouterr().out.splitlines()[-3:]
    assert ["FAILED: AssertionError" in line for line in shown] == [False, True, False]


def test_the_page_shows_what_the_model_predicts(module: Module) -> None:
    model, page = module("model"), (BENCHMARKS / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) x (\d+) (\w+) \| (.*?) \| (.*?) \| (.*?) \|", page, re.MULTILINE)
    assert rows
    for rows_text, classes, dtype, *told in rows:
        n = int(rows_text)
        size = n, int(classes), getattr(torch, dtype).itemsize
        us = model.rows_us(*size), model.top_k_us(*size, n // 10), model.select_us(*size, n // 10)
        assert told == [f"{one:.1f}" if one < 10 else f"{one:,.0f}" for one in us], size


def test_the_training_step_on_the_cpu(module: Module) -> None:
    assert module("training").main(["--device=cpu"]) == 0


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path)],
        cwd=BENCHMARKS.parent,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout.startswith("benchmarks.gpu: there is no NVIDIA GPU here")
    assert len(result.stdout.splitlines()) == 1
