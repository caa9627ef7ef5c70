"""Counted costs: of forward passes by hand, of phases, and of as many steps as a budget has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rho_train import Batch, linear_cross_entropy, linear_score
from rho_train.cost import Costs, forward_cost, training_cost


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Over(nn.Module):
    """The mean of a part's output over the positions, and a linear head of 3 classes."""

    def __init__(self, part: nn.Module, width: int) -> None:
        super().__init__()
        self.part, self.head = part, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.part(x)
        return self.head((found[0] if isinstance(found, tuple) else found).mean(1))


class Own(nn.Module):
    """A function of the inputs and of one weight."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


def test_passes_cost_what_they_do_by_hand() -> None:
    ids, x = torch.randint(0, 10, (5, 7)), torch.randn(5, 6, 8)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    # Six positions: q, k, v and the output of 8 x 8, two linear layers of 8 x 16; and two products
    # of 6 x 6 positions and 8 numbers. In eval mode torch fuses all of this.
    attention = 6 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 6 * 6 * 8
    grouped = nn.Sequential(nn.Conv1d(6, 4, 3, groups=2), nn.BatchNorm1d(4), nn.Flatten())
    turned = nn.Sequential(nn.ConvTranspose1d(6, 4, 3, groups=2), nn.Dropout(), nn.Flatten())
    vector = Own(lambda x, weight: (x[:, 0] @ weight)[:, None], 8)
    near = Own(lambda x, weight: torch.cdist(x[:, 0], weight, p=1), 3, 8)
    both = Own(lambda x, weight: nn.functional.bilinear(x[:, 0], x[:, 1], weight), 3, 8, 8)
    # Forward, and of that what needs no gradient of its inputs, so that training costs it twice.
    models: list[tuple[nn.Module, Tensor, int, int]] = [
        (nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), x[:, 0], 8 * 4 + 4 * 3, 8 * 4),
        (nn.Sequential(nn.EmbeddingBag(10, 4), nn.Linear(4, 3)), ids, 7 * 4 + 4 * 3, 7 * 4),
        (Over(nn.Embedding(10, 4), 4), ids, 7 * 4 + 4 * 3, 7 * 4),
        (Over(encoder, 8), x, attention + 8 * 3, 6 * 3 * 8 * 8),
        # The hidden state that it begins with is no parameter.
        (
            Over(nn.LSTM(8, 4, batch_first=True), 4),
            x,
            6 * 16 * (8 + 4) + 4 * 3,
            6 * 16 * 8 + 16 * 4,
        ),
        (grouped, x, 6 * 2 * 3 * 6, 6 * 2 * 3 * 6),
        (turned, x, 6 * 2 * 3 * 8, 6 * 2 * 3 * 8),
        (vector, x, 8, 8),
        (near, x, 3 * 8, 3 * 8),
        (both, x, 3 * 8 * 8, 3 * 8 * 8),
    ]
    for model, inputs, wanted, first in models:
        model.train()
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        batch = Batch(inputs, torch.zeros(5).long(), torch.arange(5))
        passes: list[dict[str, Any]] = [
            {},
            {"forward": lambda model, batch: model(batch.x)},
            {"loss_fn": lambda model, batch: model(batch.x).flatten(1).sum(1)},
        ]
        for own in passes:
            assert forward_cost(model, batch, **own) == wanted, model
            if "loss_fn" not in own:
                assert training_cost(model, batch, **own) == 3 * wanted - first, model
        assert forward_cost(model, (batch.x, batch.y)) == wanted
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all((weight.grad == 1).all() for weight in model.parameters())
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled()
    for cost in (forward_cost, training_cost):
        with pytest.raises(ValueError, match=f"{cost.__name__}: the model cannot take the batch"):
            cost(models[0][0], Batch(x[:, 0, :3], torch.zeros(5).long(), torch.arange(5)))


def test_heads_that_hold_no_logits_are_counted() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    ids = torch.randint(0, 50, (5, 7))
    batch = Batch(ids, ids, torch.arange(5))
    read, head = 7 * 8, 7 * 8 * 50

    def trained(model: nn.Module, batch: Batch, ratio: float = 1.0) -> Tensor:
        table, last = model.children()
        return linear_cross_entropy(table(batch.x), last.weight, batch.y, ratio=ratio)[0]  # type: ignore[arg-type]

    def scored(model: nn.Module, batch: Batch) -> Tensor:
        table, last = model.children()
        return linear_score(table(batch.x), last.weight, batch.y).losses.mean(1)  # type: ignore[arg-type]

    assert forward_cost(model, batch) == read + head
    assert forward_cost(model, batch, loss_fn=scored) == read + head
    assert forward_cost(model, batch, forward=trained) == read + head
    assert training_cost(model, batch) == 2 * read + 3 * head
    assert training_cost(model, batch, forward=trained) == 2 * read + 3 * head
    some = training_cost(model, batch, forward=lambda *of: trained(*of, ratio=0.4))
    assert some == 2 * read + head + 2 * 0.4 * head
    model[0].requires_grad_(False)
    assert training_cost(model, batch, forward=trained) == read + 2 * head


def test_frozen_parts_cost_no_backward_pass_that_nobody_needs() -> None:
    one, two, head = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 3)
    model = nn.Sequential(one, two, head)
    batch = Batch(torch.randn(5, 8), torch.zeros(5).long(), torch.arange(5))
    forward = 48 + 24 + 12
    assert training_cost(model, batch) == forward + 48 + 2 * (24 + 12)
    two.requires_grad_(False)  # its inputs still need their gradient
    assert training_cost(model, batch) == forward + 48 + 24 + 2 * 12
    one.requires_grad_(False)
    assert training_cost(model, batch) == forward + 12
    head.requires_grad_(False)
    assert training_cost(model, batch) == forward


def test_costs_are_of_what_was_trained_and_scored() -> None:
    spent = Costs(10.0, 25.0, passes=4, il=5.0).spent(trained=2, scored=3)
    assert spent == {"training": 25 * 2, "scoring": 10 * 4 * 3, "il": 5}
