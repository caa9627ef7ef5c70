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

from rho_train import Batch, gce_losses
from rho_train.training_step import adamw, training_step

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
        ({"gce": 0.3}, lambda m, b: gce_losses(m(b.x), b.y).mean(), torch.float64),
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


def test_the_mean_is_over_the_examples_with_a_label() -> None:
    some, every = batch_of(), batch_of()
    some.y[5:] = -100
    for options in ({}, {"label_smoothing": 0.3}, {"gce": 0.3}):
        losses = []
        for batch in (some, Batch(*(field[:5] for field in every))):
            torch.manual_seed(0)
            model = nn.Linear(4, 3)
            losses.append(training_step(model, batch, adamw(model, 0.1, 0.0), **options).loss)
        torch.testing.assert_close(*losses)


def test_the_caller_is_named() -> None:
    model = nn.Linear(4, 3)
    optimizer = adamw(model, 0.01, 0.0)
    with pytest.raises(ValueError, match=r"mine: the batch has no ids"):
        training_step(model, (torch.zeros(2, 4), torch.zeros(2)), optimizer, where="mine")
    with pytest.raises(ValueError, match=r"mine: loss_fn must return the loss of each example"):
        training_step(model, batch_of(), optimizer, where="mine", loss_fn=lambda m, b: b.x.sum())


def test_gce_and_its_gradient_are_those_of_float64_also_where_p_is_0() -> None:
    draw = torch.Generator().manual_seed(0)
    exact = 20 * torch.randn(200, 5, generator=draw, dtype=torch.float64)
    exact[0] = torch.tensor([-1e4, 0, 0, 0, 0])
    labels = torch.randint(0, 5, (200,), generator=draw)
    labels[0] = 0
    logits = exact.float().requires_grad_()
    exact.requires_grad_()
    for q in (0.1, 0.3, 1.0):
        losses = gce_losses(logits, labels, q)
        p = exact.softmax(1)[torch.arange(200), labels]
        wanted = (1 - p**q) / q
        torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-6)
        (found,) = torch.autograd.grad(losses.sum(), logits)
        (truth,) = torch.autograd.grad(wanted[1:].sum(), exact)
        torch.testing.assert_close(found[1:].double(), truth[1:], rtol=1e-4, atol=1e-6)
        assert found[0].abs().max() == 0
    small = gce_losses(logits, labels, 1e-4)
    torch.testing.assert_close(
        small[1:], F.cross_entropy(logits, labels, reduction="none")[1:], rtol=0.01, atol=0.01
    )
