"""The programs in examples/ run, and learn something."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from .launch import ROOT, launch

EXAMPLES = ROOT / "examples"
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not EXAMPLES.exists(), reason="outside of the source tree"),
]


@pytest.mark.parametrize(
    ("name", "needed", "steps"),
    [
        ("plain_loop", "torch", 225),
        ("lightning_module", "lightning", 135),
        ("transformers_trainer", "datasets", 110),
        ("language_model", "datasets", 80),
    ],
)
def test_example(
    name: str,
    needed: str,
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(needed, reason=f"no {needed}: see the extras of rho-ext")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capfd.readouterr().out
    assert f"{steps} steps" in shown
    ((what, found),) = re.findall(r"test (accuracy|loss) ([\d.]+)", shown)
    # How often each byte occurs gives a loss of 3.3.
    assert float(found) > 35.0 if what == "accuracy" else float(found) < 2.9


def test_most_labels_that_look_wrong_are(capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "find_wrong_labels.py"), run_name="__main__")
    shown = capfd.readouterr().out
    (shares,) = re.findall(r"(\d+)% of them are, and (\d+)% of all wrong ones", shown)
    assert min(map(int, shares)) > 60


@pytest.mark.slow
def test_two_processes() -> None:
    pytest.importorskip("accelerate", reason="no accelerate: pip install 'rho-ext[transformers]'")
    done = launch(2, EXAMPLES / "accelerate_two_processes.py")
    found = re.findall(r"process \d saw 7200 .* selected 720, test accuracy (\S+)%", done.stdout)
    # Both have the same model.
    assert len(found) == 2
    assert found[0] == found[1]
    assert float(found[0]) > 35.0
