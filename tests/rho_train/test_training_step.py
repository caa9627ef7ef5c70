"""The training step, beside one that is written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from rho_train import Batch
from rho_train.optim import adamw
from rho_train.training_step import training_step

N = 9
WEIGHTS = torch.linspace(0.1, 2.0, N)


def batch_of(dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 4, generator=generator, dtype=dtype)
    return Batch(x, torch.arange(N) % 3, torch.arange(N))


def squared(model: nn.Module, batch: Any) -> Tensor:
    losses: Tensor = model(batch.x).square().sum(1)
    return losses.masked_fill(batch.ids == 4, torch.nan)


def halved(model: nn.Module, batch: Any) -> Tensor:
    logits: Tensor = model(batch.x / 2)
    return logits


def bf16(model: nn.Module, b: Batch) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model(b.x).float(), b.y)


def each(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none", **options)


@pytest.mark.parametrize(
    ("options", "loss_of", "dtype"),
    [
        ({}, lambda m, b: F.cross_entropy(m(b.x), b.y), torch.float32),
        ({}, lambda m, b: F.cross_entropy(m(b.x), b.y), torch.float64),
        ({}, lambda m, b: F.cross_entropy(m(b.x).float(), b.y), torch.bfloat16),
        ({"bf16": True}, bf16, torch.float32),
        ({"forward": halved}, lambda m, b: F.cross_entropy(m(b.x / 2), b.y), torch.float32),
        (
            {"weights": WEIGHTS},
            lambda m, b: (WEIGHTS * each(m(b.x), b.y)).mean(),
            torch.float32,
        ),
        (
            {"label_smoothing": 0.1},
            lambda m, b: each(m(b.x), b.y, label_smoothing=0.1).mean(),
            torch.float32,
        ),
        ({"loss_fn": squared}, lambda m, b: squared(m, b).nanmean(), torch.float32),
        (
            {"loss_fn": lambda m, b: each(m(b.x), b.y), "weights": WEIGHTS},
            lambda m, b: (WEIGHTS * each(m(b.x), b.y)).mean(),
            torch.float32,
        ),
    ],
)
def test_it_is_the_step_that_is_written_out(
    options: dict[str, Any], loss_of: Callable[[nn.Module, Batch], Tensor], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    theirs, batch = copy.deepcopy(ours), batch_of(dtype)
    optimizers = [adamw(model, 0.01, 0.1) for model in (ours, theirs)]
    schedules = [LambdaLR(optimizer, lambda step: 0.5**step) for optimizer in optimizers]
    for _ in range(3):
        made = training_step(ours, batch, optimizers[0], schedules[0], **options)
        loss = loss_of(theirs, batch)
        optimizers[1].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers[1].step()
        schedules[1].step()
        assert torch.equal(made.loss, loss.detach())
        assert not made.loss.requires_grad
        assert (made.logits is None) == ("loss_fn" in options)
        assert torch.equal(made.fields.labels, batch.y)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_autocast_is_left_as_it_is_outside_or_switched() -> None:
    seen: list[bool] = []

    def forward(model: nn.Module, batch: Any) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        logits: Tensor = model(batch.x)
        return logits

    model, batch = nn.Linear(4, 3), batch_of()
    optimizer = adamw(model, 0.01, 0.0)
    for outside in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=outside):
            for inside in (None, False, True):
                training_step(model, batch, optimizer, forward=forward, bf16=inside)
    assert seen == [False, False, True, True, False, True]


def test_the_caller_is_named() -> None:
    model = nn.Linear(4, 3)
    optimizer = adamw(model, 0.01, 0.0)
    with pytest.raises(ValueError, match=r"mine: the batch has no ids"):
        training_step(model, (torch.zeros(2, 4), torch.zeros(2)), optimizer, where="mine")
    with pytest.raises(ValueError, match=r"mine: loss_fn must return the loss of each example"):
        training_step(model, batch_of(), optimizer, where="mine", loss_fn=lambda m, b: b.x.sum())
