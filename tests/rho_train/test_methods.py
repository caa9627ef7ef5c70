"""Methods of selection: each formula by hand, and rules for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rho_train import Batch, History, Scoring, Selector, register
from rho_train.methods.classes import ClassQuota, Reducr
from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.dropout import MonteCarlo
from rho_train.methods.fused import Fused
from rho_train.methods.registry import names, unregister
from rho_train.methods.sampling import Boltzmann, GradNormSampling, SelectiveBackprop

LOG2 = math.log(2)
WITH_REPLACEMENT = ("importance",)


def rows_with(*probabilities: float) -> Batch:
    """Rows of two logits whose first class, the label, has these probabilities."""
    p = torch.tensor(probabilities)
    x = torch.stack([p.log(), (1 - p).log()], 1)
    n = len(probabilities)
    return Batch(x, torch.zeros(n, dtype=torch.int64), torch.arange(n))


def select(selector: Selector, batch: Batch, model: nn.Module | None = None) -> list[int]:
    ids: list[int] = selector(model or nn.Identity(), batch).ids.tolist()
    return ids


DRAWS = 1000


def draws(method: Any, batch: Batch, k: int) -> list[list[int]]:
    """Select from one batch again and again; a Selector draws anew in each step."""
    selector = Selector(k=k, method=method)
    return [select(selector, batch) for _ in range(DRAWS)]


def assert_share(hits: Sequence[bool], wanted: float) -> None:
    """Compare a share of the draws with its probability, within four standard errors."""
    share = sum(hits) / len(hits)
    assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / len(hits))


def test_uniform_draws_every_example_equally_often_and_makes_no_forward_pass() -> None:
    batch = rows_with(0.5, 0.6, 0.7, 0.8, 0.9)
    found = draws("uniform", batch, 2)
    for example in range(5):
        assert_share([example in ids for ids in found], 2 / 5)

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("uniform selection needs no logits")

    selector = Selector(k=2, method="uniform")
    select(selector, batch, Never())
    assert selector.last is not None
    assert (selector.last.losses, selector.scored, selector.selected) == (None, 0, 2)


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
    means, selector = [], Selector(k=3, method=GradNormSampling())
    for _ in range(DRAWS):
        small = selector(nn.Identity(), Batch(x, y, torch.arange(12)))
        assert selector.last is not None
        losses = nn.functional.cross_entropy(small.x, small.y, reduction="none")
        means.append((selector.last.weights * losses).mean())
    found = torch.stack(means)
    assert abs(found.mean() - full) < 4 * found.std() / math.sqrt(DRAWS)
    # The test can tell: without weights the mean is far off.
    assert found.std() / math.sqrt(DRAWS) < 0.03


def test_boltzmann_draws_without_replacement_by_softmax() -> None:
    # exp(CE) = 1 / p = 4 : 2 : 2, so with T = 1 the first draw has (1/2, 1/4, 1/4).
    batch, method = rows_with(0.25, 0.5, 0.5), Boltzmann("loss", temperature=1.0)
    assert_share([ids == [0] for ids in draws(method, batch, 1)], 1 / 2)
    # First 0 then 1: 1/2 * 1/2; first 1 then 0: 1/4 * 2/3.
    assert_share([ids == [0, 1] for ids in draws(method, batch, 2)], 1 / 4 + 1 / 6)
    # Half the temperature squares the ratios: 16 : 4 : 4.
    assert_share([ids == [0] for ids in draws(Boltzmann("loss", 0.5), batch, 1)], 2 / 3)
    cold = Selector(k=1, method=Boltzmann("loss", 0.0))
    assert [select(cold, batch) for _ in range(20)] == [[0]] * 20


def test_selective_backprop_draws_by_the_cdf_of_the_loss() -> None:
    # From the lowest loss to the highest the CDF is 1/3, 2/3, 1.
    batch = rows_with(0.5, 0.1, 0.9)
    found = draws("selective_backprop", batch, 1)
    for example, wanted in ((0, 2 / 6), (1, 3 / 6), (2, 1 / 6)):
        assert_share([ids == [example] for ids in found], wanted)
    squares = draws(SelectiveBackprop(power=2.0), batch, 1)
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
    selector = Selector(k=4, method=MonteCarlo(score, passes=2), check_batches=False)
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
    quota = ClassQuota("loss")
    assert select(Selector(k=3, method=quota), batch) == [0, 1, 4]
    assert select(Selector(k=1, method=quota), batch) == [0]
    # As many of each; of an odd number the best goes first, and class 1 has two examples only.
    equal = ClassQuota("loss", shares=(1, 1))
    assert select(Selector(k=2, method=equal), batch) == [0, 4]
    assert select(Selector(k=3, method=equal), batch) == [0, 1, 4]
    assert select(Selector(k=5, method=equal), batch) == [0, 1, 2, 4, 5]
    # Four to one: seats (1/8, 3/8, 5/8, 7/8) and 1/2, so that the small class is not left out.
    five = Batch(x[:5], y[:5], torch.arange(5))
    assert select(Selector(k=3, method=quota), five) == [0, 1, 4]
    with pytest.raises(ValueError, match="one number a class, 2, got 3"):
        select(Selector(k=2, method=ClassQuota("loss", shares=(1, 1, 1))), batch)


def test_reducr_by_hand() -> None:
    # CE = log (4, 2, 2): of class 0, 0 and 1. IL clips the last to 0.
    p = torch.tensor([0.25, 0.5, 0.5])
    x, y = torch.stack([p.log(), (1 - p).log()], 1), torch.tensor([0, 0, 1])
    batch = Batch(x, y, torch.arange(3))
    method = Reducr(lr=2.0)
    selector = Selector(il=torch.tensor([LOG2, LOG2 / 2, 1.0]), k=3, method=method)
    select(selector, batch)
    assert selector.last is not None
    assert selector.last.values.tolist() == pytest.approx([LOG2 / 2, LOG2 / 4, 0.0])
    # Mean losses 1.5 log 2 and log 2: weights as 2^3 : 2^2.
    assert method.weights is not None
    assert method.weights.tolist() == pytest.approx([2 / 3, 1 / 3])
    select(selector, batch)
    assert selector.last.values.tolist() == pytest.approx([2 / 3 * LOG2, LOG2 / 3, 0.0])
    # By class: excess over the first column (log 2, 0, 0), over the second (0, 0, log 2).
    table = torch.tensor([[LOG2, 3.0], [3.0, 3.0], [3.0, 0.0]])
    selector = Selector(k=2, method=Reducr(lr=0.0, class_il=table))
    assert select(selector, batch) == [0, 2]
    assert selector.last is not None
    assert selector.last.values.tolist() == pytest.approx([LOG2 / 2, LOG2 / 2])
    with pytest.raises(ValueError, match="one column a class, 2, got 3"):
        select(Selector(k=2, method=Reducr(class_il=torch.zeros(3, 3))), batch)


def large() -> tuple[nn.Module, Batch, Tensor]:
    """A model with dropout, a batch of 40 with shuffled ids, and IL."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.3), nn.Linear(32, 3))
    x = torch.randn(40, 5, generator=generator)
    y = torch.randint(3, (40,), generator=generator)
    il = torch.rand(40, generator=generator)
    return model, Batch(x, y, torch.randperm(40, generator=generator)), il


