"""Measures the loader, the uniform step, and the step with every way to score."""

from __future__ import annotations

import copy
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rho_train.batch import part, split, to
from rho_train.checkpoint import random_state, restore_random_state
from rho_train.dataset import IndexedDataset
from rho_train.experiment.environment import busy_cores
from rho_train.files import message
from rho_train.history import History
from rho_train.optim import adamw
from rho_train.planning.plan import Plan, together
from rho_train.planning.step_timer import AsyncStepTimer, Trainer, Way, wait_for
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import ForwardFunction, Scoring, device_of
from rho_train.selector import Selector

Load = Callable[[int], Iterable[Any]]
"""Called with a number of points, gives batches of that many."""

RATIOS = (2, 3, 5, 10)
_POOL = 2  # batches that the steps are measured on
# Cores that other work may keep busy without spoiling the times.
_BUSY = 0.2
_LOADER_SHARE = 0.15  # of the seconds
_REPEATS = 3  # at least
_OPTIONS = {
    "plain": Scoring(),
    "bf16": Scoring(bf16=True),
    "channels_last": Scoring(channels_last=True),
    "compiled": Scoring(compile=True),
    "refresh 0.5": Scoring(refresh=0.5),
    "proxy": Scoring(),
    "ahead": Scoring(),
}


def plan(
    model: nn.Module,
    dataset: IndexedDataset | None,
    *,
    batch: int = 32,
    ratios: Sequence[int] = RATIOS,
    proxy: nn.Module | None = None,
    forward: ForwardFunction | None = None,
    load: Load | None = None,
    optimizer: Callable[[nn.Module], Optimizer] | None = None,
    bf16: bool = False,
    workers: int = 0,
    il_seconds: float = 0.0,
    steps: int = 2000,
    seconds: float = 8.0,
) -> Plan:
    """Measure here what a step with selection costs, for every way to score.

    Every option of `Scoring` that changes the cost, and every size of the large batch, makes whole
    steps in turn with the uniform step, in another order at every repeat. What is returned are
    medians, of the training step one over all options but `ahead` (see `rho_train.AsyncSelector`), in which
    it shares the machine with scoring. Steps are made by a copy: the model, its gradients and the
    random state stay as they were. An option that does not run here is left out, and `Plan.notes`
    says why.

    Args:
        model: what will be trained; its parameters say on which device.
        dataset: the points; None with `load`.
        batch: n_b, points that a step trains on.
        ratios: n_B / n_b, each an integer of at least 2.
        proxy: a smaller model that could score in place of the model.
        forward: called as `forward(model, batch)`, returns logits (n, C).
        load: the loader if it is not `rho_train.loader`: called with a number of points, gives
            batches of that many, with ids.
        optimizer: makes the optimizer of a model; None: AdamW.
        bf16: train under bfloat16 autocast.
        workers: processes that load batches; with some, loading runs beside the step.
        il_seconds: what the irreducible losses cost, charged over `steps` uniform steps.
        steps: of the uniform run that selection is compared to.
        seconds: how long to measure, at least three repeats; first calls and compiling come on top.

    Raises:
        TypeError: `dataset` is not an IndexedDataset.
        ValueError: a number is out of range, both or none of `dataset` and `load` are given, or the
            loader has too few points.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x, y = torch.randn(64, 2), torch.arange(64) % 2
        >>> data = IndexedDataset(TensorDataset(x, y))
        >>> found = plan(nn.Linear(2, 2), data, batch=4, ratios=[3], proxy=nn.Linear(2, 2),
        ...     seconds=0.1)
        >>> [(row.option, row.large_batch) for row in found.rows if row.option != "compiled"]
        [('plain', 12), ('bf16', 12), ('refresh 0.5', 12), ('proxy', 12), ('ahead', 12)]
    """
    _check(batch, ratios, workers, il_seconds, steps, seconds)
    if (dataset is None) == (load is None):
        raise ValueError("plan: give either dataset or load")
    device = device_of(model)
    busy, state = busy_cores(), random_state(device)
    try:
        if load is None:
            assert dataset is not None
            load = _loader(dataset, workers)
        target = copy.deepcopy(model).train()
        sizes = [batch, *(ratio * batch for ratio in ratios)]
        share = _LOADER_SHARE * seconds / len(sizes)
        loads: dict[int, float] = {}
        pool: list[Any] = []
        for size in sizes:
            loads[size], pool = _measure_loader(load, size, workers, device, share)
        make = optimizer or partial(adamw, lr=1e-3, weight_decay=0.01)
        trainer = Trainer(target, make(target), forward, bf16)
        uniform = Way("uniform", 1, _cut(pool, batch), None)
        uniform.step(trainer)
        ways, notes = _ways(trainer, pool, batch, ratios, proxy, forward)
        _repeat([uniform, *ways], trainer, (1.0 - _LOADER_SHARE) * seconds)
    finally:
        restore_random_state(state, device)
    train = median(uniform.train)
    whole = together(loads[batch], train, workers > 0)
    # Whatever chose its points, the step is the same work: one median of all is the steadier one.
    alike = (way.train for way in ways if not isinstance(way, AsyncStepTimer))
    after = median(itertools.chain.from_iterable(alike))
    rows = [way.row(loads[way.ratio * batch], after, workers > 0, whole) for way in ways]
    if busy is not None and busy > _BUSY:
        notes.insert(
            0,
            f"Other work keeps {busy:.1f} cores busy: these times are too long and scattered; do "
            "not plan by them, run it again on an idle machine",
        )
    return Plan(batch, loads[batch], train, workers, il_seconds, steps, tuple(rows), tuple(notes))


