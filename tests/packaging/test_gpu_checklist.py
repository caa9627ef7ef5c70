"""The check-list for a GPU, as far as a machine without one can test it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    return module


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_step_that_fails_or_hangs_takes_no_other_with_it(gpu: ModuleType, tmp_path: Path) -> None:
    sleeping = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    child = f"import subprocess, sys; subprocess.run({sleeping})"
    steps = [
        gpu.Step("right", python("print('fine')"), 600),
        gpu.Step("wrong", python("raise SystemExit('broken')"), 600),
        gpu.Step("killed", python("import os; os.kill(os.getpid(), 9)"), 600),
        gpu.Step("hangs", python(child), 1),
        gpu.Step("lacking", python(""), 600, modules=("no_such_module",)),
        gpu.Step("toolless", python(""), 600, tools=("no-such-tool",)),
        gpu.Step("fileless", python(""), 600, files=("right.log", "no-such.csv")),
        gpu.Step("told", python("import os; print(os.environ['TOLD'])"), 600,
                 environment=(("TOLD", "yes"),)),
    ]  # fmt: skip
    assert gpu.check(steps, tmp_path, minutes=100) == 3
    results = [json.loads(line) for line in (tmp_path / "summary.jsonl").read_text().splitlines()]
    outcomes = {result["step"]: (result["outcome"], result["reason"]) for result in results}
    assert outcomes == {
        "right": ("ok", ""),
        "wrong": ("failed", "exit status 1"),
        "killed": ("failed", "exit status -9"),
        "hangs": ("failed", "took longer than 1 s"),
        "lacking": ("skipped", "Python has no no_such_module"),
        "toolless": ("skipped", "no-such-tool is not on the PATH"),
        "fileless": ("skipped", "no step has left no-such.csv"),
        "told": ("ok", ""),
    }
    assert (tmp_path / "right.log").read_text() == "fine\n"
    assert "broken" in (tmp_path / "wrong.log").read_text()
    assert (tmp_path / "told.log").read_text() == "yes\n"


def test_what_the_minutes_do_not_cover_is_said(gpu: ModuleType, tmp_path: Path) -> None:
    steps = [gpu.Step("late", python("print('never')"), 600)]
    assert gpu.check(steps, tmp_path, minutes=0.1) == 0
    result = json.loads((tmp_path / "summary.jsonl").read_text())
    assert (result["outcome"], result["reason"]) == ("skipped", "the minutes are over")
    assert not (tmp_path / "late.log").exists()


def test_results_are_on_the_disk_before_the_next_step(gpu: ModuleType, tmp_path: Path) -> None:
    """A step reads the summary of those before it."""
    look = "import pathlib; print(pathlib.Path('summary.jsonl').read_text())"
    steps = [gpu.Step("first", python(""), 600), gpu.Step("second", python(look), 600)]
    assert gpu.check(steps, tmp_path, minutes=100) == 0
    assert '"first"' in (tmp_path / "second.log").read_text()


def test_every_step_names_files_that_are_there(gpu: ModuleType) -> None:
    for quick in (False, True):
        steps = gpu.all_steps(quick)
        assert len({step.name for step in steps}) == len(steps)
        scripts = [Path(part) for step in steps for part in step.command if part.endswith(".py")]
        assert len(scripts) >= 8
        assert all(script.is_file() for script in scripts)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py")],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout.startswith("benchmarks.gpu: there is no NVIDIA GPU here")
    assert len(result.stdout.splitlines()) == 1


def test_an_unknown_step_is_an_error(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--steps", "build,grids"])
    assert "'grids' is none of build, doctor" in capsys.readouterr().err
