"""The margin of an example: how far its logit is above the others, from any forward pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rho_train.batch import describe
from rho_train.checks import check_labels

UNKNOWN = math.inf


def check_rows(where: str, ids: Tensor, outputs: Tensor, labels: Tensor | None) -> None:
    """Refuse what has not one row an example, or another type."""
    if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{where}: ids must be an int64 tensor (m,), got {describe(ids)}")
    wanted = "a number for each example, (m,)" if labels is None else "logits (m, C)"
    shape = outputs.shape if isinstance(outputs, Tensor) else ()
    if len(shape) != 1 + (labels is not None) or not outputs.is_floating_point():
        fix = "pass labels too" if labels is None else "C classes in the last dimension"
        raise TypeError(
            f"{where}: outputs must be {wanted}, floating point, got {describe(outputs)}; {fix}"
        )
    if labels is not None and labels.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{where}: labels must be int64 or int32 (m,), got {describe(labels)}")
    if shape[:1] != ids.shape or (labels is not None and labels.shape != ids.shape):
        raise ValueError(
            f"{where}: ids, outputs and labels must have one row an example, got {len(ids)} ids, "
            f"outputs {tuple(shape)}" + ("" if labels is None else f", {describe(labels)} labels")
        )


def margins(where: str, ids: Tensor, outputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return logits[label] - max(other logits) beside the label, float32 (m, 2).

    Without labels `outputs` beside -1. NaN, and examples with the label -100, become UNKNOWN.
    """
    values = outputs.float()
    if labels is None:
        return torch.stack([values, -torch.ones_like(values)], 1).nan_to_num(UNKNOWN, UNKNOWN)
    labels, classes = labels.to(values.device, torch.int64, non_blocking=True), values.shape[1]
    known = (labels >= 0) & (labels < classes)
    if not labels.is_cuda and bool((labels[~known] != -100).any()):
        check_labels(where, labels, ids, classes)  # names the first
    column = labels.clamp(0, classes - 1).unsqueeze(1)
    own, others = values.gather(1, column), values.scatter(1, column, -math.inf)
    values = torch.where(known, own.squeeze(1) - others.amax(1), math.nan)
    found = torch.stack([values, torch.where(known, labels, -1).float()], 1)
    return found.nan_to_num(UNKNOWN, posinf=UNKNOWN)