def _check(
    batch: int,
    ratios: Sequence[int],
    workers: int,
    il_seconds: float,
    steps: int,
    seconds: float,
) -> None:
    for name, value, least in (("batch", batch, 1), ("workers", workers, 0), ("steps", steps, 1)):
        if value < least:
            raise ValueError(f"plan: {name} must be at least {least}, got {value}")
    if not ratios or len(set(ratios)) < len(ratios) or any(ratio < 2 for ratio in ratios):
        raise ValueError(
            f"plan: ratios must be different integers of at least 2, n_B / n_b, got {list(ratios)}"
        )
    if not 0.0 <= il_seconds < math.inf:
        raise ValueError(f"plan: il_seconds must be finite and at least 0, got {il_seconds}")
    if not 0.0 < seconds < math.inf:
        raise ValueError(f"plan: seconds must be finite and positive, got {seconds}")


def _loader(dataset: IndexedDataset, workers: int) -> Load:
    def load(size: int) -> Iterable[Any]:
        if size > len(dataset):
            raise ValueError(
                f"plan: a large batch of {size} is larger than the data set of {len(dataset)}; "
                "choose a smaller batch or smaller ratios"
            )
        return loader(dataset, LargeBatchSampler(len(dataset), size, seed=0), workers=workers)

    return load


def _measure_loader(
    load: Load, size: int, workers: int, device: torch.device, seconds: float
) -> tuple[float, list[Any]]:
    """Return the seconds of a batch at full speed, and the first batches.

    The mean, not the median: workers deliver in bursts.
    """
    batches = iter(load(size))
    # What the workers fetch ahead while they start says nothing about their speed.
    first = [to(one, device) for one in itertools.islice(batches, _POOL + 2 * workers)]
    count, started, now = 0, time.perf_counter(), 0.0
    for one in batches:
        to(one, device)
        wait_for(device)
        count, now = count + 1, time.perf_counter()
        if count >= _REPEATS and now - started >= seconds:
            break
    if count < _REPEATS:
        raise ValueError(
            f"plan: the loader must give at least {len(first) + _REPEATS} batches of {size} "
            f"points, got {len(first) + count}; choose a smaller batch or smaller ratios"
        )
    return (now - started) / count, first[:_POOL]


def _cut(pool: list[Any], size: int) -> list[Any]:
    return [part(one, len(split(one, "plan").ids), slice(size)) for one in pool]


def _ways(
    trainer: Trainer,
    pool: list[Any],
    batch: int,
    ratios: Sequence[int],
    proxy: nn.Module | None,
    forward: ForwardFunction | None,
) -> tuple[list[Way], list[str]]:
    """Return the ways that run here, each after two steps, and a sentence on those that do not."""
    points = 1 + max(int(split(one, "plan").ids.max()) for one in pool)
    inputs = split(pool[0], "plan").inputs
    images = isinstance(inputs, Tensor) and inputs.ndim == 4 and forward is None
    ways, notes = [], []
    for option, scoring in _OPTIONS.items():
        if option == "proxy" and proxy is None:
            continue
        if option == "channels_last" and not images:
            notes.append("channels_last: left out, it is for models called on images (n, C, H, W)")
            continue
        started = time.perf_counter()
        try:
            for ratio in ratios:
                selector = Selector(
                    il=torch.zeros(points),
                    k=batch,
                    scoring=scoring,
                    forward=forward,
                    scorer=proxy if option == "proxy" else None,
                    history=History(points) if scoring.refresh < 1.0 else None,
                )
                kind = AsyncStepTimer if option == "ahead" else Way
                way = kind(option, ratio, _cut(pool, ratio * batch), selector)
                way.step(trainer)
                way.step(trainer)
                way.forget()
                ways.append(way)
        except Exception as error:  # (whatever a compiler or a backend raises)
            if option == "plain":
                raise
            ways = [way for way in ways if way.option != option]
            notes.append(f"{option}: left out, {message(error).partition(chr(10))[0]}")
        else:
            if scoring.compile:
                spent = time.perf_counter() - started
                notes.append(f"{option}: compiling took {spent:.0f} s, which no step is charged")
    return ways, notes


def _repeat(ways: list[Way], trainer: Trainer, seconds: float) -> None:
    """Let every way make steps in turn until the seconds are over."""
    order, shuffle = list(ways), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    for repeat in itertools.count():
        if repeat >= _REPEATS and time.perf_counter() >= end:
            return
        shuffle(order)
        for way in order:
            way.step(trainer)
