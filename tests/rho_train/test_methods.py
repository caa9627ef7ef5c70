"""Methods of selection: each formula by hand, and rules for all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rho_train import Batch, Selector, register
from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.registry import names, unregister

from .ways import METHODS


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
    for index, name in enumerate(METHODS):
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
            assert len(set(seen[-1])) == 12, name
        assert torch.equal(torch.get_rng_state(), state), name
        assert selector.invalid == 0, name
        assert Selector(k=12, **options)(model, batch).ids.tolist() == seen[0], name
        # Thirty rows are usable, so forty cannot be selected.
        everything = Selector(k=40, **options)(model, batch)
        assert torch.equal(everything.ids, batch.ids[batch.y != ignored]), name
        with pytest.raises(FloatingPointError, match="all 40 examples are left out: their labels"):
            Selector(k=12, **options)(model, batch._replace(y=batch.y * 0 + ignored))


@pytest.mark.filterwarnings("ignore:Selector. examples without a usable score")
def test_no_method_selects_a_row_without_a_finite_loss_or_il() -> None:
    for name in set(METHODS) - {"uniform", "neg_il"}:
        model, batch, il = large()
        batch.x[7] = torch.nan
        selector = Selector(il=il, k=39, method=name)
        assert selector(model, batch).x.isfinite().all(), name
        assert selector.invalid == 1, name
    for name in ("rho", "neg_il"):
        model, batch, il = large()
        il[batch.ids[7]] = torch.nan
        selector = Selector(il=il, k=40, method=name)
        wanted = torch.cat([batch.ids[:7], batch.ids[8:]])
        assert torch.equal(selector(model, batch).ids, wanted), name
        assert selector.invalid == 1, name


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
        ValueError, match="needs must be some of il, ids, logits, classes, got proxy"
    ):
        register("other", needs=["proxy"])
    with pytest.raises(ValueError, match="letters, digits and underscores, got 'a b'"):
        register("a b")
