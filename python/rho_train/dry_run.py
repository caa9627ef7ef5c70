"""Dry run: check batch, logits and labels before training."""

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
    """Restore torch's random state and the buffers of models afterwards."""
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
    *ids: Tensor,
    loss_fn: LossFunction | None = None,
    ignore_index: int = -100,
) -> Any:
    """Read the batch at `positions`, run the model on it, and return it on the model's device.

    The model and the random state stay as they are. The logits must be (b, C), the labels of the
    batch those that the data set shows, and all labels of each of `ids` must have a class. With
    `loss_fn` it must return a loss for each example instead, and one of them must be finite.
    """
    with unchanged(model), global_seed(0):
        samples = dataset.__getitems__(positions.tolist())
        batch = to(dataset.collate(samples), device_of(model))
        fields = split(batch, where)
        with scoring_mode(model) as scorer:
            if loss_fn is None:
                logits = logits_of(scorer, fields.inputs)
            else:
                losses = losses_of(where, scorer, batch, loss_fn, len(positions))
    if loss_fn is not None:
        if not losses.isfinite().any():
            raise ValueError(
                f"{where}: none of the losses of the first {len(positions)} examples is finite, "
                f"got {losses[:3].tolist()}; look at what loss_fn= does with their labels"
            )
        return batch
    if logits.ndim != 2 or len(logits) != len(positions):
        raise ValueError(
            f"{where}: the model must return logits ({len(positions)}, C) for a batch of "
            f"{len(positions)}, got {tuple(logits.shape)}; for examples that are no classification "
            "give loss_fn="
        )
    shown = dataset.labels[fields.ids.cpu().long()]
    if fields.labels.shape != shown.shape or not torch.equal(fields.labels.cpu().long(), shown):
        raise ValueError(
            f"{where}: the labels that IndexedDataset shows are not those of its examples: of the "
            f"examples {fields.ids[:3].tolist()} it shows {shown[:3].tolist()}, and their batch "
            f"has {fields.labels[:3].tolist()}; pass the labels as they come out: "
            "IndexedDataset(dataset, labels=labels)"
        )
    for rows in ids:
        check_labels(where, dataset.labels[rows], rows, logits.shape[1], ignore_index)
    return batch
