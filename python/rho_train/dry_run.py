"""Dry run: check batch, logits and labels before training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
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
    rounding_of,
    scoring_mode,
)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore torch's random state and the buffers of a model afterwards."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


@contextmanager
def takes_the_batch(where: str, batch: Any) -> Iterator[None]:
    """Name a model, or a function of the user, that its first batch does not fit."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, KeyError) as error:
        fix = "check shapes and dtypes"
        if not isinstance(error, RuntimeError):
            fix = f"the batch is a {describe(batch)}; give forward= or mend loss_fn="
        raise ValueError(f"{where}: the model cannot take the batch ({error}); {fix}") from error


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
    without a class; with `loss_fn`, losses of which none is finite; a collate_fn that gives rows
    in another order. The random state is restored.
    """
    check_module(where, model)
    with unchanged(model), global_seed(0):
        samples = dataset.__getitems__(positions.tolist())

        def run(samples: Sequence[Any]) -> tuple[Any, Fields, Any]:
            batch = to(dataset.collate(samples), device_of(model))
            fields = split(batch, where, needs_labels=loss_fn is None)
            with scoring_mode(model) as scorer, takes_the_batch(where, batch):
                return batch, fields, output_of(where, scorer, batch, fields, forward, loss_fn)

        batch, fields, output = run(samples)
        is_rows = isinstance(output, Tensor) and len(output) == len(samples)
        if dataset.collate_fn is not None and is_rows:
            _check_order(where, output, lambda row: run([samples[row]])[2], rounding_of(model))
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
            f"({len(positions)}, C), got {describe(output)}; without classes give loss_fn="
        )
    _check_shown(where, fields, dataset.labels)
    for rows in ids:
        check_labels(where, dataset.labels[rows], rows, output.shape[1], ignore_index)
    return batch


def _check_order(
    where: str, output: Tensor, alone: Callable[[int], Tensor], rounding: float
) -> None:
    """Refuse rows that are, for some examples, those of others; warn if they are of none."""
    n = len(output)
    rows = output.reshape(n, -1).float()
    for row in sorted({0, n // 3, 2 * n // 3, n - 1}):
        found = alone(row).reshape(1, -1).float()
        if found.shape[1] != rows.shape[1]:
            return  # no logits (n, C), which is refused elsewhere
        gaps = (rows - found).abs()
        near = (gaps <= rounding**0.5 * found.abs().clamp_min(1.0)) | (rows.isnan() & found.isnan())
        same = near.all(1)
        if same[row]:
            continue
        if same.any():
            raise ValueError(
                f"{where}: the collate_fn gives the examples in another order than it gets them: "
                f"what the model returns for example {row} of the first {n} is in another row; "
                "keep their order (sort and restore it in the model, or enforce_sorted=False)"
            )
        warnings.warn(
            f"{where}: what the model returns for an example depends on the others of its batch, "
            f"or on random numbers (alone it differs by up to {float(gaps[row].max()):.3g}); so "
            "does its irreducible loss: mask the padding, and draw nothing in the collate_fn",
            stacklevel=4,
        )
        return


def _check_shown(where: str, fields: Fields, labels: Tensor) -> None:
    shown = labels[fields.ids.cpu().long()]
    if not torch.equal(fields.labels.cpu().long(), shown):
        raise ValueError(
            f"{where}: the labels that IndexedDataset shows are not those of its examples: of the "
            f"ids {fields.ids[:3].tolist()} it shows {shown[:3].tolist()}, their batch has "
            f"{fields.labels[:3].tolist()}; pass those: IndexedDataset(dataset, labels=labels)"
        )
