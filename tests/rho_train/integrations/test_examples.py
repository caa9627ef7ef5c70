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
    ("name", "needed", "steps", "reached"),
    [
        ("plain_loop", "torch", 225, 35.0),
        ("ddp", "torch", 100, 35.0),
        ("lightning_module", "lightning", 135, 35.0),
        ("transformers_trainer", "datasets", 110, 35.0),
        ("language_model", "datasets", 80, 2.9),  # how often each byte occurs gives 3.3
        ("trl_sft", "trl", 30, 0.2),  # all tokens, those of wrong answers too, give 0.28
    ],
)
def test_example(
    name: str,
    needed: str,
    steps: int,
    reached: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(needed, reason=f"no {needed}: see the extras of rho-ext")
    monkeypatch.chdir(tmp_path)
    # As torchrun does for one process.
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for variable, value in ranks.items() if name == "ddp" else ():
        monkeypatch.setenv(variable, value)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capfd.readouterr().out
    assert f"{steps} steps" in shown
    ((what, found),) = re.findall(r"test (accuracy|loss) ([\d.]+)", shown)
    assert float(found) > reached if what == "accuracy" else float(found) < reached


def test_most_labels_that_look_wrong_are(capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "find_wrong_labels.py"), run_name="__main__")
    shown = capfd.readouterr().out
    (shares,) = re.findall(r"(\d+)% of them are, and (\d+)% of all wrong ones", shown)
    assert min(map(int, shares)) > 60


@pytest.mark.slow
def test_two_processes() -> None:
    pytest.importorskip("accelerate", reason="no accelerate: pip install 'rho-ext[transformers]'")
    done = launch(2, EXAMPLES / "accelerate_two_processes.py")
    # Both have the same model. Their lines may have come to stand in one.
    said = r"process \d saw 7200 examples and selected 720, test accuracy ([\d.]+)%"
    found = re.findall(said, done.stdout)
    assert len(found) == 2
    assert found[0] == found[1]
    assert float(found[0]) > 35.0
