"""Dry run: check batch, logits and labels before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.batch import Fields, describe, split, to
from rho_train.checks import check_labels
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.rng import global_seed
from rho_train.scoring import (
    ForwardFunction,
    LossFunction,
    check_module,
    device_of,
    output_of,
    scoring_mode,
)


@contextmanager
def unchanged(*models: nn.Module) -> Iterator[None]:
    """Restore torch's random state and the buffers of models afterwards."""
    buffers = [(buffer, buffer.clone()) for model in models for buffer in model.buffers()]
    devices = {device_of(model) for model in models}
    with torch.random.fork_rng(devices=[one for one in devices if one.type == "cuda"]):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


@contextmanager
def takes_the_batch(where: str) -> Iterator[None]:
    """Name a model that its first batch does not fit."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"{where}: the model cannot take the batch ({error}); check shapes and dtypes"
        ) from error


def dry_run(
    where: str,
    model: nn.Module,
    dataset: IndexedDataset,
    positions: Tensor,
    *ids: Tensor,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    ignore_index: int = -100,
) -> Any:
    """Read the batch at `positions`, run the model on it, and return it on the model's device.

    Refuse logits that are not (b, C), labels that the data set does not show, and labels of `ids`
    without a class; with `loss_fn`, losses of which none is finite. The random state is restored.
    """
    check_module(where, model)
    with unchanged(model), global_seed(0):
        samples = dataset.__getitems__(positions.tolist())
        batch = to(dataset.collate(samples), device_of(model))
        fields = split(batch, where, needs_labels=loss_fn is None)
        with scoring_mode(model) as scorer, takes_the_batch(where):
            output = output_of(where, scorer, batch, fields, forward, loss_fn)
    if loss_fn is not None:
        if not output.isfinite().any():
            raise ValueError(
                f"{where}: none of the losses of the first {len(positions)} examples is finite, "
                f"got {output[:3].tolist()}; check loss_fn="
            )
        plain = fields.labels.ndim == 1 and not fields.labels.is_floating_point()
        if plain and fingerprint(dataset)["labels"] != "none":
            _check_shown(where, fields, dataset.labels)
        return batch
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(positions):
        raise ValueError(
            f"{where}: {'the model' if forward is None else 'forward='} must return logits "
            f"({len(positions)}, C), got {describe(output)}; for examples that are no "
            "classification give loss_fn="
        )
    _check_shown(where, fields, dataset.labels)
    for rows in ids:
        check_labels(where, dataset.labels[rows], rows, output.shape[1], ignore_index)
    return batch


def _check_shown(where: str, fields: Fields, labels: Tensor) -> None:
    shown = labels[fields.ids.cpu().long()]
    if not torch.equal(fields.labels.cpu().long(), shown):
        raise ValueError(
            f"{where}: the labels that IndexedDataset shows are not those of its examples: of the "
            f"ids {fields.ids[:3].tolist()} it shows {shown[:3].tolist()}, their batch has "
            f"{fields.labels[:3].tolist()}; pass those: IndexedDataset(dataset, labels=labels)"
        )