def test_every_method_selects_k_usable_rows() -> None:
    for index, name in enumerate(names()):
        ignored = (-100, 255)[index % 2]
        model, batch, il = large()
        batch.y[::4] = ignored
        state, seen = torch.get_rng_state(), []
        options: dict[str, Any] = {"il": il, "method": name, "ignore_index": ignored, "seed": 3}
        selector = Selector(k=12, **options)
        for _ in range(3):
            small = selector(model, batch)
            seen.append(small.ids.tolist())
            assert len(small.ids) == 12, name
            assert (small.y != ignored).all(), name
            assert len(set(seen[-1])) == 12 or name in WITH_REPLACEMENT, name
        assert torch.equal(torch.get_rng_state(), state), name
        assert selector.invalid == 0, name
        assert Selector(k=12, **options)(model, batch).ids.tolist() == seen[0], name
        # Thirty rows are usable, so forty cannot be selected.
        if name not in WITH_REPLACEMENT:
            everything = Selector(k=40, **options)(model, batch)
            assert torch.equal(everything.ids, batch.ids[batch.y != ignored]), name
        with pytest.raises(FloatingPointError, match="all 40 examples are left out: their labels"):
            Selector(k=12, **options)(model, batch._replace(y=batch.y * 0 + ignored))


@pytest.mark.filterwarnings("ignore:Selector. examples without a usable score")
def test_no_method_selects_a_row_without_a_finite_loss_or_il() -> None:
    for name in set(names()) - {"uniform", "neg_il"}:
        model, batch, il = large()
        batch.x[7] = torch.nan
        selector = Selector(il=il, k=39, method=name)
        assert selector(model, batch).x.isfinite().all(), name
        assert selector.invalid == 1, name
    for name in ("rho", "neg_il", "boltzmann", "class_quota", "reducr"):
        model, batch, il = large()
        il[batch.ids[7]] = torch.nan
        selector = Selector(il=il, k=40, method=name)
        wanted = torch.cat([batch.ids[:7], batch.ids[8:]])
        assert torch.equal(selector(model, batch).ids, wanted), name
        assert selector.invalid == 1, name


