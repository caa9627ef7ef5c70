"""Ratios by step, and phases with uniform selection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rho_train import Batch, Selector

BATCH = Batch(torch.arange(20.0).reshape(10, 2), torch.arange(10) % 2, torch.arange(10))


def sizes(selector: Selector, steps: int) -> list[int]:
    return [len(selector(nn.Identity(), BATCH).ids) for _ in range(steps)]


def test_the_ratio_may_be_a_function_of_the_step() -> None:
    selector = Selector(method="loss", ratio=lambda step: 0.9 - 0.2 * min(step // 2, 4))
    assert sizes(selector, 12) == [9, 9, 7, 7, 5, 5, 3, 3, 1, 1, 1, 1]
    assert [selector.size(10, step) for step in (0, 3, 99)] == [9, 7, 1]
    selector = Selector(method="loss", ratio=lambda step: 0.5 + step)
    with pytest.raises(ValueError, match=r"ratio must lie in \(0, 1\], got 1.5 at step 1"):
        sizes(selector, 2)


def test_phases_are_uniform_and_of_the_same_size() -> None:
    selector = Selector(k=3, method="loss", phases=lambda step: not 10 <= step < 30)
    best = Selector(k=3, method="loss")(nn.Identity(), BATCH).ids.tolist()
    found = [selector(nn.Identity(), BATCH).ids.tolist() for _ in range(40)]
    assert {len(ids) for ids in found} == {3}
    assert found[10:30] == [best] * 20
    assert len({tuple(ids) for ids in found[:10] + found[30:]}) > 10
    assert selector.scored == 20 * 10
    nothing: Any = dict[int, bool]().get  # None is as good as False
    assert Selector(k=3, method="loss", phases=nothing).identity(9)
