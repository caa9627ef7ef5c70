"""One forward pass before hours of them: what the data and the model do not agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.batch import split, to
from rho_train.checks import check_labels
from rho_train.dataset import IndexedDataset
from rho_train.rng import global_seed
from rho_train.scoring import LossFunction, device_of, logits_of, losses_of, scoring_mode


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """Put torch's random state and the buffers of models back to what they were.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> with unchanged(model):
        ...     _ = model(torch.ones(3, 2))
        >>> model.running_mean
        tensor([0., 0.])
    """
    buffers = [(buffer, buffer.clone()) for model in models for buffer in model.buffers()]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def dry_run(
    where: str,
    model: nn.Module,
    dataset: IndexedDataset,
    positions: Tensor,
    ids: Tensor,
    *,
    ignore_index: int = -100,
) -> tuple[Any, int]:
    """Read a batch, run the model on it, and compare its classes with the labels of all examples.

    Args:
        where: the caller, named in errors.
        model: left as it was.
        dataset: that training will read.
        positions: int64 (b,), of the batch.
        ids: int64 (m,), of all examples that will be trained on or scored.
        ignore_index: label of examples without one.

    Returns:
        The batch, on the device of the model, and the classes C of the model.

    Raises:
        ValueError: the batch has no ids, the model returns no logits (b, C), the data set shows
            other labels than its examples, or only ignored ones.
        TypeError: the ids or the labels of the batch are no tensors.
        IndexError: the model has no class for a label.
    """
    with unchanged(model), global_seed(0):
        batch = _first(model, dataset, positions)
        fields = split(batch, where)
        with scoring_mode(model) as scorer:
            logits = logits_of(scorer, fields.inputs)
    if logits.ndim != 2 or len(logits) != len(positions):
        raise ValueError(
            f"{where}: the model must return logits ({len(positions)}, C) for a batch of "
            f"{len(positions)}, got {tuple(logits.shape)}; for examples that are no classification "
            "give loss_fn="
        )
    labels = dataset.labels
    shown = labels[fields.ids.cpu().long()]
    if fields.labels.shape != shown.shape or not torch.equal(fields.labels.cpu().long(), shown):
        raise ValueError(
            f"{where}: the labels that IndexedDataset shows are not those of its examples: of the "
            f"examples {fields.ids[:3].tolist()} it shows {shown[:3].tolist()}, and their batch has "
            f"{fields.labels[:3].tolist()}; pass the labels as they come out: IndexedDataset("
            "dataset, labels=labels)"
        )
    classes = logits.shape[1]
    check_labels(where, labels[ids], ids, classes, ignore_index)
    return batch, classes


def dry_run_losses(
    where: str,
    model: nn.Module,
    dataset: IndexedDataset,
    positions: Tensor,
    losses: LossFunction,
) -> None:
    """Read a batch and let a function find the losses of a model on it.

    Raises:
        ValueError: the batch has no ids, or the function returns no loss for each example, or none
            that is finite.
        TypeError: the ids or the labels of the batch are no tensors.
    """
    with unchanged(model), global_seed(0):
        batch = _first(model, dataset, positions)
        split(batch, where)
        with scoring_mode(model) as scorer:
            found = losses_of(where, scorer, batch, losses, len(positions))
    if not found.isfinite().any():
        raise ValueError(
            f"{where}: none of the losses of the first {len(positions)} examples is finite, got "
            f"{found[:3].tolist()}; look at what loss_fn= does with their labels"
        )


def _first(model: nn.Module, dataset: IndexedDataset, positions: Tensor) -> Any:
    return to(dataset.collate(dataset.__getitems__(positions.tolist())), device_of(model))
