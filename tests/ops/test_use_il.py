"""The active table of irreducible losses."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import rho_ext

IDS = torch.tensor([2, 0, 1])


def scores() -> list[float]:
    """Minus the active table at IDS."""
    labels = torch.zeros(3, dtype=torch.int64)
    return rho_ext.score(torch.zeros(3, 1), labels, IDS, method="neg_il").scores.tolist()


A, B = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
FROM_A, FROM_B = [-3.0, -1.0, -2.0], [-30.0, -10.0, -20.0]


def no_table() -> bool:
    with pytest.raises(ValueError, match=r"needs il; pass il=table or activate one"):
        scores()
    return True


def test_as_a_call_it_stays_and_none_clears_it() -> None:
    rho_ext.use_il(A)
    assert scores() == FROM_A
    rho_ext.use_il(B)
    assert scores() == FROM_B
    rho_ext.use_il(None)
    assert no_table()


def test_as_a_context_manager_it_is_restored() -> None:
    with rho_ext.use_il(A) as table:
        assert table is A
        with rho_ext.use_il(B):
            assert scores() == FROM_B
            with rho_ext.use_il(None):
                assert no_table()
            assert scores() == FROM_B
        assert scores() == FROM_A
    assert no_table()


def test_it_is_restored_after_an_exception() -> None:
    with rho_ext.use_il(A):
        with pytest.raises(KeyError), rho_ext.use_il(B):  # noqa: PT012
            assert scores() == FROM_B
            raise KeyError
        assert scores() == FROM_A


def test_a_call_inside_a_context_stays() -> None:
    with rho_ext.use_il(A):
        rho_ext.use_il(B)
        assert scores() == FROM_B
    assert scores() == FROM_B


def test_a_stored_context_activates_its_table_when_it_is_entered() -> None:
    stored = rho_ext.use_il(A)
    rho_ext.use_il(B)
    for _ in range(2):
        with stored as table:
            assert table is A
            assert scores() == FROM_A
            with rho_ext.use_il(None), stored:
                assert scores() == FROM_A
            with stored:
                assert scores() == FROM_A
            assert scores() == FROM_A
        assert scores() == FROM_B


def test_an_explicit_table_wins() -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    with rho_ext.use_il(A):
        got = rho_ext.score(torch.zeros(3, 1), labels, IDS, il=B, method="neg_il")
        assert got.scores.tolist() == FROM_B
        aligned = rho_ext.score(torch.zeros(3, 1), labels, None, il=B, method="neg_il")
        assert aligned.scores.tolist() == [-10.0, -20.0, -30.0]
        assert scores() == FROM_A


def test_the_literal_call() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 1.0]])
    labels, ids, k = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 3, 2, 0]), 2
    il = torch.tensor([0.0, 0.0, -3.0, 1.5])
    rho_ext.use_il(il)
    selection = rho_ext.select(logits, labels, ids, k)
    # CE = ln(1 + e^-2), 2 + ln(1 + e^-2), ln 2, ln(1 + e^-1); IL = 0, 1.5, -3, 0
    assert selection.indices.tolist() == [2, 1]
    assert selection.values.tolist() == pytest.approx([3.6931472, 0.6269280], abs=1e-6)
    assert selection.losses.tolist() == pytest.approx(
        [0.1269280, 2.1269280, 0.6931472, 0.3132617], abs=1e-6
    )
    assert selection.invalid.item() == 0
    values, indices, losses, invalid = selection
    assert (values, indices, losses, invalid) == selection


def test_changes_in_place_are_seen() -> None:
    table = A.clone()
    with rho_ext.use_il(table):
        table += 1
        assert scores() == [-4.0, -2.0, -3.0]


@pytest.mark.parametrize("method", ["loss", "grad_norm", "entropy"])
def test_methods_without_il_do_not_touch_the_active_table(method: str) -> None:
    arguments = (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    expected = rho_ext.score(*arguments, None, method=method)
    with rho_ext.use_il(torch.zeros(1)):
        for ids in (IDS, None):
            got = rho_ext.score(*arguments, ids, method=method)
            assert torch.equal(got.scores, expected.scores)


def test_it_is_active_for_all_threads() -> None:
    seen: list[list[float]] = []
    with rho_ext.use_il(A):
        thread = threading.Thread(target=lambda: seen.append(scores()))
        thread.start()
        thread.join()
    assert seen == [FROM_A]


@pytest.mark.parametrize("method", ["rho", "neg_il"])
@pytest.mark.parametrize("rows", [3, 1000])
def test_it_is_never_taken_as_aligned_with_the_batch(rows: int, method: str) -> None:
    message = (
        "the table of rho_ext.use_il is read by ids, and ids is None; pass ids, or pass il with "
        "one value a row"
    )
    logits, labels = torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)
    with rho_ext.use_il(torch.zeros(rows)):
        with pytest.raises(ValueError, match=f"^select: {message}$"):
            rho_ext.select(logits, labels, None, 1, method=method)
        with pytest.raises(ValueError, match=f"^score: {message}$"):
            rho_ext.score(logits, labels, None, method=method)


WRONG_TYPE = "il must be float32, float16 or bfloat16, got "


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        ([0.1, 0.2], TypeError, "il must be a tensor, got list"),
        (np.zeros(3), TypeError, "il must be a tensor, got ndarray"),
        (torch.zeros(3, 1), ValueError, "il must have shape (N,), got (3, 1)"),
        (torch.tensor(0.5), ValueError, "il must have shape (N,), got ()"),
        (torch.zeros(3, dtype=torch.float64), ValueError, WRONG_TYPE + "float64"),
        (torch.zeros(3, dtype=torch.int64), ValueError, WRONG_TYPE + "int64"),
    ],
    ids=["list", "numpy", "2-D", "0-D", "float64", "int64"],
)
def test_a_wrong_table_is_refused_and_the_one_before_it_stays(
    table: Any, kind: type[Exception], message: str
) -> None:
    with rho_ext.use_il(A):
        with pytest.raises(kind) as caught:
            rho_ext.use_il(table)
        assert str(caught.value) == f"use_il: {message}"
        assert scores() == FROM_A


def test_a_table_is_marked_as_one_that_cuda_graphs_do_not_copy() -> None:
    table, marked = torch.zeros(3), torch.zeros(3)
    torch._dynamo.mark_static_address(marked, guard=False)  # type: ignore[no-untyped-call]
    with rho_ext.use_il(table):
        assert vars(table) == vars(marked) != {}
