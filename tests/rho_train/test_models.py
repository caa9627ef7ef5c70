"""The small models of the built-in tasks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rho_train.tasks import cnn, embedding_bag, mlp

MODELS = {
    "mlp": (lambda seed: mlp(5, [32], 3, seed=seed), torch.randn(6, 5)),
    "cnn": (
        lambda seed: cnn((2, 16, 9), 3, seed=seed),
        torch.randint(0, 256, (6, 2, 16, 9)).to(torch.uint8),
    ),
    "embedding_bag": (
        lambda seed: embedding_bag(30, 3, (64, 32), seed=seed),
        torch.randint(1, 30, (6, 7)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_learn_and_their_weights_are_those_of_a_seed(name: str) -> None:
    make, x = MODELS[name]
    before = torch.get_rng_state()
    model, same, other = make(3), make(3), make(4)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [nn.utils.parameters_to_vector(m.parameters()) for m in (model, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    y = torch.arange(6) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step == 0:
            assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
        optimizer.step()
    assert model(x).argmax(1).equal(y)


def test_models_that_do_not_fit_are_refused() -> None:
    for make, message in (
        (lambda: mlp(4, [8, 0], 2, seed=0), r"positive integers, got \[8, 0\]"),
        (lambda: mlp(4, "8", 2, seed=0), "positive integers, got '8'"),  # type: ignore[arg-type]
        (lambda: mlp(4, [8], 2, seed=0, dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (lambda: cnn((1, 4, 4), 2, [8, 8, 8, 8], seed=0), "4 x 4 pixels cannot be halved 3 times"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    # (x / 255 - 0.5) / 0.5, as in the paper.
    pixels = torch.tensor([[[[0, 51], [255, 0]]]], dtype=torch.uint8)
    expected = torch.tensor([-1.0, -0.6, 1.0, -1.0])
    torch.testing.assert_close(
        cnn((1, 2, 2), 2, seed=0, widths=[4, 4])[0](pixels).flatten(), expected
    )
