"""Checks of a run before its first step."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rho_train.checks import check_flags, check_ids
from rho_train.dataset import IndexedDataset, check_indexed
from rho_train.dry_run import dry_run
from rho_train.il.shards import ILShards
from rho_train.il.store import ILStore
from rho_train.methods.registry import needs_of
from rho_train.online import OnlineModel
from rho_train.sampler import LargeBatchSampler
from rho_train.schedules import Schedule
from rho_train.selector import Selector
from rho_train.trainer.config import RunData, TrainConfig
from rho_train.trainer.evaluation import preview

_EVAL_EXAMPLES = 32  # that the model is tried on


def check_run(model: nn.Module, run: RunData) -> None:
    """Refuse what would fail, or silently go wrong, at some later step.

    The model makes a forward pass on the first batch, and the Selector previews a selection.
    """
    config, selector = run.config, run.selector
    check_indexed("Trainer", run.dataset)
    n = len(run.dataset)
    check_ids("Trainer", "train_ids", run.train_ids, n)
    check_flags("Trainer", run.flags, n)
    if not len(run.eval_set):
        raise ValueError("Trainer: eval_set must have at least one example, got none")
    if config.bn_recalibration_batches and not any(
        isinstance(part, _BatchNorm) for part in model.modules()
    ):
        raise ValueError(
            "Trainer: TrainConfig.bn_recalibration_batches is "
            f"{config.bn_recalibration_batches}, and {type(model).__name__} has no BatchNorm; "
            "leave it at 0"
        )
    if selector is not None:
        _check_selector(selector, model, n, config)
        _check_il(selector, run.dataset, run.train_ids)
    drawn = config.batch if selector is None else config.large_batch
    first = torch.tensor(next(iter(LargeBatchSampler(run.train_ids, drawn, seed=run.seed))))
    ignored = -100 if selector is None else selector.ignore_index
    batch = dry_run("Trainer", model, run.dataset, first, run.train_ids, ignore_index=ignored)
    rows = torch.arange(len(run.eval_set))
    dry_run("Trainer: eval_set", model, run.eval_set, rows[:_EVAL_EXAMPLES], rows)
    if selector is not None:
        _preview(selector, model, batch)


def _check_selector(selector: Selector, model: nn.Module, n: int, config: TrainConfig) -> None:
    if selector.loss_fn is not None:
        raise ValueError(
            "Trainer: it trains classifiers, by cross-entropy and accuracy, and the Selector has "
            "loss_fn= of its own; call the Selector in a loop of your own"
        )
    if selector.steps:
        raise ValueError(
            f"Trainer: the Selector has made {selector.steps} selections in another run; make a "
            "new one, a checkpoint restores it by itself"
        )
    if selector.label_smoothing:
        raise ValueError(
            f"Trainer: it trains without label smoothing, the Selector scores with "
            f"{selector.label_smoothing}; leave it out"
        )
    if selector.size(config.large_batch) != config.batch:
        raise ValueError(
            f"Trainer: the Selector selects {selector.size(config.large_batch)} of a large "
            f"batch of {config.large_batch}, TrainConfig.batch is {config.batch}; make "
            "them agree"
        )
    if isinstance(selector.ratio, Schedule):
        for step in selector.ratio.begins:
            selector.size(config.large_batch, step)
    selector.check(model)
    if selector.phases is not None and selector.phases.steps != config.steps:
        raise ValueError(
            f"Trainer: UniformPhases.steps is {selector.phases.steps}, TrainConfig.steps "
            f"is {config.steps}; make them agree"
        )
    if selector.history is not None and len(selector.history) != n:
        raise ValueError(
            f"Trainer: the History has {len(selector.history)} ids, the data set has {n}; make it "
            "with History(len(dataset))"
        )


def _check_il(selector: Selector, dataset: IndexedDataset, train_ids: Tensor) -> None:
    """Refuse irreducible losses of other data, and warn of examples without one."""
    if isinstance(selector.il, (ILStore, ILShards)):
        selector.il.verify(dataset)
    if "il" not in needs_of(selector.method) or isinstance(selector.il, OnlineModel):
        return
    if isinstance(selector.il, Tensor) and len(selector.il) != len(dataset):
        raise ValueError(
            f"Trainer: il has {len(selector.il)} rows, the data set has {len(dataset)} examples; "
            "give one row an example, NaN where it is unknown"
        )
    il = selector.il_of(train_ids)
    assert il is not None
    if il.isinf().any():
        raise ValueError(
            f"Trainer: il must be finite or NaN (unknown), got {float(il[il.isinf()][0])} at id "
            f"{int(train_ids[il.isinf()][0])}; the IL model has diverged"
        )
    unknown = int(il.isnan().sum())
    if unknown == len(il):
        raise ValueError(
            f"Trainer: the irreducible loss of all {unknown} train_ids is unknown (NaN); train on "
            "examples that the store covers, for a holdout store those that are not held out"
        )
    if unknown:
        warnings.warn(
            f"Trainer: the irreducible loss of {unknown} of {len(il)} train_ids is unknown (NaN); "
            "they are never selected. Leave them out: train_ids[store.known[train_ids]]",
            stacklevel=4,
        )


def _preview(selector: Selector, model: nn.Module, batch: Any) -> None:
    """Preview the selection of a batch, as in the first step that is not uniform."""
    phases = selector.phases
    if phases is not None:
        steps = (step for step in range(phases.steps) if not phases.uniform(step))
        selector.steps = next(steps, 0)
    try:
        preview(selector, model, batch)
    finally:
        selector.steps = 0