def test_no_method_selects_a_row_that_was_not_scored() -> None:
    for name in set(names(without=("dropout", "logits"))) - {"uniform"}:
        model, batch, il = large()
        # Of the ten rows that are scored three are ignored, so there are seven for ten places.
        batch.y[:3] = -100
        options: dict[str, Any] = {"scoring": Scoring(refresh=0.25), "history": History(40)}
        selector = Selector(il=il + 50, k=10, method=name, **options)
        assert selector(model, batch).ids.tolist() == batch.ids[3:10].tolist(), name


@pytest.fixture
def free_names() -> Iterator[None]:
    before = set(names())
    yield
    for name in set(names()) - before:
        unregister(name)


@pytest.mark.usefixtures("free_names")
def test_a_method_of_ones_own() -> None:
    @register("own_margin")
    def margin(c: ScoringContext) -> Selected:
        best, second = c.logits.topk(2).values.unbind(1)
        return c.top(second - best)

    @register("own_easy", needs=["il"])
    def easy(c: ScoringContext) -> Selected:
        return c.top(-c.il)._replace(weights=torch.arange(1.0, c.k + 1))

    batch = rows_with(0.9, 0.6, 0.3)
    assert select(Selector(k=1, method="own_margin"), batch) == [1]
    assert select(Selector(k=1, method=margin), batch) == [1]
    selector = Selector(il=torch.tensor([0.3, 0.1, 0.2]), k=2, method="own_easy")
    assert select(selector, batch) == [1, 2]
    # Row 1 is the best and row 2 the second; the weights follow the rows of the small batch.
    il = torch.tensor([0.3, 0.2, 0.1])
    selector = Selector(il=il, k=2, method="own_easy")
    assert select(selector, batch) == [1, 2]
    assert selector.last is not None
    assert selector.last.weights is not None
    assert selector.last.weights.tolist() == [2.0, 1.0]
    with pytest.raises(ValueError, match="method <function.*easy.* needs irreducible losses"):
        Selector(k=2, method=easy)
    with pytest.raises(ValueError, match="there is a method 'own_margin' already"):
        register("own_margin")(easy)
    register("own_margin")(margin)  # a cell of a notebook that runs again
    with pytest.raises(TypeError, match="must return Selected.*got Tensor"):
        select(Selector(k=1, method=lambda c: c.logits), batch)
    with pytest.raises(
        ValueError, match=r"needs must be some of il, ids, dropout, logits, classes, got proxy"
    ):
        register("other", needs=["proxy"])
    with pytest.raises(ValueError, match="letters, digits and underscores, got 'a b'"):
        register("a b")


ERRORS: list[tuple[Callable[[], object], str]] = [
    (lambda: Fused("best"), "Fused: score must be one of rho, .*got 'best'"),
    (lambda: Boltzmann("best"), "Boltzmann: score must be one of rho"),
    (lambda: Boltzmann(temperature=-1.0), "temperature must be finite and at least 0, got -1"),
    (lambda: SelectiveBackprop(power=math.nan), "power must be finite and at least 0"),
    (lambda: MonteCarlo("best"), "MonteCarlo: score must be one of bald"),
    (lambda: MonteCarlo("bald", passes=1), "passes must be at least 2, got 1"),
    (lambda: ClassQuota(shares=(1.0, 0.0)), "shares must be positive"),
    (lambda: Reducr(lr=-1.0), "lr must be finite and at least 0"),
    (lambda: Reducr(class_il=torch.zeros(3)), r"class_il must be floating point \(N, C\)"),
    (lambda: Selector(k=1, method="boltzmann"), "method 'boltzmann' needs irreducible"),
    (lambda: Selector(k=1, method="reducr"), "method 'reducr' needs irreducible"),
    (
        lambda: Selector(k=1, method="bald", scorer=nn.Linear(2, 2)),
        "method 'bald' needs dropout layers, and Linear has none",
    ),
    (
        lambda: Selector(k=1, method="bald")(nn.Dropout(0.0), rows_with(0.5)),
        "needs dropout layers, and Dropout has none with p > 0",
    ),
]


def test_what_cannot_work_is_refused_early() -> None:
    for make, message in ERRORS:
        with pytest.raises(ValueError, match=message):
            make()
