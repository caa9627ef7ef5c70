"""The ways to make a step that a plan compares."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rho_train.async_selector import AsyncSelector
from rho_train.batch import split
from rho_train.planning.plan import PlanRow
from rho_train.scoring import ForwardFunction, device_of
from rho_train.selector import Selector
from rho_train.training_step import training_step

# Of a loop, at least: a new thread shares a core with the old one at first.
_LOOP, _LOOP_SECONDS = 4, 0.1


def wait_for(device: torch.device) -> None:
    """Let the host wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Trainer:
    """The training step of the copy."""

    model: nn.Module
    optimizer: Optimizer
    forward: ForwardFunction | None
    bf16: bool

    def __call__(self, batch: Any) -> None:
        """Make a step on a batch."""
        training_step(
            self.model, batch, self.optimizer, where="plan", forward=self.forward, bf16=self.bf16
        )


@dataclass
class Way:
    """A way to make a step, and the seconds of every step that it made."""

    option: str
    ratio: int
    batches: list[Any]
    selector: Selector | None
    score: list[float] = field(default_factory=list)
    select: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)

    def step(self, trainer: Trainer) -> None:
        """Make a step and keep its seconds."""
        device, batch = device_of(trainer.model), self.batches[len(self.train) % len(self.batches)]
        wait_for(device)
        started = selected = time.perf_counter()
        if self.selector is not None:
            before = self.selector.score_seconds
            batch = self.selector(trainer.model, batch)
            wait_for(device)
            selected = time.perf_counter()
            self.score.append(self.selector.score_seconds - before)
            self.select.append(selected - started - self.score[-1])
        trainer(batch)
        wait_for(device)
        self.train.append(time.perf_counter() - selected)

    def forget(self) -> None:
        """Drop what was measured so far."""
        for seconds in (self.score, self.select, self.train):
            seconds.clear()

    def row(self, load: float, train: float, overlaps: bool, uniform: float) -> PlanRow:
        """Return the medians; `train` is that of all ways."""
        size = len(split(self.batches[0], "plan").ids)
        spent = (load, median(self.score), median(self.select), train)
        return PlanRow(self.option, self.ratio, size, *spent, overlaps, uniform)


class AsyncStepTimer(Way):
    """Steps whose large batch is scored while the step before trains."""

    calls = 0

    def step(self, trainer: Trainer) -> None:
        """Make steps in a loop, until its two threads have settled, and keep the later half."""
        self.calls += 1
        if len(self.train) >= self.calls:
            return  # as many as the other ways
        assert self.selector is not None
        device, selector = device_of(trainer.model), self.selector
        spent: list[tuple[float, float, float]] = []
        began = ended = time.perf_counter()
        score, seconds = selector.score_seconds, selector.seconds
        for batch in AsyncSelector(selector, trainer.model)(itertools.cycle(self.batches)):
            trainer(batch)
            # Not before: it would wait for the scores too.
            wait_for(device)
            now, scored = time.perf_counter(), selector.score_seconds - score
            selected = selector.seconds - seconds
            spent.append((scored, selected - scored, now - ended - selected))
            if len(spent) >= _LOOP and now - began >= _LOOP_SECONDS:
                break
            ended, score, seconds = now, selector.score_seconds, selector.seconds
        for parts in spent[len(spent) // 2 :]:
            for part, found in zip((self.score, self.select, self.train), parts, strict=True):
                part.append(found)

    def forget(self) -> None:
        """Drop what was measured so far."""
        super().forget()
        self.calls = 0

    def row(self, load: float, train: float, overlaps: bool, uniform: float) -> PlanRow:
        """Return the medians; training takes longer beside the scores."""
        return super().row(load, median(self.train), overlaps, uniform)
