"""Models beside the target: a proxy that scores, and online irreducible losses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rho_train import Batch, OnlineModel, Selector


class Fixed(nn.Module):
    """Logits by position, whatever the inputs."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[: len(x)]


BATCH = Batch(torch.eye(3), torch.zeros(3, dtype=torch.int64), torch.tensor([5, 6, 7]))
# Losses of label 0: log (4, 2, 2).
TARGET = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]).log()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


def test_a_proxy_scores_in_place_of_the_target() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the target must not score")

    # By the proxy the excess is log 4 - log 4, log 2 - 0, log 2 - log 2.
    il = torch.zeros(8)
    il[5], il[7] = torch.tensor([4.0, 2.0]).log()
    selector = Selector(il=il, k=1, scorer=Fixed(TARGET), check_batches=False)
    assert selector(Never(), BATCH).ids.tolist() == [6]
    with pytest.raises(TypeError, match="scorer must be a module or an OnlineModel, got 'proxy'"):
        Selector(il=il, k=1, scorer="proxy")  # type: ignore[arg-type]


def test_online_il_by_hand() -> None:
    # IL is log (4, 2, 1): the excess is (0, 0, log 2).
    il = Fixed(torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 1e-9]]).log())
    selector = Selector(il=OnlineModel(il), k=1, check_batches=False)
    assert selector(Fixed(TARGET), BATCH).ids.tolist() == [7]
    assert selector.last is not None
    assert selector.last.values.tolist() == pytest.approx([torch.tensor(2.0).log().item()])


def test_online_il_is_read_in_eval_mode_and_learns_from_the_small_batch() -> None:
    model, twin = network(), network()
    online = OnlineModel(model, lr=0.01)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    large = Batch(x, torch.zeros(16, dtype=torch.int64), torch.arange(16))
    target = Fixed(torch.stack([torch.linspace(0, 30, 16).flip(0), torch.zeros(16)], 1))
    state = torch.get_rng_state()
    selector = Selector(il=online, k=4, seed=7, check_batches=False)
    il_before = copy.deepcopy(model).eval()
    small = selector(target, large)
    losses = F.cross_entropy(il_before(large.x), large.y, reduction="none")
    excess = F.cross_entropy(target(large.x), large.y, reduction="none") - losses
    assert small.ids.tolist() == excess.topk(4).indices.sort().values.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    # BatchNorm saw the small batch alone: one step from (0, 1) with momentum 0.1.
    hidden = twin[0](small.x)
    assert torch.allclose(model[1].running_mean, 0.1 * hidden.mean(0), atol=1e-6)
    assert int(model[1].num_batches_tracked) == 1
    changed = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    ]
    assert all(changed)
    # AdamW's first step is the learning rate wherever there is a gradient.
    moved = (model[3].bias - twin[3].bias).detach().abs()
    assert moved.tolist() == pytest.approx([0.01, 0.01], rel=0.01)


def test_a_preview_teaches_an_online_model_nothing() -> None:
    online = OnlineModel(network(), lr=0.01)
    before = copy.deepcopy(online.model.state_dict())
    selector = Selector(il=online, k=2)
    last = selector.preview(Fixed(TARGET), BATCH)
    assert len(last.indices) == 2
    assert all(
        torch.equal(value, before[name]) for name, value in online.model.state_dict().items()
    )
    assert (selector.steps, selector.selected) == (0, 0)


def test_an_online_scorer_learns_along() -> None:
    scorer = OnlineModel(Fixed(TARGET.clone()), lr=0.01)
    selector = Selector(k=1, method="loss", scorer=scorer)
    assert selector(nn.Identity(), BATCH).ids.tolist() == [5]
    assert scorer.model(BATCH.x)[0, 0] > TARGET[0, 0]


def test_identity_knows_the_models() -> None:
    il = torch.zeros(8)
    identities = [
        Selector(il=OnlineModel(network()), k=1).identity(),
        Selector(il=OnlineModel(network(), lr=0.1), k=1).identity(),
        Selector(il=il, k=1, scorer=network()).identity(),
        Selector(il=il, k=1, scorer=Fixed(TARGET), check_batches=False).identity(),
        Selector(il=il, k=1, scorer=OnlineModel(network())).identity(),
        Selector(il=il, k=1).identity(),
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert identities[0] == Selector(il=OnlineModel(network()), k=1).identity()
    with pytest.raises(ValueError, match="OnlineModel: lr must be positive and finite, got 0"):
        OnlineModel(network(), lr=0.0)
