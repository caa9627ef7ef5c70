"""Results of `plan`, on a clock that only the work moves."""

from __future__ import annotations

import math
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import IndexedDataset, plan, planning
from rho_train.cli import main
from rho_train.planning import Plan, PlanRow
from rho_train.sampler import loader

N = 100


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)


def data(*shape: int) -> IndexedDataset:
    return IndexedDataset(TensorDataset(torch.randn(N, *shape), torch.arange(N) % 3))


def timed(clock: Clock, seconds: float) -> IndexedDataset:
    """Take so long to load an example."""

    def collate(examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        clock.now += seconds * len(examples)
        return tuple(torch.stack(column) for column in zip(*examples, strict=True))

    plain = data(2)
    clock.now = 0.0
    return IndexedDataset(plain.dataset, labels=plain.labels, collate_fn=collate)


def test_the_arithmetic_by_hand(clock: Clock) -> None:
    """A point takes 1/8 s to load, 1/2 s to score (1/4 in bf16, 1/8 by proxy), 1 s to train on."""
    model, proxy = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(module: nn.Module, batch: Any) -> Tensor:
        n = len(batch[0])
        if torch.is_inference_mode_enabled():
            bf16 = torch.is_autocast_enabled("cpu")
            clock.now += n / 8 if module is proxy else n / 4 if bf16 else n / 2
        else:
            clock.now += 16 + n  # whatever the batch, 16 s
        logits: Tensor = module(batch[0])
        return logits

    options: Any = {"batch": 4, "ratios": (2, 5), "proxy": proxy, "forward": forward}
    found = plan(model, timed(clock, 1 / 8), **options, seconds=1.0)
    assert (found.load, found.train, found.uniform) == (0.5, 20.0, 20.5)
    # load, select and the sum with 20 s of training
    expected = {
        ("plain", 2): (1.0, 4.0, 25.0),
        ("plain", 5): (2.5, 10.0, 32.5),
        ("bf16", 2): (1.0, 2.0, 23.0),
        ("bf16", 5): (2.5, 5.0, 27.5),
        ("proxy", 2): (1.0, 1.0, 22.0),
        ("proxy", 5): (2.5, 2.5, 25.0),
    }
    assert {(r.option, r.ratio): (r.load, r.select, r.step) for r in found.rows} == expected
    for row in found.rows:
        assert row.large_batch == 4 * row.ratio
        assert row.cost == row.step / 20.5
    # 27.5 s are not within 5 % of 25.
    assert (found.first.option, found.first.large_batch) == ("proxy", 20)
    assert found.notes == ("compiled: left out, no compiler here",)
    printed = str(found)
    assert re.search(r"^proxy +20 +2500.0 +2500.0 +25000.0 +1.22$", printed, re.M)
    assert printed.endswith("\nTo score, try first: large batches of 20, proxy scoring")


def test_what_to_try_first() -> None:
    times: dict[str, Any] = {"load": 9.0, "select": 1.5, "cost": 3.0}
    row = PlanRow(option="plain", ratio=3, large_batch=96, step=10.4, **times)
    quick = replace(row, option="bf16", load=3.0, step=10.0)
    others = (replace(quick, ratio=2, step=1.0), replace(quick, ratio=10, step=1.0))
    options: dict[str, Any] = {"small_batch": 32, "load": 3.0, "train": 2.0, "uniform": 3.0}
    found = Plan(**options, rows=(*others, row, quick), notes=())
    # Within 5 % of the quickest, and simpler.
    assert found.first is row
    assert "The loader is slower than the rest of a step: make it faster first" in f"{found}"
    quicker = replace(found, rows=(row, replace(quick, step=9.0)))
    assert quicker.first.option == "bf16"
    assert "The loader is slower" not in f"{quicker}"
    assert replace(found, rows=others).first is others[0]


def test_loading_in_workers_counts_only_beyond_the_step(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(module: nn.Module, batch: Any) -> Tensor:
        clock.now += 5.0
        logits: Tensor = module(batch[0])
        return logits

    def whole(seconds: float) -> tuple[float, float]:
        # Without processes, which would not share the clock.
        own = timed(clock, seconds)
        found = plan(nn.Linear(2, 3), own, batch=4, ratios=(2,), forward=forward, workers=2)
        return found.uniform, found.rows[0].step

    monkeypatch.setattr(planning, "loader", lambda data, sampler, workers: loader(data, sampler))
    assert whole(1.0) == (5.0, 10.0)
    assert whole(2.0) == (8.0, 16.0)


def test_images_and_nothing_is_left_behind() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten())
    model[1].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    proxy, images = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), data(1, 3, 3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = plan(model, images, batch=4, ratios=[2], proxy=proxy, seconds=0.05)
    options = [row.option for row in found.rows]
    assert options == ["plain", "bf16", "proxy"]
    assert found.train > 0.0
    assert all(row.select > 0.0 for row in found.rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_model_that_does_not_run_is_no_note() -> None:
    with pytest.raises(ValueError, match="plan: the model cannot take the batch .*shapes"):
        plan(nn.Linear(7, 3), data(2), batch=4, ratios=[2], seconds=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be finite and at least 1, got 0"),
        ({"workers": -1}, "workers must be finite and at least 0, got -1"),
        ({"ratios": ()}, r"ratios must be different integers of at least 2.*got \[\]"),
        ({"ratios": (1, 2)}, r"got \[1, 2\]"),
        ({"ratios": (2, 2)}, r"got \[2, 2\]"),
        ({"seconds": -1.0}, "seconds must be finite and at least 0, got -1.0"),
        ({"seconds": math.nan}, "seconds must be finite"),
        (
            {"ratios": (4,)},
            "batches of 128 examples are more than the 100 of .*; give smaller ratios",
        ),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(nn.Linear(2, 3), data(2), **options)


TASK = """
import torch
from torch.utils.data import TensorDataset
from rho_train import Task

def task():
    data = TensorDataset(torch.randn(60, 2), torch.arange(60) % 3)
    make = lambda seed: torch.nn.Linear(2, 3)
    return Task(name="mine", train=data, test=data, make_model=make)

def half():
    return torch.nn.Linear(2, 3)
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = ["plan", "--seconds=0.05", "--ratios=[2,3]", "--train.batch=4"]
    assert main([*options, "--task=my_task:task", "--device=cpu"]) == 0
    printed = capfd.readouterr().out
    assert "A uniform step on 4 examples" in printed
    assert {*re.findall(r"^plain +(\d+) ", printed, re.MULTILINE)} == {"8", "12"}
    assert main([*options, "--task.hidden=[8]", "--proxy.hidden=[4]"]) == 0
    printed = capfd.readouterr().out
    assert re.search(r"^proxy +12 ", printed, re.MULTILINE)
    for task, message in (
        ("my_task", "module:function, got 'my_task'"),
        ("no_such_module:task", "No module named 'no_such_module'"),
        ("my_task:other", "my_task has no function 'other'"),
        ("my_task:half", "must return a rho_train.Task, got Linear"),
    ):
        assert main([*options, f"--task={task}"]) == 2
        assert message in capfd.readouterr().err
