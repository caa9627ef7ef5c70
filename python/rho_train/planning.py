"""The cost of a training step with selection, measured before a run is paid for."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from rho_train.batch import gather, ids_of, split, to
from rho_train.dataset import IndexedDataset
from rho_train.dry_run import takes_the_batch, unchanged
from rho_train.files import error_text
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import ForwardFunction, LossFunction, Scoring, device_of
from rho_train.selector import Selector
from rho_train.training_step import MakeOptimizer, adamw, training_step

RATIOS = (2, 3, 5, 10)
_REPEATS = 3  # at least
_LOADER_SHARE = 0.15  # of the seconds


@dataclass(frozen=True)
class PlanRow:
    """Seconds of a step with one scoring option and one size of the large batch.

    `load` is for loading n_B examples, `select` for the Selector, `step` for all, where workers may
    load beside the rest. `cost` is the step in uniform steps: to break even, selection must need
    that many times fewer, and irreducible losses come on top.
    """

    option: str
    ratio: int
    large_batch: int
    load: float
    select: float
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
        first = self.first
        head = f"{'scoring':<13}{'n_B':>6}{'load':>9}{'select':>9}{'step':>9}{'x uniform':>11}"
        lines = [
            f"A uniform step on {self.small_batch} examples takes {_ms(self.uniform)} ms: loading "
            f"{_ms(self.load)}, training {_ms(self.train)}.\n",
            f"{head}   (milliseconds)",
            "-" * len(head),
        ]
        for row in self.rows:
            times = "".join(f"{_ms(one):>9}" for one in (row.load, row.select, row.step))
            lines.append(f"{row.option:<13}{row.large_batch:>6}{times}{row.cost:>11.2f}")
        lines += [
            "\nx uniform: cost in uniform steps; selection must need that many times fewer\n",
            *self.notes,
        ]
        if first.load > first.select + self.train:
            lines.append(
                "The loader is slower than the rest of a step: make it faster first (more workers, "
                "data in memory)"
            )
        advice = (
            f"To score, try first: large batches of {first.large_batch}, {first.option} scoring"
        )
        return "\n".join([*lines, advice])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{3 if seconds < 1e-2 else 1}f}"


def plan(
    model: nn.Module,
    dataset: IndexedDataset,
    *,
    batch: int = 32,
    ratios: Sequence[int] = RATIOS,
    proxy: nn.Module | None = None,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    optimizer: MakeOptimizer | None = None,
    bf16: bool = False,
    workers: int = 0,
    seconds: float = 8.0,
) -> Plan:
    """Measure the cost of a step with selection on this machine, for every scoring option.

    Uniform steps and steps with each option and each size of the large batch alternate, in another
    order at every repeat; times are medians, that of training over all steps. A copy of the model
    makes the steps, and the random state is restored. An option that is not for this model, or does
    not run here, is left out; `Plan.notes` says why. Other work adds to the times.

    Args:
        model: what will be trained, on the device of its parameters.
        dataset: the training data.
        batch: n_b, examples that a step trains on.
        ratios: n_B / n_b, each an integer of at least 2.
        proxy: a smaller model that could score in place of the model.
        forward: called as `forward(model, batch)`, returns logits (n, C).
        loss_fn: for examples that are no classification, see `Selector`.
        optimizer: makes the optimizer of a model; None: AdamW.
        bf16: train under bfloat16 autocast.
        workers: processes that load batches; with some, loading runs beside the step.
        seconds: how long to measure, at least three repeats; first calls and compiling come on top.

    Raises:
        TypeError: `dataset` is not an IndexedDataset.
        ValueError: a number is out of range, or the model cannot take a batch.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> x, y = torch.randn(64, 2), torch.arange(64) % 2
        >>> data = IndexedDataset(TensorDataset(x, y))
        >>> found = plan(nn.Linear(2, 2), data, batch=4, ratios=[3], proxy=nn.Linear(2, 2),
        ...     seconds=0.1)
        >>> [(row.option, row.large_batch) for row in found.rows if row.option != "compiled"]
        [('plain', 12), ('bf16', 12), ('proxy', 12)]
    """
    for name, value in {"batch": batch, "workers": workers, "seconds": seconds}.items():
        least = int(name == "batch")
        if not least <= value < math.inf:
            raise ValueError(f"plan: {name} must be finite and at least {least}, got {value}")
    if not ratios or len(set(ratios)) < len(ratios) or min(ratios) < 2:
        raise ValueError(
            f"plan: ratios must be different integers of at least 2, n_B / n_b, got {list(ratios)}"
        )
    device, sizes = device_of(model), sorted([batch, *(ratio * batch for ratio in ratios)])
    if sizes[-1] > len(dataset):
        problem = f"{sizes[-1]:,} examples are more than the {len(dataset):,} of the data set"
        raise ValueError(f"plan: large batches of {problem}; give smaller ratios")
    share = _LOADER_SHARE * seconds / len(sizes)
    functions: dict[str, Any] = {"forward": forward, "loss_fn": loss_fn}
    options: dict[str, dict[str, Any]] = {"plain": {}, "bf16": {"scoring": Scoring(bf16=True)}}
    options["compiled"] = {"scoring": Scoring(compile=True)}
    options |= {"proxy": {"scorer": proxy}} if proxy is not None else {}

    def make_step(selector: Selector | None, size: int) -> tuple[float, float]:
        """Make a step, and return the seconds of selecting and of training."""
        examples = gather(pool, len(ids_of(pool)), slice(size))
        began = _now(device)
        if selector is not None:
            examples = selector(target, examples)
        selected = _now(device)
        training_step(target, examples, made, where="plan", bf16=bf16, **functions)
        return selected - began, _now(device) - selected

    with unchanged(model):
        loads = dict[int, float]()
        for size in sizes:
            loads[size], pool = _load(dataset, size, workers, device, share)
        target = copy.deepcopy(model).train()
        made = adamw(target, lr=1e-3, weight_decay=0.01) if optimizer is None else optimizer(target)
        with takes_the_batch("plan", pool):
            make_step(None, batch)
        n = 1 + int(split(pool, "plan", needs_labels=False).ids.max())
        common = {"il": torch.zeros(n, dtype=torch.float32, device="cpu"), "k": batch, **functions}
        selectors = dict[tuple[str, int], Selector | None]({("uniform", 1): None})
        notes = list[str]()
        for option, own in options.items():
            started = time.perf_counter()
            try:
                ready = {(option, ratio): Selector(**common, **own) for ratio in ratios}
                for (_, ratio), selector in [*ready.items()] * 2:
                    make_step(selector, ratio * batch)
            except Exception as error:  # (whatever a compiler or a backend raises)
                if option == "plain":
                    raise
                reason = error_text(error).partition("\n")[0]
                notes.append(f"{option}: left out, {reason}")
                continue
            selectors |= ready
            if option == "compiled":
                spent = time.perf_counter() - started
                notes.append(f"{option}: compiling took {spent:.0f} s, which no step includes")
        times = {key: list[tuple[float, float]]() for key in selectors}
        order, shuffle = list(selectors), random.Random(0).shuffle
        end = time.perf_counter() + (1.0 - _LOADER_SHARE) * seconds
        while len(times["uniform", 1]) < _REPEATS or time.perf_counter() < end:
            shuffle(order)
            for key in order:
                times[key].append(make_step(selectors[key], key[1] * batch))

    def whole(load: float, work: float) -> float:
        return max(load, work) if workers else load + work

    # However a batch was selected, training is the same work: one median of all is steadier.
    train = median(trained for both in times.values() for _, trained in both)
    uniform, rows = whole(loads[batch], train), list[PlanRow]()
    for (option, ratio), both in times.items():
        if option != "uniform":
            size, select = ratio * batch, median(selected for selected, _ in both)
            step = whole(loads[size], select + train)
            rows.append(PlanRow(option, ratio, size, loads[size], select, step, step / uniform))
    return Plan(
        small_batch=batch,
        load=loads[batch],
        train=train,
        uniform=uniform,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _load(
    dataset: IndexedDataset, size: int, workers: int, device: torch.device, seconds: float
) -> tuple[float, Any]:
    """Return the mean seconds of loading a batch, and a batch.

    Workers deliver in bursts, so the median would say nothing.
    """
    batches = iter(loader(dataset, LargeBatchSampler(len(dataset), size, seed=0), workers=workers))
    # What the workers fetch while they start says nothing about their speed.
    first = to(next(batches), device)
    for _ in range(2 * workers):
        next(batches)
    started, spent, count = time.perf_counter(), 0.0, 0
    while count < _REPEATS or spent < seconds:
        to(next(batches), device)
        spent, count = _now(device) - started, count + 1
    return spent / count, first


def _now(device: torch.device) -> float:
    """Return the time at which the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
