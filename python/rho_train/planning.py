"""The cost of a training step with selection, measured before a run is paid for."""

from __future__ import annotations

import copy
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.batch import gather, ids_of, split, to
from rho_train.checkpoint import random_state, restore_random_state
from rho_train.dataset import IndexedDataset
from rho_train.dry_run import takes_the_batch
from rho_train.files import error_text
from rho_train.history import History
from rho_train.optim import MakeOptimizer, adamw
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import ForwardFunction, LossFunction, Scoring, device_of
from rho_train.selector import Selector
from rho_train.training_step import training_step

RATIOS = (2, 3, 5, 10)
_POOL = 2  # batches that the steps are measured on
_REPEATS = 3  # at least
_LOADER_SHARE = 0.15  # of the seconds
_OPTIONS = {
    "plain": Scoring(),
    "bf16": Scoring(bf16=True),
    "channels_last": Scoring(channels_last=True),
    "compiled": Scoring(compile=True),
    "refresh 0.5": Scoring(refresh=0.5),
    "proxy": Scoring(),
}
_SECONDS = ("load", "score", "select", "train", "step")


@dataclass(frozen=True)
class PlanRow:
    """Median seconds of a step, for one scoring option and one size of the large batch.

    `load` is for loading n_B examples, `score` for the forward passes, `select` for the rest of the
    Selector, `train` for the step on n_b examples, `step` for all, where workers may load beside
    the rest. On CUDA `score` only launches the passes. `cost` is the step in uniform steps: to
    break even, selection must need that many times fewer, and irreducible losses come on top.
    """

    option: str
    ratio: int
    large_batch: int
    load: float
    score: float
    select: float
    train: float
    step: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Measurements of `plan`, printed as a table.

    `small_batch` is n_b; `load`, `train` and `uniform` are the seconds of a uniform step; `notes`
    say what was not measured, and why.
    """

    small_batch: int
    load: float
    train: float
    uniform: float
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...]

    @property
    def first(self) -> PlanRow:
        """The row to try first: with n_B of 3 to 5 times n_b, the first within 5 % of the lowest.

        In a first comparison selection won in time at these sizes.
        """
        usual = [row for row in self.rows if 3 <= row.ratio <= 5] or self.rows
        # Options that differ by less are within what the same measurement differs by.
        return next(row for row in usual if row.step <= 1.05 * min(one.step for one in usual))

    def __str__(self) -> str:
        parts = "".join(f"{name:>9}" for name in _SECONDS)
        head = f"{'scoring':<13}{'n_B':>6}{parts}{'x uniform':>11}"
        lines = [
            f"A uniform step on {self.small_batch} examples takes {_ms(self.uniform)} ms: loading "
            f"{_ms(self.load)}, training {_ms(self.train)}.\n",
            f"{head}   (milliseconds)",
            "-" * len(head),
        ]
        for row in self.rows:
            times = "".join(f"{_ms(getattr(row, name)):>9}" for name in _SECONDS)
            lines.append(f"{row.option:<13}{row.large_batch:>6}{times}{row.cost:>11.2f}")
        first = self.first
        lines += [
            "\nx uniform: cost in uniform steps; selection must need that many times fewer\n",
            *self.notes,
        ]
        if first.load > first.score + first.select + first.train:
            lines.append(
                "The loader is slower than the rest of a step: make it faster first (more workers, "
                "data in memory)"
            )
        advice = f"Try first: large batches of {first.large_batch}, {first.option} scoring"
        return "\n".join([*lines, advice])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{3 if seconds < 1e-2 else 1}f}"


def plan(
    model: nn.Module,
    dataset: IndexedDataset | None,
    *,
    batch: int = 32,
    ratios: Sequence[int] = RATIOS,
    proxy: nn.Module | None = None,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    load: Callable[[int], Iterable[Any]] | None = None,
    optimizer: MakeOptimizer | None = None,
    bf16: bool = False,
    workers: int = 0,
    seconds: float = 8.0,
) -> Plan:
    """Measure the cost of a step with selection on this machine, for every scoring option.

    Each option and each size of the large batch makes whole steps, in turn with the uniform step
    and in another order at every repeat. Times are medians, that of the training step over all
    options. A copy of the model makes the steps, and the random state is restored. An option that
    is not for this model, or does not run here, is left out; `Plan.notes` says why. Other work adds
    to the times.

    Args:
        model: what will be trained, on the device of its parameters.
        dataset: the training data; None with `load`.
        batch: n_b, examples that a step trains on.
        ratios: n_B / n_b, each an integer of at least 2.
        proxy: a smaller model that could score in place of the model.
        forward: called as `forward(model, batch)`, returns logits (n, C).
        loss_fn: for examples that are no classification, see `Selector`.
        load: in place of `rho_train.loader`: called with n, gives batches of n examples, with ids.
        optimizer: makes the optimizer of a model; None: AdamW.
        bf16: train under bfloat16 autocast.
        workers: processes that load batches; with some, loading runs beside the step.
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
        [('plain', 12), ('bf16', 12), ('refresh 0.5', 12), ('proxy', 12)]
    """
    for name, value in {"batch": batch, "workers": workers, "seconds": seconds}.items():
        least = int(name == "batch")
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

    def whole(load: float, work: float) -> float:
        return max(load, work) if workers else load + work

    device, sizes = device_of(model), sorted([batch, *(ratio * batch for ratio in ratios)])
    share, state = _LOADER_SHARE * seconds / len(sizes), random_state(device)
    loads, pool = {}, list[Any]()
    try:
        for size in sizes:
            loads[size], pool = _measure_loader(batches(size), size, workers, device, share)
        target = copy.deepcopy(model).train()
        made = adamw(target, lr=1e-3, weight_decay=0.01) if optimizer is None else optimizer(target)
        functions: dict[str, Any] = {"forward": forward, "loss_fn": loss_fn}
        train = partial(training_step, target, optimizer=made, where="plan", bf16=bf16, **functions)
        uniform = StepTimer(target, train, _cut(pool, batch))
        with takes_the_batch("plan"):
            uniform.step()
        timers, notes = _timers(uniform, pool, ratios, proxy, functions)
        everything, shuffle = [uniform, *timers], random.Random(0).shuffle
        end = time.perf_counter() + (1.0 - _LOADER_SHARE) * seconds
        for repeat in itertools.count():
            if repeat >= _REPEATS and time.perf_counter() >= end:
                break
            shuffle(everything)
            for timer in everything:
                if len(timer.seconds) <= repeat:
                    timer.step()
    finally:
        restore_random_state(state, device)
    trained = uniform.medians()[2]
    base = whole(loads[batch], trained)
    # However a batch was selected, the step is the same work: one median of all is steadier.
    after = median(one[2] for timer in timers for one in timer.seconds)
    rows = []
    for timer in timers:
        score, select, _ = timer.medians()
        size, loading = timer.ratio * batch, loads[timer.ratio * batch]
        spent = whole(loading, score + select + after)
        times = (loading, score, select, after, spent, spent / base)
        rows.append(PlanRow(timer.option, timer.ratio, size, *times))
    return Plan(
        small_batch=batch,
        load=loads[batch],
        train=trained,
        uniform=base,
        rows=tuple(rows),
        notes=tuple(notes),
    )


@dataclass(eq=False)
class StepTimer:
    """Steps with one option, and the seconds of each: scoring, rest of selection, training."""

    model: nn.Module
    train: Callable[[Any], object]
    batches: list[Any]
    option: str = "uniform"
    ratio: int = 1
    selector: Selector | None = None
    seconds: list[tuple[float, float, float]] = field(default_factory=list, init=False)

    def step(self) -> None:
        """Make a step and note its seconds."""
        device, batch = device_of(self.model), self.batches[len(self.seconds) % len(self.batches)]
        began, score = _now(device), 0.0
        if self.selector is not None:
            score -= self.selector.score_seconds
            batch = self.selector(self.model, batch)
            score += self.selector.score_seconds
        selected = _now(device)
        self.train(batch)
        self.seconds.append((score, selected - began - score, _now(device) - selected))

    def medians(self) -> list[float]:
        """Return the median of each part."""
        return [median(part) for part in zip(*self.seconds, strict=True)]


def _timers(
    uniform: StepTimer,
    pool: list[Any],
    ratios: Sequence[int],
    proxy: nn.Module | None,
    functions: Mapping[str, Any],
) -> tuple[list[StepTimer], list[str]]:
    """Return a timer for each option that runs here and each ratio, and notes on the others."""
    fields = [split(one, "plan", needs_labels=False) for one in pool]
    batch = len(split(uniform.batches[0], "plan", needs_labels=False).ids)
    n, inputs = 1 + max(int(one.ids.max()) for one in fields), fields[0].inputs
    own = any(functions.values())
    images = isinstance(inputs, Tensor) and inputs.ndim == 4 and not own
    il = torch.zeros(n, dtype=torch.float32, device="cpu")
    timers, notes = list[StepTimer](), list[str]()
    for option, scoring in _OPTIONS.items():
        if (option == "proxy" and proxy is None) or (option == "channels_last" and not images):
            continue
        started, made = time.perf_counter(), list[StepTimer]()
        try:
            for ratio in ratios:
                selector = Selector(
                    il=il,
                    k=batch,
                    scoring=scoring,
                    **functions,
                    scorer=proxy if option == "proxy" else None,
                    history=History(n) if scoring.refresh < 1.0 else None,
                )
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
    return [gather(one, len(ids_of(one)), slice(size)) for one in pool]


def _now(device: torch.device) -> float:
    """Return the time at which the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
