"""Evaluation of a model: one result, however the data set is read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import StackDataset, TensorDataset, default_collate

from rho_train import IndexedDataset
from rho_train.trainer import evaluation
from rho_train.trainer.evaluation import evaluate

N = 100
X = torch.randn(N, 7, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))


def test_every_way_to_read_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_EVAL_ROWS", 32)
    columns: Any = (X, Y)
    dicts = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]

    def unflip(samples: Any) -> Any:
        x, y = default_collate(samples)
        return x.flip(1), y

    flipped = IndexedDataset(TensorDataset(X.flip(1), Y), collate_fn=unflip)
    trained = model()
    found = [
        evaluate(trained, data)
        for data in (
            TensorDataset(X, Y),
            IndexedDataset(TensorDataset(X, Y)),
            StackDataset(*columns),
            dicts,
            flipped,
        )
    ]
    assert all(one == found[0] for one in found)
    logits = copy.deepcopy(trained).eval()(X)
    assert found[0].accuracy == float((logits.argmax(1) == Y).double().mean())
    assert found[0].loss == pytest.approx(float(nn.functional.cross_entropy(logits, Y).detach()))
    assert found[0].class_accuracy[3] is None
    assert trained.training


def test_batches_are_bounded_by_the_numbers_of_their_inputs() -> None:
    rows: list[int] = []

    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return torch.zeros(len(x), 2)

    for shape, n, wanted in (((2,), 5000, [4096, 904]), ((3, 128, 128), 6, [5, 1])):
        evaluate(Rows(), TensorDataset(torch.zeros(n, *shape), torch.zeros(n, dtype=torch.int64)))
        assert rows == wanted
        rows.clear()


def test_accuracy_by_class() -> None:
    found = evaluate(nn.Identity(), TensorDataset(torch.eye(4)[:3], torch.tensor([0, 1, 1])))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.class_accuracy == [1.0, 0.5, None, None]
