"""Looks at a model in training; none of them changes the run."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rho_ext
from rho_train.data import ImageFiles, IndexedDataset, LargeBatchSampler, split, to
from rho_train.rehearsal import unchanged
from rho_train.scoring import logits_of, scoring
from rho_train.selection import LastSelection, OnlineModel, Selector
from rho_train.training.checkpoint import random_state, restore_random_state

# Rows of a batch, and their numbers: a convolution makes many of each.
_EVAL_ROWS = 4096
_EVAL_NUMBERS = 1 << 18
_SAMPLED_BATCHES = 4


def evaluate(
    model: nn.Module, x: Tensor | ImageFiles, y: Tensor, *, bf16: bool | None = None
) -> tuple[float, float]:
    """Return the accuracy and the mean cross-entropy in nats on inputs x (n, ...), labels y (n,).

    Example:
        >>> accuracy, loss = evaluate(nn.Identity(), torch.tensor([[9.0, 0.0]]), torch.tensor([0]))
        >>> accuracy
        1.0
    """
    correct, loss = 0, 0.0
    with scoring(model, bf16=bf16) as scorer:
        rows = max(1, min(_EVAL_ROWS, _EVAL_NUMBERS // math.prod(x.shape[1:])))
        for begin in range(0, len(y), rows):
            labels = y[begin : begin + rows]
            inputs: Tensor = x[begin : begin + rows]  # type: ignore[assignment]
            logits = logits_of(scorer, inputs.to(y.device)).float()
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return correct / len(y), loss / len(y)


def look(selector: Selector, model: nn.Module, batch: Any) -> LastSelection:
    """Return what the Selector would keep; scoring in training mode changes nothing either."""
    scorer = selector.scorer.model if isinstance(selector.scorer, OnlineModel) else selector.scorer
    with unchanged(model if scorer is None else scorer):
        return selector.look(model, batch)


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
    state = random_state()
    ids, losses, selected = [], [], []
    for positions in islice(sampler, min(_SAMPLED_BATCHES, sampler.batches_per_epoch)):
        batch = dataset.collate(dataset.__getitems__(positions))
        batch = to(batch, next(model.parameters()).device)
        last = look(selector, model, batch)
        ids.append(last.ids)
        losses.append(_losses(model, batch) if last.losses is None else last.losses)
        selected.append(torch.zeros_like(last.ids, dtype=torch.bool))
        selected[-1][last.indices] = True
    restore_random_state(state)
    points = torch.cat(ids)
    record = {"ids": points, "loss": torch.cat(losses), "selected": torch.cat(selected)}
    known = record["loss"].isfinite()
    il = selector.irreducible.of(points)
    if il is not None:
        record["il"] = il
        known &= record["il"].isfinite()
    if noisy is not None:
        record["noisy"] = noisy[points]
    lists = {name: value[known].tolist() for name, value in record.items()}
    return {"il": None, "noisy": None, **lists}


def _losses(model: nn.Module, batch: Any) -> Tensor:
    fields = split(batch)
    with scoring(model) as scorer:
        logits = logits_of(scorer, fields.inputs)
        return rho_ext.score(logits, fields.labels, None, method="loss").losses
