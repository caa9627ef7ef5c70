"""Properties that hold for every input."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rho_ext import reference, score, select

from ..backends import Backend
from .cases import DTYPES, INF, METHODS, Case, Inputs, assert_accurate, same_bits


@st.composite
def cases(draw: st.DrawFn, smallest: int = 0) -> Case:
    """Any shape, types and options; the values follow from the name."""
    return Case(
        name=f"seed {draw(st.integers(0, 2**16))}",
        n=draw(st.integers(smallest, 100)),
        classes=draw(st.one_of(st.integers(1, 40), st.integers(1000, 1100))),
        dtype=draw(st.sampled_from(DTYPES)),
        label_dtype=draw(st.sampled_from([torch.int64, torch.int32])),
        id_dtype=draw(st.sampled_from([torch.int64, torch.int32, None])),
        il_dtype=draw(st.sampled_from(DTYPES[:3])),
        ignored=draw(st.booleans()),
        bias=draw(st.booleans()),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 1.0])),
    )


methods = st.sampled_from(METHODS)


def inputs_of(case: Case, backend: Backend) -> Inputs:
    """Draws another case where the backend has none of this type."""
    assume(case.dtype in backend.dtypes)
    return case.inputs(backend.device)


def permuted(inputs: Inputs, order: torch.Tensor) -> Inputs:
    names = ("logits", "labels", "bias", "il" if inputs["ids"] is None else "ids")
    return inputs | {name: None if inputs[name] is None else inputs[name][order] for name in names}


@given(case=cases(), method=methods)
def test_permuting_the_rows_permutes_scores_and_losses(
    backend: Backend, case: Case, method: str
) -> None:
    inputs = inputs_of(case, backend)
    order = torch.randperm(case.n, generator=torch.Generator().manual_seed(case.n))
    order = order.to(backend.device)
    before = score(**inputs, method=method)
    after = score(**permuted(inputs, order), method=method)
    assert same_bits(after.scores, before.scores[order])
    assert same_bits(after.losses, before.losses[order])


@given(case=cases(smallest=1), power=st.integers(0, 14))
def test_a_constant_per_row_changes_no_score(backend: Backend, case: Case, power: int) -> None:
    inputs = inputs_of(case, backend)
    # Multiples of 1/64 below 8: adding any of these constants is exact, so the truth stays.
    logits = (inputs["logits"].double() * 64).round().clamp(-512, 512) / 64
    shift = 2.0**power * torch.linspace(-1, 1, case.n, device=backend.device).sign()
    moved = (logits + shift[:, None]).to(torch.float32)
    assert torch.equal(moved.double(), logits + shift[:, None])
    for method in METHODS:
        if method == "logsumexp":
            continue
        truth = reference.score(**inputs | {"logits": logits}, method=method)
        plain = reference.score(**inputs | {"logits": logits.float()}, method=method)
        got = score(**inputs | {"logits": moved}, method=method)
        assert_accurate(got.scores, plain.scores, truth.scores, case.classes)
        assert_accurate(got.losses, plain.losses, truth.losses, case.classes)


@given(case=cases())
def test_rho_is_loss_plus_neg_il(backend: Backend, case: Case) -> None:
    inputs = inputs_of(case, backend) | {"bias": None}
    rho, losses = score(**inputs)
    neg_il = score(**inputs, method="neg_il").scores
    kept = inputs["labels"] != inputs["ignore_index"]
    if case.dtype == torch.float64:
        # The difference is taken before the rounding to float32: one ulp of each.
        size = torch.maximum(losses.abs(), neg_il.abs())[kept]
        error = (rho.double() - (losses.double() + neg_il.double()))[kept].abs()
        assert (error <= 2.0**-22 * size).logical_or(error.isnan()).all()
    else:
        assert same_bits(rho[kept], (losses + neg_il)[kept])
        assert same_bits(score(**inputs, method="loss").scores[kept], losses[kept])
    assert (rho[~kept] == -INF).all()
    assert (losses[~kept] == 0).all()


@given(case=cases(), method=methods, share=st.floats(0, 1))
def test_selected_rows_are_unique_valid_and_the_best(
    backend: Backend, case: Case, method: str, share: float
) -> None:
    inputs = inputs_of(case, backend)
    k = round(share * case.n)
    scores = score(**inputs, method=method).scores
    values, indices, _, invalid = select(**inputs, k=k, method=method)
    assert values.shape == indices.shape == (k,)
    chosen = indices[indices >= 0]
    assert len(set(chosen.tolist())) == len(chosen)
    assert (chosen < case.n).all()
    usable = ~scores.isnan() & (scores != -INF)
    assert len(chosen) == min(k, int(usable.sum()))
    assert usable[chosen].all()
    assert torch.equal(values[: len(chosen)], scores[chosen])
    usable[chosen] = False
    if len(chosen) and usable.any():
        assert scores[chosen].min() >= scores[usable].max()
    assert invalid.item() == scores.isnan().sum().item()


@given(
    scores=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, INF, -INF, torch.nan]), max_size=300
    ),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
)
def test_ties_equal_those_of_a_stable_sort(
    backend: Backend, scores: list[float], share: float, dtype: torch.dtype
) -> None:
    assume(dtype in backend.dtypes)
    n, k = len(scores), round(share * len(scores))
    labels = torch.zeros(n, dtype=torch.int64, device=backend.device)
    arguments = (torch.zeros(n, 2, dtype=dtype, device=backend.device), labels, None, k)
    il = -torch.tensor(scores, device=backend.device)
    got = select(*arguments, il=il, method="neg_il")
    expected = reference.select(*arguments, il=il, method="neg_il")
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.values.double(), expected.values.double())
    assert torch.equal(got.invalid, expected.invalid)


@given(case=cases(), method=methods)
def test_bias_is_added_to_the_score(backend: Backend, case: Case, method: str) -> None:
    inputs = inputs_of(case, backend)
    if case.dtype == torch.float64:
        inputs["logits"] = inputs["logits"].float()
    bias = torch.randn(case.n, generator=torch.Generator().manual_seed(case.n)).to(backend.device)
    plain = score(**inputs | {"bias": None}, method=method).scores
    biased = inputs | {"bias": bias}
    assert same_bits(score(**biased, method=method).scores, plain + bias)
    # Selecting with a bias is selecting from the sum.
    total = -(plain + bias)
    labels = torch.zeros(case.n, dtype=torch.int64, device=backend.device)
    expected = select(
        torch.zeros(case.n, 1).to(backend.device), labels, None, case.n, il=total, method="neg_il"
    )
    got = select(**biased, k=case.n, method=method)
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.values, expected.values)
