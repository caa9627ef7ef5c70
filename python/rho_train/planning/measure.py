"""Measurement of the loader, the uniform step, and the step with every scoring option."""

from __future__ import annotations

import copy
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rho_train.async_selector import AsyncSelector
from rho_train.batch import part, split, to
from rho_train.checkpoint import random_state, restore_random_state
from rho_train.dataset import IndexedDataset
from rho_train.files import error_text
from rho_train.history import History
from rho_train.optim import adamw
from rho_train.planning.plan import Plan, PlanRow
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import ForwardFunction, Scoring, device_of
from rho_train.selector import Selector
from rho_train.training_step import training_step

RATIOS = (2, 3, 5, 10)
_POOL = 2  # batches that the steps are measured on
_REPEATS = 3  # at least
_LOADER_SHARE = 0.15  # of the seconds
# Cores that other work may use: threads that share a core with it wait for each other.
_BUSY = 0.2
# Of one loop of an AsyncSelector, at least: a new thread shares a core with the old one at first.
_LOOP, _LOOP_SECONDS = 4, 0.1
_OPTIONS = {
    "plain": Scoring(),
    "bf16": Scoring(bf16=True),
    "channels_last": Scoring(channels_last=True),
    "compiled": Scoring(compile=True),
    "refresh 0.5": Scoring(refresh=0.5),
    "proxy": Scoring(),
    "async": Scoring(),
}


def plan(
    model: nn.Module,
    dataset: IndexedDataset | None,
    *,
    batch: int = 32,
    ratios: Sequence[int] = RATIOS,
    proxy: nn.Module | None = None,
    forward: ForwardFunction | None = None,
    load: Callable[[int], Iterable[Any]] | None = None,
    optimizer: Callable[[nn.Module], Optimizer] | None = None,
    bf16: bool = False,
    workers: int = 0,
    il_seconds: float = 0.0,
    steps: int = 2000,
    seconds: float = 8.0,
) -> Plan:
    """Measure the cost of a step with selection on this machine, for every scoring option.

    Each option and each size of the large batch makes whole steps, in turn with the uniform step
    and in another order at every repeat. Times are medians. That of the training step is of all
    options but `async` (see `rho_train.AsyncSelector`), in which it shares the machine with
    scoring. A copy of the model makes the steps, and the random state is restored. An option that
    does not run here is left out, and `Plan.notes` says why.

    Args:
        model: what will be trained, on the device of its parameters.
        dataset: the training data; None with `load`.
        batch: n_b, examples that a step trains on.
        ratios: n_B / n_b, each an integer of at least 2.
        proxy: a smaller model that could score in place of the model.
        forward: called as `forward(model, batch)`, returns logits (n, C).
        load: in place of `rho_train.loader`: called with n, gives batches of n examples, with ids.
        optimizer: makes the optimizer of a model; None: AdamW.
        bf16: train under bfloat16 autocast.
        workers: processes that load batches; with some, loading runs beside the step.
        il_seconds: cost of the irreducible losses, included over `steps` uniform steps.
        steps: of the uniform run that selection is compared to.
        seconds: how long to measure, at least three repeats; first calls and compiling come on top.

    Raises:
        TypeError: `dataset` is not an IndexedDataset.
        ValueError: a number is out of range, both or none of `dataset` and `load` are given, or the
            loader has too few examples.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x, y = torch.randn(64, 2), torch.arange(64) % 2
        >>> data = IndexedDataset(TensorDataset(x, y))
        >>> found = plan(nn.Linear(2, 2), data, batch=4, ratios=[3], proxy=nn.Linear(2, 2),
        ...     seconds=0.1)
        >>> [(row.option, row.large_batch) for row in found.rows if row.option != "compiled"]
        [('plain', 12), ('bf16', 12), ('refresh 0.5', 12), ('proxy', 12), ('async', 12)]
    """
    counts = {"batch": batch, "steps": steps, "workers": workers}
    for name, value in {**counts, "il_seconds": il_seconds, "seconds": seconds}.items():
        least = 1 if name in ("batch", "steps") else 0
        if not least <= value < math.inf:
            raise ValueError(f"plan: {name} must be finite and at least {least}, got {value}")
    if not ratios or len(set(ratios)) < len(ratios) or min(ratios) < 2:
        raise ValueError(
            f"plan: ratios must be different integers of at least 2, n_B / n_b, got {list(ratios)}"
        )
    if (dataset is None) == (load is None):
        raise ValueError("plan: give either dataset or load")

    def batches(size: int) -> Iterable[Any]:
        if load is not None:
            return load(size)
        assert dataset is not None
        return loader(dataset, LargeBatchSampler(len(dataset), size, seed=0), workers=workers)

    device, sizes = device_of(model), sorted([batch, *(ratio * batch for ratio in ratios)])
    share, busy, state = _LOADER_SHARE * seconds / len(sizes), busy_cores(), random_state(device)
    loads, pool = {}, list[Any]()
    try:
        for size in sizes:
            loads[size], pool = _measure_loader(batches(size), size, workers, device, share)
        target = copy.deepcopy(model).train()
        made = adamw(target, lr=1e-3, weight_decay=0.01) if optimizer is None else optimizer(target)
        train = partial(
            training_step, target, optimizer=made, where="plan", forward=forward, bf16=bf16
        )
        uniform = StepTimer(target, train, _cut(pool, batch))
        uniform.step()
        timers, notes = _timers(uniform, pool, ratios, proxy, forward)
        _repeat([uniform, *timers], (1.0 - _LOADER_SHARE) * seconds)
    finally:
        restore_random_state(state, device)
    if busy > _BUSY:
        note = f"Other work keeps {busy:.1f} cores busy: these times are too long"
        notes.insert(0, f"{note}; repeat it on an idle machine")

    def whole(load: float, work: float) -> float:
        return max(load, work) if workers else load + work

    trained = uniform.medians()[2]
    base = whole(loads[batch], trained)
    # However a batch was selected, the step is the same work: one median of all is steadier.
    after = median(one[2] for t in timers if t.option != "async" for one in t.seconds)
    rows = []
    for timer in timers:
        size, (score, select, beside) = timer.ratio * batch, timer.medians()
        step = beside if timer.option == "async" else after
        times = {"load": loads[size], "score": score, "select": select, "train": step}
        times |= {"step": whole(loads[size], score + select + step), "uniform": base}
        rows.append(PlanRow(option=timer.option, ratio=timer.ratio, large_batch=size, **times))
    times = {"load": loads[batch], "train": trained, "uniform": base, "il_seconds": il_seconds}
    found: dict[str, Any] = {**times, "rows": tuple(rows), "notes": tuple(notes)}
    return Plan(small_batch=batch, workers=workers, steps=steps, **found)


