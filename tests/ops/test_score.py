"""The losses and scores of every row, against float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rho_ext
from rho_ext import reference, score

from ..backends import Backend, on
from .cases import (
    DTYPES,
    FEW_CASES,
    INF,
    LAYOUTS,
    METHODS,
    NAN,
    WITHOUT_IL,
    Case,
    Combine,
    Inputs,
    assert_accurate,
    cases,
    combined,
    same_bits,
    short,
)

PER_ROW = ("logits", "labels", "ids", "bias")


@cases
def test_scores_and_losses_are_accurate(cases: list[Case], backend: Backend) -> None:
    for case in cases:
        if case.dtype not in backend.dtypes:
            continue
        inputs = case.inputs(backend.device)
        exact = inputs | {"logits": inputs["logits"].double()}
        for method in METHODS:
            ours = score(**inputs, method=method)
            plain = reference.score(**inputs, method=method)
            # For float64 logits this is what plain torch gives: only our rounding remains.
            truth = reference.score(**exact, method=method)
            assert_accurate(ours.losses, plain.losses, truth.losses, case.classes)
            assert_accurate(ours.scores, plain.scores, truth.scores, case.classes)


@pytest.mark.parametrize("classes", [2, 3, 26, 1000, 1025, 5000])
def test_learnt_rows_are_accurate(classes: int, backend: Backend) -> None:
    """The label 0 to 80 above every other logit: relative to the value itself, however small."""
    device = backend.device
    margins = torch.arange(81, dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(81, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (81,), generator=generator).to(device)
    logits = logits.to(device).scatter(1, labels[:, None], -INF)
    logits = logits.scatter(1, labels[:, None], (logits.amax(1) + margins)[:, None])
    for dtype in {torch.float32, torch.float64} & set(backend.dtypes):
        rounded = logits.to(dtype)
        exact = rounded.double()
        odds = (exact - exact.gather(1, labels[:, None])).exp().scatter(1, labels[:, None], 0.0)
        loss = odds.sum(1).log1p()
        p = odds / (1 + odds.sum(1, keepdim=True))
        truths = {
            "grad_norm": (p.sum(1).square() + p.square().sum(1)).sqrt(),
            "loss": loss,
            "entropy": loss * (-loss).exp() - torch.xlogy(p, p).sum(1),
        }
        for method, truth in truths.items():
            got = score(rounded, labels, None, method=method).scores
            # The last digit of a float32 sum that is close to 1 bounds what is added to it.
            seen = truth > (0 if method == "grad_norm" else 0.5)
            assert seen.any()
            assert ((got / truth - 1).abs()[seen] < 1e-5).all(), method
        plain = reference.score(rounded, labels, None, method="grad_norm").scores
        assert ((plain / truths["grad_norm"] - 1).abs() < 1e-5).all()


def test_the_gradient_of_a_learnt_row(device: torch.device) -> None:
    # softmax = (1, e^-60, e^-60) but for factors of 1 + 2 e^-60: norm sqrt(2^2 + 1 + 1) e^-60.
    logits, label = torch.tensor([[60.0, 0.0, 0.0]], device=device), torch.tensor([0])
    for function in (score, reference.score):
        got = function(logits, label.to(device), None, method="grad_norm")
        assert got.scores.item() == pytest.approx(2.1448983e-26, rel=1e-6)


@pytest.mark.parametrize("others", [(), (-INF,), (-INF,) * 2000, (-1000.0,) * 2000], ids=len)
def test_a_certain_label_scores_exactly_zero(others: tuple[float, ...], backend: Backend) -> None:
    for dtype, method in product(backend.dtypes, WITHOUT_IL):
        for row, label in (((5.0, *others), 0), ((*others, 5.0), len(others))):
            logits = torch.tensor([row], dtype=dtype, device=backend.device)
            label = torch.tensor([label], device=backend.device)
            got = score(logits, label, None, method=method)
            assert got.scores.item() == (5.0 if method == "logsumexp" else 0.0)
            assert got.losses.item() == 0.0


def test_rows_that_rise_are_accurate(backend: Backend) -> None:
    """The first logits say ever less of those that follow."""
    for dtype, slope in product(backend.dtypes, (0.005, 0.5, 20.0)):
        rising = (slope * torch.arange(3000, device=backend.device)).to(dtype)
        logits = rising.expand(6, -1).clone()
        logits[3:] = logits[3:].flip(1)
        labels = torch.tensor([0, 1500, 2999] * 2, device=backend.device)
        plain = F.cross_entropy(logits.float(), labels, reduction="none")
        truth = F.cross_entropy(logits.double(), labels, reduction="none")
        assert_accurate(score(logits, labels, None, method="loss").losses, plain, truth, 3000)


def test_the_logsumexp_is_accurate_whatever_the_label(backend: Backend) -> None:
    """The CPU sums relative to the label's logit, and may for a loss that is as far from it."""
    generator = torch.Generator().manual_seed(0)
    for dtype, classes in product(backend.dtypes, (16, 26, 1000, 5000)):
        logits = torch.full((81, classes), -200.0)
        logits[:, 0], logits[:, -1] = torch.rand(81, generator=generator), -torch.arange(81.0)
        logits = logits.to(backend.device, dtype)
        labels = torch.full((81,), classes - 1, device=backend.device)
        got = score(logits, labels, None, method="logsumexp")
        sums = [x.logsumexp(1) for x in (logits.float(), logits.double())]
        losses = [
            F.cross_entropy(x, labels, reduction="none") for x in (logits.float(), logits.double())
        ]
        assert_accurate(got.scores, *sums, classes)
        assert_accurate(got.losses, *losses, classes)


