"""The optimizer of the paper, its learning rates, and a fast mode for tiny numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

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

    Examples:
        >>> with subnormals_flushed():
        ...     torch.tensor(2e-38) / 4
        tensor(0.)
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
