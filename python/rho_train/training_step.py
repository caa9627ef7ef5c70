"""The training step of every loop in this package: forward, loss, backward, update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rho_train.batch import Fields, split
from rho_train.scoring import ForwardFunction, LossFunction, device_of, output_of


class Trained(NamedTuple):
    """The batch of a step, its logits (n, C), None with `loss_fn`, and its loss (), in nats."""

    fields: Fields
    logits: Tensor | None
    loss: Tensor


def gce_losses(logits: Tensor, labels: Tensor, q: float = 0.3) -> Tensor:
    """Return the generalised cross-entropies (1 - p^q) / q (Zhang and Sabuncu, NeurIPS 2018).

    A loss that wrong labels harm less: for an example whose label has the probability p, its
    gradient is p^q times that of the cross-entropy. It is finite, also where p rounds to 0.

    Args:
        logits: floating point (n, C).
        labels: int64 (n,); the loss of -100 is 0.
        q: in (0, 1]. Near 0 it is the cross-entropy, at 1 the mean absolute error. With many
            classes a model does not begin to learn by a high q: 0.5 is too high for 26.

    Returns:
        Losses (n,), in float32, or in float64 if the logits are. ValueError: q is out of range.

    Examples:
        >>> gce_losses(torch.zeros(1, 2), torch.tensor([0]), q=1.0)
        tensor([0.5000])
    """
    if not 0.0 < q <= 1.0:
        raise ValueError(f"gce_losses: q must lie in (0, 1], got {q}")
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    # p^q as exp(-q * CE), because the derivative of p^q is infinite at 0.
    return -torch.expm1(-q * F.cross_entropy(logits, labels, reduction="none")) / q


def training_step(
    model: nn.Module,
    batch: Any,
    optimizer: Optimizer,
    schedule: LRScheduler | None = None,
    *,
    where: str = "training_step",
    weights: Tensor | None = None,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    label_smoothing: float = 0.0,
    gce: float = 0.0,
    bf16: bool | None = None,
) -> Trained:
    """Take one optimizer step on a batch of the model's device; `where` names the caller in errors.

    The loss is the mean of the cross-entropies, or of `gce_losses(q=gce)`, over the examples that
    have a label, with `loss_fn` over those that have a loss; or the mean of `(weights * losses)`.
    Losses are computed in float32, in float64 if the logits are. Nothing here waits for the device.
    """
    fields, logits = split(batch, where, needs_labels=loss_fn is None), None
    autocast: AbstractContextManager[object] = nullcontext()
    if bf16 is not None:
        autocast = torch.autocast(device_of(model).type, torch.bfloat16, enabled=bf16)
    with autocast:
        found = output_of(where, model, batch, fields, forward, loss_fn)
        if loss_fn is not None:
            loss = found.nanmean() if weights is None else (weights * found).mean()
        else:
            logits = found.float() if found.dtype.itemsize < 4 else found
            labels = fields.labels.long()
            if weights is None and not (label_smoothing or gce):
                loss = F.cross_entropy(logits, labels)
            else:
                # The mean of smoothed losses rounds in another way inside cross_entropy.
                if gce:
                    losses = gce_losses(logits, labels, gce)
                else:
                    losses = F.cross_entropy(
                        logits, labels, reduction="none", label_smoothing=label_smoothing
                    )
                known = (labels != -100).sum()
                loss = losses.sum() / known if weights is None else (weights * losses).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if schedule is not None:
        schedule.step()
    return Trained(fields, None if logits is None else logits.detach(), loss.detach())
