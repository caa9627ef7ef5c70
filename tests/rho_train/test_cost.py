"""Counted costs: of forward passes by hand, of phases, and of as many steps as a budget has."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rho_train import Batch
from rho_train.cost import Costs, forward_cost, selecting_steps, steps_within
from rho_train.schedules import UniformPhases


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


def test_passes_cost_what_they_do_by_hand() -> None:
    ids, x = torch.randint(0, 10, (5, 7)), torch.randn(5, 6, 8)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    # Six positions: q, k, v and the output of 8 x 8, two linear layers of 8 x 16; and two products
    # of 6 x 6 positions and 8 numbers. In eval mode torch fuses all of this.
    attention = 6 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 6 * 6 * 8
    models: list[tuple[nn.Module, Tensor, float]] = [
        (nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), x[:, 0], 8 * 4 + 4 * 3),
        (nn.Sequential(nn.EmbeddingBag(10, 4), nn.Linear(4, 3)), ids, 7 * 4 + 4 * 3),
        (Over(nn.Embedding(10, 4), 4), ids, 7 * 4 + 4 * 3),
        (Over(encoder, 8), x, attention + 8 * 3),
        (Over(nn.LSTM(8, 4, batch_first=True), 4), x, 6 * 16 * (8 + 4) + 4 * 3),
        (nn.Sequential(nn.Conv1d(6, 2, 3), nn.BatchNorm1d(2), nn.Flatten()), x, 6 * 2 * 3 * 6),
    ]
    for model, inputs, wanted in models:
        model.train()
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
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="forward_cost: the model cannot take the batch"):
        forward_cost(models[0][0], Batch(x[:, 0, :3], torch.zeros(5).long(), torch.arange(5)))


def test_a_backward_pass_costs_two_forward_passes() -> None:
    spent = Costs(10.0, passes=4, il=5.0).spent(trained=2, scored=3)
    assert spent == {"training": 10 * 3 * 2, "scoring": 10 * 4 * 3, "il": 5}


def test_phases_that_select_uniformly_do_not_score() -> None:
    for steps, warmup, anneal in itertools.product((1, 7, 10, 33), (0, 1, 5), (0.0, 0.15, 0.5)):
        try:
            phases = UniformPhases(steps, warmup, anneal)
        except ValueError:
            continue
        scores = sum(not phases.uniform(step) for step in range(steps))
        assert selecting_steps(steps, warmup, anneal) == scores


def test_a_budget_has_as_many_steps_as_fit() -> None:
    for price, extra in itertools.product((1.0, 0.3, 7.0), (0.0, 0.25)):
        for budget in (0.0, 0.2, 1.0, 7.0, 29.9, 30.0, 1e6):

            def cost(steps: int, price: float = price, extra: float = extra) -> float:
                return extra + price * steps

            steps = steps_within(budget, cost)
            assert cost(steps) <= budget < cost(steps + 1) or (steps == 0 and budget < cost(1))
