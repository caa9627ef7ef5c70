"""The training step of every loop in this package, its optimizer and its learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from rho_train.batch import Fields, split
from rho_train.scoring import ForwardFunction, LossFunction, device_of, output_of

LRSchedule = Literal["constant", "linear", "cosine"]

MakeOptimizer = Callable[[nn.Module], Optimizer]
"""Makes the optimizer of a model."""


def adamw(model: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Return AdamW with torch's defaults (paper, Appendix B), updated in one fused pass."""
    return AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)


@contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Treat numbers below 1.2e-38 as 0 in this thread, and restore its mode.

    AdamW's mean gradient of a weight without gradients decays to such numbers, which take a
    hundred cycles each: on a Xeon a step of an MLP took twice as long from step 800 on. torch's own
    threads inherit the mode when they start.
    """
    tiny = torch.tensor(2e-38, dtype=torch.float32, device="cpu")
    before = bool(tiny / 4 == 0)
    # False where the processor has no such mode, which is as good.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def check_adamw(where: str, lr: float, weight_decay: float, schedule: str = "constant") -> None:
    """Refuse settings that AdamW cannot train with, and schedules that are unknown."""
    if not 0.0 < lr < math.inf:
        raise ValueError(f"{where}: lr must be positive and finite, got {lr}")
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"{where}: weight_decay must be finite and at least 0, got {weight_decay}")
    if schedule not in get_args(LRSchedule):
        raise ValueError(
            f"{where}: schedule must be one of {', '.join(get_args(LRSchedule))}, got {schedule!r}"
        )


def lr_schedule(
    optimizer: Optimizer, schedule: LRSchedule, steps: int, warmup: float = 0.0
) -> LambdaLR:
    """Return a constant rate, or a decay to zero over `steps`: linear, or half a cosine.

    It rises from zero over the share `warmup` of the steps, before the decay.
    """
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        done = min((step - rising) / max(1, steps - rising), 1.0)
        if schedule == "linear":
            return 1.0 - done
        return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0

    return LambdaLR(optimizer, factor)


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