@on("cpu")
@pytest.mark.parametrize("classes", [16, 128, 511, 1024, 4096])
def test_rows_of_equal_logits_are_accurate(classes: int, device: torch.device) -> None:
    """The errors of adding terms are equal if the terms are."""
    logits = torch.linspace(-3, 3, 2000, device=device)[:, None].repeat(1, classes)
    logits[:, 0] = 0.0
    labels = torch.zeros(len(logits), dtype=torch.int64, device=device)
    plain = F.cross_entropy(logits, labels, reduction="none")
    truth = F.cross_entropy(logits.double(), labels, reduction="none")
    assert_accurate(score(logits, labels, None, method="loss").losses, plain, truth, classes)


@combined
def test_rows_with_one_nan_are_accurate(combine: Combine, backend: Backend) -> None:
    """Wherever it stands: no maximum that passes over it may hide it."""
    for row in combine(
        classes=(2, 5, 16, 17, 100, 1025),
        dtype=backend.dtypes,
        others=(-INF, 0.0),
        method=WITHOUT_IL,
        label=(0, 0.5, 1),
    ):
        size = row["classes"]
        logits = torch.full((size, size), row["others"], dtype=row["dtype"], device=backend.device)
        logits[:, size // 2] = 1.0
        logits.diagonal().fill_(NAN)
        labels = torch.full((size,), int(row["label"] * (size - 1)), device=backend.device)
        got = score(logits, labels, None, method=row["method"])
        assert got.scores.isnan().all()
        assert got.losses.isnan().all()


@pytest.mark.parametrize("flush", [False, True], ids=["", "flush_denormal"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=short)
def test_every_half_equals_its_float32(
    dtype: torch.dtype, flush: bool, device: torch.device
) -> None:
    """All 65,536 patterns, as the label's logit and beside it: the same scores to the bit."""
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).to(device)
    zero = torch.zeros_like(halves)
    labels = torch.zeros(2**16, dtype=torch.int64, device=device)
    # Beside 2^-24, the least float16, a half of that size is seen in the last digit of the loss.
    rows = [torch.stack([halves, zero], 1), torch.stack([zero, halves, zero + 2.0**-24], 1)]
    for logits in rows:
        wide = logits.float()
        for method in ("grad_norm", "entropy"):
            torch.set_flush_denormal(flush)
            try:
                got = score(logits, labels, None, method=method)
                expected = score(wide, labels, None, method=method)
            finally:
                torch.set_flush_denormal(False)
            assert same_bits(got.scores, expected.scores)
            assert same_bits(got.losses, expected.losses)


def test_golden_values(device: torch.device) -> None:
    # softmax = (1/6, 2/6, 3/6), label 1: CE = ln 3, ||p - onehot|| = sqrt(1 + 16 + 9) / 6,
    # H = 1/6 ln 6 + 1/3 ln 3 + 1/2 ln 2; smoothing 0.3 takes 0.1 from each of ln 6, ln 3, ln 2.
    logits = torch.tensor([[0.0, 0.6931471806, 1.0986122887]], device=device)
    label, il = torch.tensor([1], device=device), torch.tensor([0.5], device=device)
    expected = {
        "rho": 0.5986122887,
        "loss": 1.0986122887,
        "neg_il": -0.5,
        "grad_norm": 0.8498365856,
        "entropy": 1.0114042647,
        "logsumexp": 1.7917594692,
    }
    for method, value in expected.items():
        got = score(logits, label, None, il=il, method=method)
        assert got.scores.item() == pytest.approx(value, abs=1e-6), method
        assert got.losses.item() == pytest.approx(1.0986122887, abs=1e-6), method
    smooth = score(logits, label, None, method="loss", label_smoothing=0.3)
    assert smooth.losses.item() == pytest.approx(0.7 * 1.0986122887 + 0.1 * 3.5835189385, abs=1e-6)


def test_rho_is_exactly_the_returned_loss_minus_the_table(backend: Backend) -> None:
    for dtype in DTYPES[:3]:
        inputs = Case("exact", n=320, classes=100, dtype=dtype).inputs(backend.device)
        ids, il = inputs["ids"], inputs["il"]
        got = score(**inputs)
        assert same_bits(got.scores, got.losses - il[ids])
        inputs["bias"] = torch.linspace(-3, 3, 320, device=backend.device)
        assert same_bits(score(**inputs).scores, got.losses - il[ids] + inputs["bias"])


@on("cpu")
def test_float64_logits_are_computed_in_float64(device: torch.device) -> None:
    """A difference that float32 cannot see at this size decides the result."""
    logits = torch.tensor([[1e6, 1e6 + 1e-3], [1e6, 1e6]], dtype=torch.float64, device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    il = torch.zeros(2, device=device)
    for method in METHODS:
        got = score(logits, labels, None, il=il, method=method)
        truth = reference.score(logits, labels, None, il=il, method=method)
        assert_accurate(got.scores, truth.scores, truth.scores, 2)
        assert_accurate(got.losses, truth.losses, truth.losses, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_change_a_bit(layout: str, backend: Backend) -> None:
    for dtype, method in product(backend.dtypes, METHODS):
        case = Case("layout", n=17, dtype=dtype, classes=1025, label_smoothing=0.1, layout=layout)
        inputs = case.inputs(backend.device)
        assert not inputs["logits"].is_contiguous()
        dense = score(**inputs | {"logits": inputs["logits"].contiguous()}, method=method)
        for a, b in zip(score(**inputs, method=method), dense, strict=True):
            assert same_bits(a, b)


@combined
def test_a_row_does_not_depend_on_its_neighbours(combine: Combine, backend: Backend) -> None:
    rows = (0, *range(1, 70, 3))
    for choice in combine(classes=(26, 1025), dtype=backend.dtypes, method=METHODS):
        method = choice.pop("method")
        case = Case("alone", n=70, bias=True, ignored=True, **choice)
        inputs = case.inputs(backend.device)
        # A label far below the largest logit, where the others' are not.
        inputs["logits"][34] *= 100
        batch = score(**inputs, method=method)
        for row in rows:
            one = inputs | {name: inputs[name][row : row + 1] for name in PER_ROW}
            alone = score(**one, method=method)
            assert same_bits(alone.scores, batch.scores[row : row + 1])
            assert same_bits(alone.losses, batch.losses[row : row + 1])


def test_strided_labels_ids_il_and_bias(device: torch.device) -> None:
    inputs = Case("vectors", n=64, bias=True).inputs(device)
    expected = score(**inputs)
    for name in ("labels", "ids", "il", "bias"):
        tensor = inputs[name]
        inputs[name] = torch.stack([tensor, tensor.flip(0)], 1)[:, 0]
    for a, b in zip(score(**inputs), expected, strict=True):
        assert same_bits(a, b)


def test_ignored_rows(device: torch.device) -> None:
    """Score -inf and loss 0, and neither their logits nor their id is read."""
    for method in METHODS:
        inputs = Case("ignored", ignored=True).inputs(device)
        ids = inputs["ids"]
        inputs["logits"][::3] = torch.nan
        ids[::6], ids[3::6] = -5, 10**12
        got = score(**inputs, method=method)
        assert (got.scores[::3] == -INF).all()
        assert (got.losses[::3] == 0).all()
        assert (got.scores[1::3] != -INF).all()


def test_methods_without_il_do_not_read_it(device: torch.device) -> None:
    inputs = Case("unread").inputs(device)
    wrong = torch.full_like(inputs["labels"], -1)
    for method in WITHOUT_IL:
        expected = score(**inputs | {"il": None, "ids": None}, method=method)
        for ids, il in product((inputs["ids"], wrong), (torch.full((3,), NAN).to(device), None)):
            got = score(**inputs | {"il": il, "ids": ids}, method=method)
            assert same_bits(got.scores, expected.scores)


def test_inputs_are_not_changed(backend: Backend) -> None:
    for case in FEW_CASES:
        if case.dtype in backend.dtypes:
            inputs, before = case.inputs(backend.device), case.inputs(backend.device)
            score(**inputs)
            for name in ("logits", "labels", "ids", "il", "bias"):
                a, b = inputs[name], before[name]
                assert a is None or torch.equal(a.nan_to_num(7), b.nan_to_num(7)), name


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64, "meta"], ids=str)
def test_torch_defaults_change_nothing(default: Any, backend: Backend) -> None:
    def run(inputs: Inputs) -> list[Tensor]:
        results = [rho_ext.workspace(backend.device)]
        for ops in (rho_ext, reference):
            for method in METHODS:
                results += ops.score(**inputs, method=method)
                results += ops.select(**inputs, method=method, k=len(inputs["logits"]) // 2)
        return results

    for case in FEW_CASES:
        if case.dtype in backend.dtypes:
            inputs = case.inputs(backend.device)
            expected = run(inputs)
            try:
                if default == "meta":
                    torch.set_default_device(default)
                else:
                    torch.set_default_dtype(default)
                got = run(inputs)
            finally:
                torch.set_default_device(None)
                torch.set_default_dtype(torch.float32)
            for a, b in zip(got, expected, strict=True):
                assert a.device == b.device
                assert a.dtype == b.dtype
                assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@on("cpu", "cuda")
def test_the_reference_does_not_copy_the_table(device: torch.device) -> None:
    """2^40 float32 values are 4 TiB."""
    il = torch.full((1,), 0.25, device=device).expand(2**40)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    ids = torch.tensor([2**40 - 1, 2**40], device=device)
    got = reference.score(torch.zeros(2, 1, device=device), labels, ids, il=il, method="neg_il")
    assert got.scores[0].item() == -0.25
    assert got.scores[1].isnan()


@on("cpu", "cuda")
def test_in_the_reference_an_empty_table_has_no_id(device: torch.device) -> None:
    labels = torch.tensor([0, -100], device=device)
    logits, il = torch.zeros(2, 1, device=device), torch.zeros(0, device=device)
    got = reference.score(logits, labels, labels * 0, il=il)
    assert got.scores[0].isnan()
    assert got.scores[1].item() == -INF
