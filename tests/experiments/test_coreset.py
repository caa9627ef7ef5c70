"""Core-sets by forgetting events and uncertainty of a proxy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments.coreset import (
    coreset,
    forgetting_events,
    least_confidence,
    predictive_entropy,
)


def test_forgetting_events_by_hand() -> None:
    # Columns: forgotten twice; never; learnt late; never right; forgotten once.
    correct = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0]])
    assert forgetting_events(correct.bool()).tolist() == [2.0, 0.0, 0.0, float("inf"), 1.0]
    ids = torch.tensor([10, 20, 30, 40, 50])
    assert coreset("forgetting", correct.bool(), 4, ids=ids).tolist() == [40, 10, 50, 20]


def test_least_confidence_and_entropy_rank_differently() -> None:
    # The first has the lower maximum, the second is spread over more classes.
    p = torch.tensor([[0.49, 0.49, 0.02], [0.55, 0.225, 0.225], [1.0, 0.0, 0.0]])
    logits = p.log()
    assert least_confidence(logits).tolist() == pytest.approx([0.51, 0.45, 0.0])
    assert predictive_entropy(logits).tolist() == pytest.approx([0.7773, 1.0001, 0.0], abs=1e-4)
    assert coreset("least_confidence", logits, 2).tolist() == [0, 1]
    assert coreset("entropy", logits, 2).tolist() == [1, 0]
    # A probability of zero is certain, not NaN.
    assert coreset("entropy", logits, 3).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", torch.zeros(3, 2), 1), "strategy must be one of forgetting, .*got 'best'"),
        (("entropy", torch.zeros(3), 1), r"record must have two dimensions.*got \(3,\)"),
        (("entropy", torch.zeros(3, 2), 0), r"k must lie in \[1, 3\].*got 0"),
        (("entropy", torch.zeros(3, 2), 4), r"k must lie in \[1, 3\].*got 4"),
        (("entropy", torch.full((3, 2), torch.nan), 1), "3 of 3 examples have the score NaN"),
        (("forgetting", torch.zeros(3, 2), 1), r"correct must be bool \(epochs, n\), got torch.fl"),
    ],
)
def test_what_is_no_record_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coreset(*arguments)
    with pytest.raises(ValueError, match=r"one id an example, \(3,\), got \(2,\)"):
        coreset("entropy", torch.zeros(3, 2), 1, ids=torch.arange(2))
