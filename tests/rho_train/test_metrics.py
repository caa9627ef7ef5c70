"""Metrics of a run, on a clock that moves only where the test says so."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rho_train import IndexedDataset, Selector, TrainConfig, Trainer
from rho_train.cost import Costs
from rho_train.methods.context import ScoringContext, Selected
from rho_train.progress import Stopped
from rho_train.trainer.metrics_logger import MetricsFile

N = 40
CONFIG = TrainConfig(
    steps=12, large_batch=8, batch=2, eval_every=6, log_every=6, checkpoint_every=100
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.read)
    return clock


class SlowData(Dataset[Any]):
    """Reading a batch takes a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.labels = torch.arange(N) % 3

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.eye(4)[index % 4], self.labels[index]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.clock.now += 1.0
        return [self[index] for index in indices]


class SlowModel(nn.Linear):
    """A forward pass takes 2 seconds to score, 4 to train."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(4, 3)
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 4.0 if torch.is_grad_enabled() else 2.0
        return super().forward(x)


def make_trainer(folder: Path, clock: Clock, *, select: bool = True) -> Trainer:
    def slow_method(context: ScoringContext) -> Selected:
        clock.now += 8.0
        return context.top(-context.logits[:, 0])

    return Trainer(
        SlowModel(clock),
        IndexedDataset(SlowData(clock)),
        torch.arange(N),
        TensorDataset(torch.eye(4), torch.tensor([0, 1, 2, 0])),
        CONFIG,
        folder,
        name="slow",
        selector=Selector(k=2, method=slow_method, check_batches=False) if select else None,
        il_seconds=5.0,
        costs=Costs(4 * 3, 36, il=7.0),
    )


def end(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def on_step(clock: Clock, stop_at: int = 0) -> Callable[[int], bool]:
    made = 0

    def wait(steps: int) -> bool:
        nonlocal made
        made += steps
        clock.now += 16.0
        return made == stop_at

    return wait


def test_seconds_are_those_of_the_steps(tmp_path: Path, clock: Clock) -> None:
    trainer = make_trainer(tmp_path, clock)
    trainer.fit(on_step(clock))
    record = end(tmp_path)
    # Neither evaluations nor callbacks count.
    assert record["seconds"] == trainer.metrics.seconds == CONFIG.steps * 15
    assert record["il_seconds"] == 5.0
    assert record["cost"] == {"training": 24 * 3 * 12.0, "scoring": 96 * 12.0, "il": 7.0}
    # 40 examples are 5 large batches: 12 steps are 2.4 passes.
    assert (record["epochs"], record["scored"], record["trained"]) == (2.4, 96, 24)


def test_uniform_neither_scores_nor_selects_and_counts_the_same_epochs(
    tmp_path: Path, clock: Clock
) -> None:
    make_trainer(tmp_path, clock, select=False).fit()
    record = end(tmp_path)
    assert record["seconds"] == CONFIG.steps * 5
    assert (record["epochs"], record["scored"], record["trained"]) == (2.4, 0, 24)


def test_a_resumed_run_continues_its_times(tmp_path: Path, clock: Clock) -> None:
    make_trainer(tmp_path / "whole", clock).fit(on_step(clock))
    for stop in (3, 5):
        with pytest.raises(Stopped):
            make_trainer(tmp_path / "parts", clock).fit(on_step(clock, stop))
        clock.now += 1000.0  # nothing ran then
    make_trainer(tmp_path / "parts", clock).fit(on_step(clock))
    assert end(tmp_path / "parts") == end(tmp_path / "whole")


def test_full_disk_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write({"event": "eval"})
    before = metrics.path.read_bytes()
    real_open = open

    class Full:
        def __init__(self, path: Path) -> None:
            self.file = real_open(path, "r+b", buffering=0)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def seek(self, position: int) -> None:
            self.file.seek(position)

        def write(self, data: memoryview) -> int:
            self.file.write(data[:5])  # and the file system is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", lambda path, *a, **k: Full(path))
    with pytest.raises(OSError, match=r"metrics.jsonl: No space left.*free some space"):
        metrics.write({"event": "eval"})
    monkeypatch.undo()
    assert metrics.path.read_bytes() == before
    with metrics.path.open("ab") as file:
        file.write(b'{"event": "interr')
    metrics.write({"event": "eval"})
    assert metrics.path.read_bytes() == before + before
    assert MetricsFile(metrics.path, metrics.size, metrics.crc32).size == 2 * len(before)


def test_metrics_that_were_damaged_cut_or_edited_are_refused(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(Stopped):
        make_trainer(tmp_path, clock).fit(on_step(clock, 7))
    whole = path.read_bytes()
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    without_a_line = whole.split(b"\n", 1)[1]
    for damaged in (flipped, whole[:-1], without_a_line, without_a_line + whole, b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"metrics\.jsonl is not what its checkpoint says"):
            make_trainer(tmp_path, clock)
        assert path.read_bytes() == damaged
    path.write_bytes(whole + b"later records")
    make_trainer(tmp_path, clock)
    assert path.read_bytes() == whole
