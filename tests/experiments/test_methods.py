"""The rivals that the evidence registers: each formula by hand, and rules for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments import methods
from rho_train import Batch, Selector
from rho_train.methods import needs_of

from ..rho_train.pretend_gpu import GPU, pretend_gpu
from ..rho_train.test_methods import DRAWS, assert_share, draws, large, rows_with, select

LOG2 = math.log(2)
NAMES = (
    *("bald", "predictive_entropy", "conditional_entropy", "loss_minus_entropy"),
    *("loss_plus_entropy", "selective_backprop", "class_quota", "reducr"),
)


def test_importance_sampling_by_hand() -> None:
    # g = sqrt(2) (1 - p) = sqrt(2) (1/2, 1/4, 1/4): p = (1/2, 1/4, 1/4), w = 1 / (3 p).
    batch, weight = rows_with(0.5, 0.75, 0.75), {0: 2 / 3, 1: 4 / 3, 2: 4 / 3}
    selector = Selector(k=64, method="importance")
    with pytest.raises(ValueError, match="k = 64 is larger than the batch of 3"):
        select(selector, batch)
    selector = Selector(k=3, method="importance")
    for _ in range(20):
        ids = select(selector, batch)
        assert selector.last is not None
        assert selector.last.weights is not None
        assert selector.last.weights.tolist() == pytest.approx([weight[i] for i in ids])
    found = draws("importance", batch, 2)
    assert_share([ids == [0, 0] for ids in found], 1 / 4)
    assert_share([0 not in ids for ids in found], 1 / 4)


def test_importance_weights_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 4
    y[3] = -100
    full = nn.functional.cross_entropy(x, y)
    means, selector = [], Selector(k=3, method=methods.GradNormSampling())
    for _ in range(DRAWS):
        small = selector(nn.Identity(), Batch(x, y, torch.arange(12)))
        assert selector.last is not None
        losses = nn.functional.cross_entropy(small.x, small.y, reduction="none")
        means.append((selector.last.weights * losses).mean())
    found = torch.stack(means)
    assert abs(found.mean() - full) < 4 * found.std() / math.sqrt(DRAWS)
    # The test can tell: without weights the mean is far off.
    assert found.std() / math.sqrt(DRAWS) < 0.03


def test_selective_backprop_draws_by_the_cdf_of_the_loss() -> None:
    # From the lowest loss to the highest the CDF is 1/3, 2/3, 1.
    batch = rows_with(0.5, 0.1, 0.9)
    found = draws("selective_backprop", batch, 1)
    for example, wanted in ((0, 2 / 6), (1, 3 / 6), (2, 1 / 6)):
        assert_share([ids == [example] for ids in found], wanted)
    squares = draws(methods.SelectiveBackprop(power=2.0), batch, 1)
    assert_share([ids == [1] for ids in squares], 9 / 14)


class Scripted(nn.Dropout):
    """A dropout layer that returns what a script says, one entry a pass."""

    def __init__(self, script: list[Tensor]) -> None:
        super().__init__(0.5)
        self.script, self.passes = script, 0

    def forward(self, input: Tensor) -> Tensor:
        assert self.training
        self.passes += 1
        return self.script[self.passes - 1]


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@pytest.mark.parametrize(
    ("score", "wanted"),
    [
        # The rows: certain of either class in turn; undecided; the same 3/4 twice; 1/4 then 3/4.
        ("bald", [LOG2, 0.0, 0.0, LOG2 - entropy(0.25)]),
        ("predictive_entropy", [LOG2, LOG2, entropy(0.25), LOG2]),
        ("conditional_entropy", [0.0, LOG2, entropy(0.25), entropy(0.25)]),
        # CE of the first class: 0 and 50 nats; log 2; log 4/3; log 4 and log 4/3.
        ("loss_minus_entropy", [25.0, 0.0, math.log(4 / 3) - entropy(0.25), None]),
        ("loss_plus_entropy", [25.0, 2 * LOG2, math.log(4 / 3) + entropy(0.25), None]),
    ],
)
def test_dropout_methods_by_hand(score: str, wanted: list[float | None]) -> None:
    sign = -1.0 if "minus" in score else 1.0
    last = (math.log(4) + math.log(4 / 3)) / 2 + sign * entropy(0.25)
    by_hand = [last if value is None else value for value in wanted]
    half, three = [0.0, 0.0], [math.log(3), 0.0]
    one = torch.tensor([[50.0, 0.0], half, three, three[::-1]])
    two = torch.tensor([[0.0, 50.0], half, three, three])
    model = Scripted([one, two])
    selector = Selector(k=4, method=methods.MonteCarlo(score, passes=2), check_batches=False)
    batch = rows_with(0.5, 0.5, 0.5, 0.5)
    select(selector, batch, model)
    assert model.passes == 2
    assert selector.last is not None
    found = dict(zip(selector.last.indices.tolist(), selector.last.values.tolist(), strict=True))
    assert [found[row] for row in range(4)] == pytest.approx(by_hand, abs=1e-5)
    # Of the mean prediction, not of the mean logits: of the first class 1/2, 1/2, 3/4, 1/2.
    assert selector.last.losses is not None
    mean_prediction = [LOG2, LOG2, math.log(4 / 3), LOG2]
    assert selector.last.losses.tolist() == pytest.approx(mean_prediction, abs=1e-5)


def test_dropout_passes_change_nothing_but_the_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[2].eval()
    state = torch.get_rng_state()
    batch = rows_with(*[0.1 + 0.01 * i for i in range(60)])
    one = select(Selector(k=20, method="bald", seed=5), batch, model)
    assert one == select(Selector(k=20, method="bald", seed=5), batch, model)
    assert one != select(Selector(k=20, method="bald", seed=6), batch, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_on_in_an_encoder_layer_that_torch_would_run_without() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).eval()
    batch = Batch(torch.randn(20, 3, 8), torch.zeros(20, dtype=torch.int64), torch.arange(20))
    last = Selector(k=5, method="bald").preview(model, batch)
    assert (last.values > 0).all()
    assert not any(part.training for part in model.modules())


def test_class_quota_by_hand() -> None:
    # Losses of class 0: log (10, 5, 2, 1.25); of class 1: log (1.43, 1.11), the lowest.
    p = torch.tensor([0.1, 0.2, 0.5, 0.8, 0.7, 0.9])
    x, y = torch.stack([p.log(), (1 - p).log()], 1), torch.tensor([0, 0, 0, 0, 1, 1])
    x[4:] = x[4:].flip(1)
    batch = Batch(x, y, torch.arange(6))
    assert select(Selector(k=3, method="loss"), batch) == [0, 1, 2]
    # As in the large batch, 4 : 2. Seats (1/8, 3/8, 5/8, 7/8) and (1/4, 3/4).
    quota = methods.ClassQuota("loss")
    assert select(Selector(k=3, method=quota), batch) == [0, 1, 4]
    assert select(Selector(k=1, method=quota), batch) == [0]
    # As many of each; of an odd number the best goes first, and class 1 has two examples only.
    equal = methods.ClassQuota("loss", shares=(1, 1))
    assert select(Selector(k=2, method=equal), batch) == [0, 4]
    assert select(Selector(k=3, method=equal), batch) == [0, 1, 4]
    assert select(Selector(k=5, method=equal), batch) == [0, 1, 2, 4, 5]
    # Four to one: seats (1/8, 3/8, 5/8, 7/8) and 1/2, so that the small class is not left out.
    five = Batch(x[:5], y[:5], torch.arange(5))
    assert select(Selector(k=3, method=quota), five) == [0, 1, 4]
    with pytest.raises(ValueError, match="one number a class, 2, got 3"):
        select(Selector(k=2, method=methods.ClassQuota("loss", shares=(1, 1, 1))), batch)


def test_reducr_by_hand() -> None:
    # CE = log (4, 2, 2): of class 0, 0 and 1. IL clips the last to 0.
    p = torch.tensor([0.25, 0.5, 0.5])
    x, y = torch.stack([p.log(), (1 - p).log()], 1), torch.tensor([0, 0, 1])
    batch = Batch(x, y, torch.arange(3))
    method = methods.Reducr(lr=2.0)
    selector = Selector(il=torch.tensor([LOG2, LOG2 / 2, 1.0]), k=3, method=method)
    select(selector, batch)
    assert selector.last is not None
    assert selector.last.values.tolist() == pytest.approx([LOG2 / 2, LOG2 / 4, 0.0])
    # Mean losses 1.5 log 2 and log 2: weights as 2^3 : 2^2.
    assert method.weights is not None
    assert method.weights.tolist() == pytest.approx([2 / 3, 1 / 3])
    select(selector, batch)
    assert selector.last.values.tolist() == pytest.approx([2 / 3 * LOG2, LOG2 / 3, 0.0])


def test_every_rival_selects_k_usable_rows() -> None:
    for name in NAMES:
        model, batch, il = large()
        batch.y[::4] = -100
        selector = Selector(k=12, il=il, method=name, seed=3)
        small = selector(model, batch)
        assert len(small.ids.unique()) == 12, name
        assert (small.y >= 0).all(), name
        assert selector.invalid == 0, name
        batch.x[7] = torch.nan
        with pytest.warns(UserWarning, match="without a usable score"):
            small = Selector(il=il, k=30, method=name)(model, batch)
        assert small.x.isfinite().all(), name


def test_rivals_do_not_wait_for_a_gpu() -> None:
    for name in NAMES:
        model, batch, il = large()
        here = Selector(k=12, il=il, method=name, seed=3)
        wanted = [here(model, batch).ids.tolist() for _ in range(2)]
        with pretend_gpu() as gpu:
            model, batch = model.to(GPU), batch.to(GPU)
            selector = Selector(k=12, il=il.to(GPU), method=name, seed=3)
            first = selector(model, batch)
            gpu.waits.clear()
            second = selector(model, batch)
            assert not gpu.waits, (name, gpu.waits)
            assert [first.ids.tolist(), second.ids.tolist()] == wanted, name


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: methods.Reducr(lr=-1.0), "lr must be finite and at least 0"),
    (lambda: methods.SelectiveBackprop(power=math.nan), "power must be in"),
    (lambda: methods.MonteCarlo("best"), "MonteCarlo: score must be one of bald"),
    (lambda: methods.MonteCarlo("bald", passes=1), "passes must be at least 2, got 1"),
    (lambda: methods.ClassQuota(shares=(1.0, 0.0)), "shares must be positive"),
    (lambda: needs_of(methods.ClassQuota("best")), "method must be one of rho"),
    (
        lambda: Selector(k=1, method="bald")(nn.Dropout(0.0), rows_with(0.5)),
        "Dropout has no dropout layers with p > 0",
    ),
]


def test_what_cannot_work_is_refused() -> None:
    for make, message in ERRORS:
        with pytest.raises(ValueError, match=message):
            make()
