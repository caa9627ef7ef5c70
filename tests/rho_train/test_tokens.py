"""Selecting tokens: the share that is selected, the loss, and what has no meaning."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import rho_ext
from rho_train.scoring import share_of
from rho_train.tokens import top_share

INF, NAN = torch.inf, torch.nan


@given(
    scores=st.integers(1, 3).flatmap(
        lambda m: st.integers(1, 9).flatmap(
            lambda t: st.lists(
                st.lists(
                    st.sampled_from([-INF, INF, -1.0, 0.0, -0.0, 2.0, NAN]), min_size=t, max_size=t
                ),
                min_size=m,
                max_size=m,
            )
        )
    ),
    ratio=st.sampled_from([0.01, 0.25, 0.29, 0.5, 0.6, 1.0]),
)
def test_the_best_share_is_that_of_select(scores: list[list[float]], ratio: float) -> None:
    drawn = torch.tensor(scores)
    mask, positions = top_share(drawn, ratio)
    for row, own in zip(drawn, mask, strict=True):
        valid = int((row != -INF).sum())
        k = share_of(valid, ratio) if valid else 0
        # A class alone has loss 0, so that the bias is the score.
        one, zero = torch.zeros(len(row), 1), torch.zeros(len(row), dtype=torch.int64)
        bias = row.masked_fill(row.isnan(), INF)
        best = rho_ext.select(one, zero, None, k, method="loss", bias=bias).indices
        assert own.sum() == k
        # NaN ranks before +inf, and here is a tie with it.
        if row.isnan().any() and row.isposinf().any():
            assert own[row.isnan()].sum() == min(k, row.isnan().sum())
        else:
            assert torch.equal(own.nonzero()[:, 0], best.sort().values)
    assert torch.equal(positions, mask.flatten().nonzero()[:, 0])


def test_a_compiled_share_has_a_fixed_size() -> None:
    compiled = torch.compile(top_share, backend="aot_eager", fullgraph=True, dynamic=True)
    for m, t in ((1, 12), (3, 4), (2, 7)):
        scores = torch.randn(m, t).masked_fill(torch.rand(m, t) < 0.5, -INF)
        mask, positions = compiled(scores, 0.6)
        wanted, kept = top_share(scores, 0.6)
        assert torch.equal(mask, wanted)
        assert len(positions) == m * share_of(t, 0.6)
        assert torch.equal(positions[positions >= 0], kept)
