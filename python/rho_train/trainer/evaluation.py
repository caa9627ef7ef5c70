"""Looks at a model in training; none of them changes the run."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rho_ext
from rho_train.batch import split, to
from rho_train.checkpoint import random_state, restore_random_state
from rho_train.dataset import IndexedDataset
from rho_train.dry_run import unchanged
from rho_train.online import OnlineModel
from rho_train.sampler import LargeBatchSampler
from rho_train.scoring import logits_of, scoring_mode
from rho_train.selector import LastSelection, Selector
from rho_train.tasks.image_files import ImageFiles

# Rows of a batch, and their numbers: a convolution makes many of each.
_EVAL_ROWS = 4096
_EVAL_NUMBERS = 1 << 18
_SAMPLED_BATCHES = 4


class Evaluation(NamedTuple):
    """Accuracy in [0, 1] and mean cross-entropy in nats on a test set, and the accuracy by class,
    None for a class without a test point."""

    accuracy: float
    loss: float
    class_accuracy: list[float | None]


def evaluate(
    model: nn.Module, x: Tensor | ImageFiles, y: Tensor, *, bf16: bool | None = None
) -> Evaluation:
    """Evaluate a model on inputs x (n, ...), labels y int64 (n,).

    Example:
        >>> x, y = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0]]), torch.tensor([0, 1])
        >>> found = evaluate(nn.Identity(), x, y)
        >>> found.accuracy, found.class_accuracy
        (0.5, [1.0, 0.0, None])
    """
    predicted, loss, classes = [], 0.0, 0
    with scoring_mode(model, bf16=bf16) as scorer:
        rows = max(1, min(_EVAL_ROWS, _EVAL_NUMBERS // math.prod(x.shape[1:])))
        for begin in range(0, len(y), rows):
            labels = y[begin : begin + rows]
            inputs: Tensor = x[begin : begin + rows]  # type: ignore[assignment]
            logits = logits_of(scorer, inputs.to(y.device)).float()
            predicted.append(logits.argmax(1))
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            classes = logits.shape[1]
    right = torch.cat(predicted) == y
    points = y[y >= 0].bincount(minlength=classes).tolist()
    hits = y[right].bincount(minlength=classes).tolist()
    return Evaluation(
        float(right.double().mean()),
        loss / len(y),
        [hit / of if of else None for hit, of in zip(hits, points, strict=True)],
    )


def look(selector: Selector, model: nn.Module, batch: Any) -> LastSelection:
    """Return what the Selector would keep; scoring in training mode changes nothing either."""
    scorer = selector.scorer.model if isinstance(selector.scorer, OnlineModel) else selector.scorer
    with unchanged(model if scorer is None else scorer):
        return selector.preview(model, batch)


def sample(
    model: nn.Module,
    selector: Selector,
    dataset: IndexedDataset,
    sampler: LargeBatchSampler,
    noisy: Tensor | None,
) -> dict[str, Any]:
    """Return what the Selector would keep of the first large batches of a sampler, as lists.

    `ids`, `loss`, `selected`, and `il` and `noisy` where they are known. Points without a finite
    loss or irreducible loss are left out: JSON has no NaN.
    """
    device = next(model.parameters()).device
    state = random_state(device)
    ids, losses, selected = [], [], []
    for positions in islice(sampler, min(_SAMPLED_BATCHES, sampler.batches_per_epoch)):
        batch = dataset.collate(dataset.__getitems__(positions))
        batch = to(batch, device)
        last = look(selector, model, batch)
        ids.append(last.ids)
        losses.append(_losses(model, batch) if last.losses is None else last.losses)
        selected.append(torch.zeros_like(last.ids, dtype=torch.bool))
        selected[-1][last.indices] = True
    restore_random_state(state, device)
    points = torch.cat(ids)
    record = {"ids": points, "loss": torch.cat(losses), "selected": torch.cat(selected)}
    known = record["loss"].isfinite()
    il = selector.il_of(points)
    if il is not None:
        record["il"] = il
        known &= record["il"].isfinite()
    if noisy is not None:
        record["noisy"] = noisy[points]
    lists = {name: value[known].tolist() for name, value in record.items()}
    return {"il": None, "noisy": None, **lists}


def _losses(model: nn.Module, batch: Any) -> Tensor:
    fields = split(batch)
    with scoring_mode(model) as scorer:
        logits = logits_of(scorer, fields.inputs)
        return rho_ext.score(logits, fields.labels, None, method="loss").losses