@dataclass(eq=False)
class StepTimer:
    """Steps with one option, and the seconds of each: scoring, rest of selection, training."""

    model: nn.Module
    train: Callable[[Any], object]
    batches: list[Any]
    option: str = "uniform"
    ratio: int = 1
    selector: Selector | None = None
    calls: int = field(default=0, init=False)
    seconds: list[tuple[float, float, float]] = field(default_factory=list, init=False)

    def step(self) -> None:
        """Make a step and note its seconds; with `async` several, unless there are enough."""
        self.calls += 1
        if self.option == "async":
            if len(self.seconds) < self.calls:
                self._async_steps()
            return
        device, batch = device_of(self.model), self.batches[self.calls % len(self.batches)]
        began, score = _now(device), self._spent()[0]
        if self.selector is not None:
            batch = self.selector(self.model, batch)
        selected, score = _now(device), self._spent()[0] - score
        self.train(batch)
        self.seconds.append((score, selected - began - score, _now(device) - selected))

    def _async_steps(self) -> None:
        """Make steps in a loop, until its two threads have settled, and note the later half."""
        assert self.selector is not None
        noted: list[tuple[float, float, float]] = []
        began = ended = time.perf_counter()
        before = self._spent()
        for batch in AsyncSelector(self.selector, self.model)(itertools.cycle(self.batches)):
            self.train(batch)
            # Not before the step: it would wait for the scores too.
            now, after = _now(device_of(self.model)), self._spent()
            score, selection = after[0] - before[0], after[1] - before[1]
            noted.append((score, selection - score, now - ended - selection))
            if len(noted) >= _LOOP and now - began >= _LOOP_SECONDS:
                break
            ended, before = now, after
        self.seconds += noted[len(noted) // 2 :]

    def _spent(self) -> tuple[float, float]:
        """Return the seconds of the Selector so far: scoring, and everything."""
        one = self.selector
        return (0.0, 0.0) if one is None else (one.score_seconds, one.seconds)

    def medians(self) -> list[float]:
        """Return the median of each part."""
        return [median(part) for part in zip(*self.seconds, strict=True)]


def _timers(
    uniform: StepTimer,
    pool: list[Any],
    ratios: Sequence[int],
    proxy: nn.Module | None,
    forward: ForwardFunction | None,
) -> tuple[list[StepTimer], list[str]]:
    """Return a timer for each option that runs here and each ratio, and notes on the others."""
    fields = [split(one, "plan") for one in pool]
    batch = len(split(uniform.batches[0], "plan").ids)
    n, inputs = 1 + max(int(one.ids.max()) for one in fields), fields[0].inputs
    images = isinstance(inputs, Tensor) and inputs.ndim == 4 and forward is None
    timers, notes = list[StepTimer](), list[str]()
    for option, scoring in _OPTIONS.items():
        if option == "proxy" and proxy is None:
            continue
        if option == "channels_last" and not images:
            notes.append("channels_last: left out, it is for models called on images (n, C, H, W)")
            continue
        started, made = time.perf_counter(), list[StepTimer]()
        try:
            for ratio in ratios:
                options: dict[str, Any] = {"scoring": scoring, "forward": forward}
                options["scorer"] = proxy if option == "proxy" else None
                options["history"] = History(n) if scoring.refresh < 1.0 else None
                selector = Selector(il=torch.zeros(n), k=batch, **options)
                timer = replace(uniform, option=option, ratio=ratio, selector=selector)
                timer.batches = _cut(pool, ratio * batch)
                timer.step()
                timer.step()
                made.append(replace(timer))  # without what was measured so far
        except Exception as error:  # (whatever a compiler or a backend raises)
            if option == "plain":
                raise
            line = error_text(error).partition("\n")[0]
            notes.append(f"{option}: left out, {line}")
            continue
        timers += made
        if scoring.compile:
            spent = time.perf_counter() - started
            notes.append(f"{option}: compiling took {spent:.0f} s, which no step includes")
    return timers, notes


def _repeat(timers: list[StepTimer], seconds: float) -> None:
    """Let every timer make steps in turn until the seconds are over."""
    shuffle, end = random.Random(0).shuffle, time.perf_counter() + seconds
    for repeat in itertools.count():
        if repeat >= _REPEATS and time.perf_counter() >= end:
            return
        shuffle(timers)
        for timer in timers:
            timer.step()


def _measure_loader(
    batches: Iterable[Any], size: int, workers: int, device: torch.device, seconds: float
) -> tuple[float, list[Any]]:
    """Return the mean seconds of a batch at full speed, and the first batches.

    Workers deliver in bursts, so the median would say nothing.
    """
    batches = iter(batches)
    # What the workers fetch while they start says nothing about their speed.
    first = [to(one, device) for one in itertools.islice(batches, _POOL + 2 * workers)]
    started, count = time.perf_counter(), 0
    for count, one in enumerate(batches, 1):
        to(one, device)
        spent = _now(device) - started
        if count >= _REPEATS and spent >= seconds:
            break
    if count < _REPEATS:
        raise ValueError(
            f"plan: the loader must give at least {len(first) + _REPEATS} batches of {size} "
            f"examples, got {len(first) + count}; choose a smaller batch or smaller ratios"
        )
    return spent / count, first[:_POOL]


def _cut(pool: list[Any], size: int) -> list[Any]:
    return [part(one, len(split(one, "plan").ids), slice(size)) for one in pool]


def _now(device: torch.device) -> float:
    """Return the time at which the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def busy_cores() -> float:
    """Return how many cores other work keeps busy in half a second; 0 where nobody knows."""

    def ticks() -> Tensor:
        return torch.tensor([int(count) for count in stat.read_text().split()[1:9]])

    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    before = ticks()
    time.sleep(0.5)
    spent: list[float] = (ticks() - before).tolist()
    idle = (spent[3] + spent[4]) / sum(spent)  # doing nothing, and waiting for a disk
    return max(0.0, 1.0 - idle) * (os.cpu_count() or 1)
