"""Selected rows and their order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rho_ext import Scores, Selection, reference, score, select

from ..backends import Backend, on
from .cases import INF, METHODS, NAN, Case, Combine, cases, combined, same_bits


def best(scores: list[float], k: int) -> list[int]:
    """The contract, in plain Python: score descending, ties to the lower row, then -1."""
    rows = [row for row, score in enumerate(scores) if not math.isnan(score) and score != -INF]
    rows.sort(key=lambda row: -scores[row])
    return (rows + [-1] * len(scores))[:k]


def select_from(scores: list[float], k: int, device: torch.device) -> Selection:
    """Select on scores given as such: `neg_il` is minus the table, with nothing computed."""
    logits = torch.zeros(len(scores), 1, device=device)
    labels = torch.zeros(len(scores), dtype=torch.int64, device=device)
    return select(logits, labels, None, k, il=-torch.tensor(scores, device=device), method="neg_il")


def check(selection: Selection, scores: Tensor, k: int) -> None:
    """Require the rows, values and count that follow from the scores."""
    values, indices, _, invalid = selection
    rows = best(scores.tolist(), k)
    assert indices.tolist() == rows
    assert values.dtype == torch.float32
    assert indices.dtype == torch.int64
    assert invalid.dtype == torch.int32
    assert invalid.shape == ()
    assert invalid.item() == scores.isnan().sum().item()
    expected = [scores[row].item() if row >= 0 else -INF for row in rows]
    assert values.tolist() == expected


@cases
def test_selection_follows_from_the_scores(cases: list[Case], backend: Backend) -> None:
    for i, case in enumerate(cases):
        if case.dtype not in backend.dtypes:
            continue
        inputs = case.inputs(backend.device)
        ks = (0, min(1, case.n), case.n // 10, case.n // 2, case.n)
        for j, method in enumerate(METHODS):
            k = ks[(i + j) % len(ks)]
            scores, losses = score(**inputs, method=method)
            selection = select(**inputs, k=k, method=method)
            if case.dtype == torch.float64:
                check_float64(selection, scores, k)
            else:
                check(selection, scores, k)
            assert same_bits(selection.losses, losses)


def check_float64(selection: Selection, scores: Tensor, k: int) -> None:
    """Require the best rows; those whose scores are equal in float32 may stand in any order."""
    found = selection.indices >= 0
    rows = selection.indices[found]
    assert len(set(rows.tolist())) == len(rows)
    assert torch.equal(selection.values[found], scores[rows])
    assert (selection.values[~found] == -INF).all()
    values = [scores[row].item() if row >= 0 else -INF for row in best(scores.tolist(), k)]
    assert selection.values.tolist() == values
    assert selection.invalid.item() == scores.isnan().sum().item()


@on("cpu")
def test_float64_order_is_finer_than_the_returned_values(device: torch.device) -> None:
    """Losses that differ by 1e-10 are one number in float32 and still not a tie."""
    steps = torch.arange(100, dtype=torch.float64, device=device)
    shuffled = steps[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    logits = torch.stack([1e-10 * shuffled, torch.zeros_like(steps)], 1)
    labels = torch.ones(100, dtype=torch.int64, device=device)
    for method in ("loss", "rho"):
        il = torch.full((100,), 0.25, device=device)
        selection = select(logits, labels, None, 30, il=il, method=method)
        assert len(set(selection.values.tolist())) == 1
        assert shuffled[selection.indices].tolist() == list(range(99, 69, -1))
    # Exact ties still go to the lower row.
    equal = select(torch.zeros_like(logits), labels, None, 30, method="loss")
    assert equal.indices.tolist() == list(range(30))


SCORES: dict[str, list[float]] = {
    "one": [0.5],
    "equal": [0.25] * 70,
    "ascending": [float(i) for i in range(70)],
    "descending": [-float(i) for i in range(70)],
    "two values": [float(i % 2) for i in range(70)],
    "zeros of both signs": [0.0, -0.0, -0.0, 0.0, -0.0, 0.0],
    "negative zero first": [-0.0, 0.0, -1.0, 0.0, -0.0],
    "denormals": [1e-45, -1e-45, 0.0, -0.0, 1e-40, -1e-40],
    "infinity": [1.0, INF, -2.0, INF, 3.4e38, -3.4e38],
    "masked": [-INF, 1.0, -INF, 2.0, 1.0],
    "all masked": [-INF] * 5,
    "nan": [NAN, 1.0, -NAN, 3.0, NAN, 2.0],
    "all nan": [NAN] * 5,
    "nan, masked and infinity": [NAN, -INF, INF, -INF, NAN, 0.0, INF],
    "empty": [],
}


def test_order_of_given_scores(device: torch.device) -> None:
    for scores in SCORES.values():
        for k in {*range(min(len(scores), 8) + 1), len(scores) // 2, len(scores)}:
            check(select_from(scores, k, device), torch.tensor(scores), k)


def test_denormal_scores_keep_their_order_when_denormals_are_flushed(device: torch.device) -> None:
    scores = torch.tensor(SCORES["denormals"])
    logits, labels = torch.zeros(6, 1, device=device), torch.zeros(6, dtype=torch.int64)
    il = -scores.to(device)
    torch.set_flush_denormal(True)
    try:
        selection = select(logits, labels.to(device), None, 6, il=il, method="neg_il")
    finally:
        torch.set_flush_denormal(False)
    check(selection, scores, 6)


def test_both_signs_of_nan_are_invalid(device: torch.device) -> None:
    """A NaN with the sign bit set sorts low in its raw bits, one without it high."""
    both = torch.tensor([0x7FC00000, -0x400000, 0x7F800001, -0x7FFFFF], dtype=torch.int32)
    il = torch.cat([both.view(torch.float32), torch.tensor([1.0])]).to(device)
    labels = torch.zeros(5, dtype=torch.int64, device=device)
    got = select(torch.zeros(5, 2, device=device), labels, None, 5, il=il)
    assert got.indices.tolist() == [4, -1, -1, -1, -1]
    assert got.invalid.item() == 4


def test_invalid_rows_are_counted_and_ignored_rows_are_not(device: torch.device) -> None:
    logits = torch.zeros(6, 3, device=device)
    logits[1, 2] = NAN
    logits[4] = NAN
    labels = torch.tensor([0, 1, 2, -100, -100, 0], device=device)
    ids = torch.tensor([0, 1, 2, 77, -1, 1], device=device)
    il = torch.tensor([0.5, 0.25, NAN], device=device)
    got = select(logits, labels, ids, 4, il=il)
    assert got.indices.tolist() == [5, 0, -1, -1]
    assert got.values[2:].tolist() == [-INF, -INF]
    assert got.invalid.item() == 2
    assert got.losses[3:5].tolist() == [0.0, 0.0]
    assert got.losses.isnan().tolist() == [False, True, False, False, False, False]


def test_a_nan_loss_leaves_a_neg_il_row_valid(device: torch.device) -> None:
    logits = torch.full((2, 3), NAN, device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    il = torch.tensor([2.0, 1.0], device=device)
    got = select(logits, labels, None, 2, il=il, method="neg_il")
    assert got.indices.tolist() == [1, 0]
    assert got.invalid.item() == 0
    assert got.losses.isnan().all()


def test_bias_masks_without_counting_and_can_make_a_row_invalid(device: torch.device) -> None:
    labels = torch.zeros(4, dtype=torch.int64, device=device)
    bias = torch.tensor([-INF, NAN, 0.0, INF], device=device)
    got = select(torch.zeros(4, 2, device=device), labels, None, 4, method="loss", bias=bias)
    assert got.indices.tolist() == [3, 2, -1, -1]
    assert got.invalid.item() == 1
    # An infinite score and an infinite mask leave no number.
    lost = torch.tensor([[-INF, 0.0]] * 4, device=device)
    got = select(lost, labels, None, 4, method="loss", bias=bias)
    assert got.indices.tolist() == [2, 3, -1, -1]
    assert got.invalid.item() == 2


# Schedules of emulated blocks: test_schedules.py.
@on("cpu", "cuda")
@combined
def test_same_bits_for_every_number_of_threads_and_run(
    combine: Combine, threads: None, backend: Backend
) -> None:
    """Long rows, and so many rows that the selection has enough to share too."""
    fields = Selection._fields + Scores._fields
    for row in combine(
        method=METHODS,
        dtype=backend.dtypes,
        size=((640, 1000), (70_000, 5)),
        content=("", "bad-rows"),
        bias=(False, True),
    ):
        n, classes = row.pop("size")
        method = row.pop("method")
        inputs = Case("threads", n=n, classes=classes, ignored=True, **row).inputs(backend.device)
        expected: tuple[Tensor, ...] = ()
        for count in (1, 2, 3, 3):
            torch.set_num_threads(count)
            selection = select(**inputs, k=n // 3, method=method)
            got = (*selection, *score(**inputs, method=method))
            expected = expected or got
            for name, a, b in zip(fields, got, expected, strict=True):
                assert same_bits(a, b), f"{count} threads: {name} differs"


@on("cpu", "cuda")
def test_reference_agrees_with_the_contract(device: torch.device) -> None:
    """The truth of the other tests is held to the plain-Python rule itself."""
    for scores in SCORES.values():
        il = -torch.tensor(scores, device=device)
        labels = torch.zeros(len(scores), dtype=torch.int64, device=device)
        logits = torch.zeros(len(scores), 1, device=device)
        for k in range(len(scores) + 1):
            got = reference.select(logits, labels, None, k, il=il, method="neg_il")
            check(got, torch.tensor(scores), k)
