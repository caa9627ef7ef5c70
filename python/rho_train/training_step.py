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
    bf16: bool | None = None,
) -> Trained:
    """Take one optimizer step on a batch of the model's device; `where` names the caller in errors.

    The loss is the mean cross-entropy, or the mean of `(weights * losses)`. With `loss_fn` and no
    weights it is the mean over the examples that have a loss. Losses are computed in float32, in
    float64 if the logits are. Nothing here waits for the device.
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
            if weights is None and not label_smoothing:
                loss = F.cross_entropy(logits, labels)
            else:
                # The mean of smoothed losses rounds in another way inside cross_entropy.
                losses = F.cross_entropy(
                    logits, labels, reduction="none", label_smoothing=label_smoothing
                )
                loss = (losses if weights is None else weights * losses).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if schedule is not None:
        schedule.step()
    return Trained(fields, None if logits is None else logits.detach(), loss.detach())
