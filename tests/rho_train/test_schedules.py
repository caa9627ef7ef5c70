"""Schedules of numbers, and phases with uniform selection."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from rho_train import Batch, Selector
from rho_train.methods.sampling import Boltzmann
from rho_train.schedules import Geometric, Linear, UniformPhases

BATCH = Batch(torch.arange(20.0).reshape(10, 2), torch.arange(10) % 2, torch.arange(10))


def sizes(selector: Selector, steps: int) -> list[int]:
    return [len(selector(nn.Identity(), BATCH).ids) for _ in range(steps)]


def test_the_size_changes_where_the_schedule_says_and_nowhere_else() -> None:
    selector = Selector(method="loss", ratio=Linear(0.9, 0.1, steps=10, stages=5))
    assert sizes(selector, 12) == [9, 9, 7, 7, 5, 5, 3, 3, 1, 1, 1, 1]
    assert [selector.size(10, step) for step in (0, 3, 99)] == [9, 7, 1]
    slow = Linear(1.0, 0.1, steps=1000, stages=7)
    values = [slow(step) for step in range(1100)]
    assert sum(a != b for a, b in pairwise(values)) == 6
    assert (values[0], values[999], values[1099]) == (1.0, 0.1, 0.1)


def test_geometric_starts_at_its_start() -> None:
    growing = Geometric(0.1, 10.0, steps=300, stages=3)
    assert [growing(step) for step in (0, 99, 100, 199, 200, 999)] == pytest.approx(
        [0.1, 0.1, 1.0, 1.0, 10.0, 10.0]
    )
    assert growing(0) == 0.1


def test_temperature_follows_the_step_of_the_selector() -> None:
    # Cold at first, then so hot that the score is nothing.
    method = Boltzmann("loss", temperature=Linear(0.0, 1e6, steps=40, stages=2))
    selector = Selector(k=3, method=method)
    cold = Selector(k=3, method="loss")(nn.Identity(), BATCH).ids.tolist()
    found = [selector(nn.Identity(), BATCH).ids.tolist() for _ in range(40)]
    assert found[:20] == [cold] * 20
    assert len({tuple(ids) for ids in found[20:]}) > 10


def test_phases_are_uniform_and_of_the_same_size() -> None:
    phases = UniformPhases(steps=40, warmup=10, anneal=0.25)
    selector = Selector(k=3, method="loss", phases=phases)
    best = Selector(k=3, method="loss")(nn.Identity(), BATCH).ids.tolist()
    found = [selector(nn.Identity(), BATCH).ids.tolist() for _ in range(40)]
    assert {len(ids) for ids in found} == {3}
    assert found[10:30] == [best] * 20
    assert len({tuple(ids) for ids in found[:10] + found[30:]}) > 10
    assert selector.scored == 20 * 10
    # A run that is made longer goes on as it ends.
    assert phases.uniform(41)
    assert not UniformPhases(steps=40, warmup=10).uniform(41)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Linear(0.1, 0.2, steps=5, stages=6),
            r"stages must lie in \[2, steps = 5\], got 6",
        ),
        (lambda: Linear(0.1, 0.2, steps=5, stages=1), "stages must lie in"),
        (lambda: Linear(0.1, float("nan"), steps=50), "start and end must be finite"),
        (lambda: Geometric(0.0, 1.0, steps=50), "start and end must be positive"),
        (lambda: UniformPhases(steps=0), "steps must be at least 1"),
        (lambda: UniformPhases(steps=10, anneal=1.5), r"anneal in \[0, 1\]"),
        (lambda: UniformPhases(steps=10, warmup=6, anneal=0.5), "overlap"),
        (
            lambda: Selector(method="loss", ratio=Linear(0.5, 1.5, steps=50)),
            r"ratio must lie in \(0, 1\]",
        ),
        (lambda: Boltzmann(temperature=Linear(1.0, -1.0, steps=50)), "at least 0"),
    ],
)
def test_impossible_schedules(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
