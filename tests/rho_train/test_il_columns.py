"""Irreducible losses as a field of the batch, batches without ids, and metrics for loggers."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rho_train import Batch, History, OnlineModel, Selector
from rho_train.methods.context import ScoringContext, Selected

X = torch.tensor([[9.0, 0.0], [0.0, 0.0], [-3.0, 0.0], [-9.0, 0.0]])
Y = torch.zeros(4, dtype=torch.int64)
IDS = torch.tensor([5, 2, 7, 0])
# The last example is the hardest, but its irreducible loss says that it cannot be learnt.
TABLE = torch.zeros(8).index_fill(0, torch.tensor([0]), 9.0)


@dataclass
class WithIL:
    x: Tensor
    y: Tensor
    il: Tensor


def test_il_may_be_a_field_of_the_batch() -> None:
    """A column of any batch structure needs no ids; model and small batch do not get it."""
    il = TABLE[IDS]
    wanted = Selector(il=TABLE, k=2)(nn.Identity(), Batch(X, Y, IDS))
    rows = [IDS.tolist().index(i) for i in wanted.ids]
    structures: list[tuple[Any, Callable[[Any], Any]]] = [
        ({"x": X, "y": Y, "il": il}, lambda small: (small["x"], small["y"], *small.keys())),
        (UserDict({"input": X, "y": Y, "il": il}), lambda small: (small["input"], small["y"])),
        ((X, Y, il), lambda small: small),
        ([X, Y, IDS, il], lambda small: small[:2]),
        (WithIL(X, Y, il), lambda small: (small.x, small.y)),
    ]
    for batch, parts in structures:
        selector = Selector(il="il", k=2)
        x, y, *_ = parts(selector(nn.Identity(), batch))
        assert torch.equal(x, wanted.x)
        assert torch.equal(y, wanted.y)
        assert selector.last is not None
        assert selector.last.indices.sort().values.tolist() == rows
        # A batch without ids shows its rows.
        shown = IDS if isinstance(batch, list) else torch.arange(4)
        assert torch.equal(selector.last.ids, shown)
    assert set(Selector(il="il", k=2)(nn.Identity(), structures[0][0])) == {"x", "y"}
    # What a function sees is the batch without it.
    seen: list[set[str]] = []

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(set(batch))
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")

    Selector(il="il", k=2, loss_fn=losses)(nn.Identity(), {"x": X, "y": Y, "il": il})
    assert seen[0] == {"x", "y"}


def by_id(context: ScoringContext) -> Selected:
    return context.top(context.ids.float(), context.ids.float())


by_id.needs = ("ids",)  # type: ignore[attr-defined]


def test_ids_are_demanded_only_where_something_needs_them() -> None:
    batch = {"x": X, "y": Y}
    for method in ("loss", "uniform", "entropy", "grad_norm"):
        selector = Selector(il="il", k=2, method=method)
        assert len(selector(nn.Identity(), {**batch, "il": TABLE[IDS]})["y"]) == 2
    assert len(Selector(k=2, method="loss")(nn.Identity(), (X, Y))[1]) == 2
    model = nn.Linear(2, 2)
    needing: list[dict[str, Any]] = [
        {"il": TABLE},
        {"method": "loss", "history": History(8)},
        {"il": OnlineModel(model)},
        {"method": by_id},
    ]
    for settings in needing:
        with pytest.raises(ValueError, match="the batch has no ids"):
            Selector(k=2, **settings)(nn.Identity(), batch)


def test_bad_columns_of_il_are_refused() -> None:
    cases: list[tuple[Any, str]] = [
        ({"x": X, "y": Y}, "got NoneType in dict with the keys 'x', 'y'; keep the column in the"),
        ({"x": X, "y": Y, "il": Y}, r"floating point \(n,\), got int64 tensor"),
        (
            {"x": X, "y": Y, "il": TABLE[:2]},
            r"il must have one row an example, got float32.*\(2,\)",
        ),
        ((X, Y), r"got int64 tensor \(.*\) in tuple of 2 elements"),
    ]
    for batch, message in cases:
        with pytest.raises(ValueError, match=message):
            Selector(il="il", k=2)(nn.Identity(), batch)
    unknown = TABLE[IDS].clone()
    unknown[0] = torch.nan
    selector = Selector(il="il", ratio=1.0)
    with pytest.warns(UserWarning, match="the irreducible loss of 1 of .* examples is unknown"):
        selector(nn.Identity(), {"x": X, "y": Y, "il": unknown})
    assert selector.metrics()["selection/invalid"] == 1.0


def test_metrics_are_flat_numbers() -> None:
    selector = Selector(il=TABLE, k=2)
    assert selector.metrics()["selection/steps"] == 0.0
    selector(nn.Identity(), Batch(X, Y, IDS))
    losses, last = F.cross_entropy(X, Y, reduction="none"), selector.last
    assert last is not None
    found = selector.metrics()
    assert found["selection/selected"] == 2.0
    assert found["selection/large_batch_loss"] == pytest.approx(float(losses.mean()))
    assert found["selection/small_batch_loss"] == pytest.approx(float(losses[last.indices].mean()))
    assert all(type(value) is float for value in found.values())
