"""Checks of a run before its first step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rho_train.checks import check_flags, check_ids
from rho_train.dataset import IndexedDataset, check_indexed
from rho_train.dry_run import dry_run
from rho_train.il.store import ILStore
from rho_train.online import OnlineModel
from rho_train.sampler import LargeBatchSampler
from rho_train.selector import Selector

if TYPE_CHECKING:
    from rho_train.trainer.loop import Trainer

_EVAL_EXAMPLES = 32  # that the model is tried on


def check_run(run: Trainer) -> None:
    """Refuse what would fail, or silently go wrong, at some later step, by a dry run too."""
    model, config, selector = run.model, run.config, run.selector
    check_indexed("Trainer", run.dataset)
    n = len(run.dataset)
    check_ids("Trainer", "train_ids", run.train_ids, n)
    check_flags("Trainer", run.flags, n)
    eval_set = run.eval_set
    assert isinstance(eval_set, IndexedDataset)
    if not len(eval_set):
        raise ValueError("Trainer: eval_set must have at least one example, got none")
    if run.agreement and selector is not None:
        raise ValueError("Trainer: agreement draws small batches; leave the Selector out")
    rank, world = run.ranks
    for name, size in (("batch", config.batch), ("large_batch", config.large_batch)):
        if size % world:
            raise ValueError(
                f"Trainer: {name} = {size} is of all {world} ranks and must divide into equal "
                f"shares; give a multiple of {world}"
            )
    ignored = -100 if selector is None else selector.ignore_index
    if world > 1 and selector is None:
        left_out = int((run.dataset.labels[run.train_ids.cpu()] == ignored).sum())
        if left_out:
            raise ValueError(
                f"Trainer: {left_out} of the train_ids have the label {ignored}, which ranks would "
                "count into means of their own; leave these out"
            )
    shared = world if selector is not None and selector.scope == "local" else 1
    if selector is not None:
        for misfit in _misfits(selector, n, run, shared, world):
            raise ValueError(f"Trainer: {misfit}")
        for step in range(config.steps) if callable(selector.ratio) else ():
            selector.size(config.large_batch // shared, step)
        _check_il(selector, run.dataset, run.train_ids)
    name, count = "batch" if selector is None else "large_batch", len(run.train_ids)
    if (drawn := getattr(config, name)) > count:
        raise ValueError(f"Trainer: {name} must lie in [1, {count}], the train_ids, got {drawn}")
    sampler = LargeBatchSampler(run.train_ids, drawn, seed=run.seed, rank=rank, world=world)
    first = next(iter(sampler))
    positions = torch.tensor(first, dtype=torch.int64, device="cpu")
    try_out = partial(dry_run, forward=run.forward)
    batch = try_out("Trainer", model, run.dataset, positions, run.train_ids, ignore_index=ignored)
    rows = torch.arange(len(eval_set), dtype=torch.int64, device="cpu")
    try_out("Trainer: eval_set", model, eval_set, rows[:_EVAL_EXAMPLES], rows)
    if selector is not None:
        uniform = selector.phases or (lambda step: False)
        selector.steps = next((t for t in range(config.steps) if not uniform(t)), config.steps)
        if selector.steps == config.steps:
            raise ValueError(
                f"Trainer: phases are uniform in all {config.steps} steps; shorten them"
            )
        try:
            selector.preview(model, batch)
        finally:
            selector.steps = 0


def _misfits(selector: Selector, n: int, run: Trainer, shared: int, world: int) -> Iterator[str]:
    """Give what in the Selector does not fit the run; `shared` ranks select for themselves."""
    config, history = run.config, selector.history
    batch = config.large_batch // shared
    smoothing, k = selector.label_smoothing, selector.size(batch)
    if selector.loss_fn is not None:
        yield "it trains by cross-entropy; call a Selector with loss_fn= in a loop of your own"
    if selector.forward is not run.forward and selector.scorer is None:
        yield "forward= must be the same for the Trainer and for its Selector; give it to both"
    if isinstance(selector.il, str):
        yield f"its batches have no field {selector.il!r}; give il= a store or a table by id"
    for part in (selector.il, selector.scorer) if world > 1 else ():
        if isinstance(part, OnlineModel) and not isinstance(part.model, DistributedDataParallel):
            wrapped = "OnlineModel(DistributedDataParallel(model))"
            yield f"an OnlineModel would become another on each of {world} ranks; give {wrapped}"
    if selector.steps:
        yield f"the Selector has made {selector.steps} selections in another run; make a new one"
    # The losses of a store are without, and the Selector refuses to score otherwise.
    if smoothing != config.label_smoothing and not isinstance(selector.il, ILStore):
        yield (
            f"it trains with label smoothing {config.label_smoothing}, the Selector scores with "
            f"{smoothing}; make them agree"
        )
    if k * shared != config.batch:
        of = f"the Selector selects {k} of a large batch of {batch}"
        of += f" on each of {shared} ranks" if shared > 1 else ""
        yield f"{of}, TrainConfig.batch is {config.batch}; make them agree"
    if history is not None and len(history) != n:
        yield f"the History has {len(history)} ids, the data set has {n}; History(len(dataset))"


def check_trained(model: nn.Module) -> None:
    """Refuse parameters that the loss of the first step did not use, as ranks must all have."""
    named = model.named_parameters()
    if unused := [name for name, p in named if p.requires_grad and p.grad is None]:
        raise ValueError(
            f"Trainer: the loss does not use {', '.join(unused[:8])}; several ranks need a "
            "gradient of each: call requires_grad_(False) on them, or leave them out"
        )


def _check_il(selector: Selector, dataset: IndexedDataset, train_ids: Tensor) -> None:
    """Refuse irreducible losses of other data, and warn of examples without one."""
    if isinstance(selector.il, ILStore):
        selector.il.verify(dataset)
    if "il" not in selector.needs or isinstance(selector.il, OnlineModel):
        return
    if isinstance(selector.il, Tensor) and len(selector.il) != len(dataset):
        raise ValueError(
            f"Trainer: il has {len(selector.il)} rows, the data set has {len(dataset)} examples; "
            "give one row an example, NaN where it is unknown"
        )
    il = selector.il_of(train_ids)
    assert il is not None
    if len(infinite := train_ids[il.isinf()]):
        raise ValueError(
            f"Trainer: il must be finite or NaN (unknown), got an infinite value at id "
            f"{int(infinite[0])}; the IL model has diverged"
        )
    unknown = int(il.isnan().sum())
    if unknown == len(il):
        raise ValueError(
            f"Trainer: the irreducible loss of all {unknown} train_ids is unknown (NaN); train on "
            "examples of the store, for a holdout those that are not held out"
        )
    if unknown:
        warnings.warn(
            f"Trainer: the irreducible loss of {unknown} of {len(il)} train_ids is unknown (NaN); "
            "they are never selected. Leave them out: train_ids[store.known[train_ids]]",
            stacklevel=5,
        )
