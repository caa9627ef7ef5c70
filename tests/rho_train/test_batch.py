"""Rows are taken from batches of any structure, and errors name what a batch has lost."""

import dataclasses
from collections import UserDict, defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rho_train.batch import Batch, gather, part, split, to

X = torch.arange(40, dtype=torch.float32).reshape(8, 5)
Y = torch.tensor([3, 0, 2, 2, 1, 0, 3, 1])


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    y: Tensor
    ids: Tensor


@dataclasses.dataclass(slots=True)
class Slots:
    x: Any
    y: Tensor
    ids: Tensor
    step: int


class Encoding(UserDict[str, Any]):
    """Built from a dict, like the BatchEncoding of Hugging Face."""


class Pair(NamedTuple):
    left: Any
    right: Any


class Triple(NamedTuple):
    index: Any
    image: Any
    target: Any


def build(kind: str, rows: list[int]) -> Any:
    """A batch of the given kind that holds the examples `rows` of a data set of 8."""
    index = torch.tensor(rows, dtype=torch.int64)
    x, y, ids, texts = X[index], Y[index], index + 100, [f"text {i}" for i in rows]
    words = {"input_ids": x, "texts": texts, "scale": torch.ones(9), "n": None}
    match kind:
        case "batch":
            return Batch(x, y, ids)
        case "nested":
            boxes = tuple(torch.full((i, 4), i) for i in rows)
            return Batch({"pair": Pair(x, x.numpy()), "boxes": boxes, "t": texts}, y, ids.int())
        case "tuple":
            return (x, y, ids)
        case "list":
            return [x, y, ids]
        case "frozen":
            return Frozen(words, y, ids)
        case "slots":
            return Slots(x, y, ids, step=3)
        case "object":
            return SimpleNamespace(x=x, y=y, ids=ids, texts=texts)
        case "dict":
            return {"x": x, "y": y, "ids": ids}
        case "keywords":
            return {**words, "labels": y, "ids": ids}
    return Encoding({**words, "label": y, "ids": ids})


KINDS = ["batch", "nested", "tuple", "list", "frozen", "slots", "object", "dict", "keywords"]
KINDS += ["encoding"]


def equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, (Frozen, Slots, SimpleNamespace)):
        return all(equal(getattr(a, k), getattr(b, k)) for k in ("x", "y", "ids"))
    return bool(a == b)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.data(), st.sampled_from(KINDS), st.integers(0, 8))
def test_gather_gives_the_batch_of_the_rows(data: st.DataObject, kind: str, n: int) -> None:
    rows = data.draw(st.permutations(range(8)))[:n]
    batch = build(kind, rows)
    picks = data.draw(st.lists(st.integers(0, n - 1), max_size=10)) if n else []
    taken = gather(batch, n, torch.tensor(picks, dtype=torch.int64))
    assert equal(taken, build(kind, [rows[pick] for pick in picks]))
    assert equal(part(batch, n, slice(1, 3)), build(kind, rows[1:3]))
    assert equal(batch, build(kind, rows))


def test_split_finds_the_parts_and_to_moves_them() -> None:
    rows = [6, 1, 2]
    for kind in KINDS:
        batch = build(kind, rows)
        fields = split(batch)
        assert torch.equal(fields.labels, Y[rows]), kind
        assert fields.ids.tolist() == [106, 101, 102], kind
        if kind in ("keywords", "encoding"):
            assert set(fields.inputs) == {"input_ids", "texts", "scale", "n"}
        elif kind not in ("nested", "frozen"):
            assert torch.equal(fields.inputs, X[rows])
        assert split(to(batch, "meta")).ids.device.type == "meta", kind
        assert equal(to(batch, "cpu"), batch), kind


def test_gather_keeps_columns_apart_from_examples() -> None:
    columns = Batch([X, X + 1], Y, torch.arange(8))
    assert torch.equal(gather(columns, 8, torch.tensor([5])).x[1], X[5:6] + 1)
    two = Batch([X[:2], X[2:4]], Y[:2], torch.arange(2))
    with pytest.raises(ValueError, match="list of 2 tensors with 2 rows each may hold"):
        gather(two, 2, torch.tensor([0]))


def test_gather_of_a_mapping_that_no_dict_can_build_is_a_dict() -> None:
    batch = defaultdict(list, build("dict", [4, 2]))
    assert equal(gather(batch, 2, torch.tensor([1])), build("dict", [2]))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((X, Y), ValueError, "no ids: got tuple of 2 elements.*IndexedDataset before the Data"),
        ([X, Y], ValueError, "no ids: got list of 2 elements.*third element in the collate"),
        ({"x": X, "labels": Y}, ValueError, "keys 'x', 'labels'.*'ids' .* in the collate_fn"),
        (Pair(X, Y), ValueError, "no ids: got Pair with the fields left, right"),
        (Triple(Y, X, Y), ValueError, "no ids: got Triple with the fields index, image, target"),
        (X, ValueError, r"no ids: got float32 tensor \(8, 5\)"),
        (None, ValueError, "no ids: got NoneType"),
        ((X, Y, Y.float()), TypeError, r"ids must be an int64 or int32 .* float32 tensor \(8,\)"),
        ((X, Y, list(range(8))), TypeError, "ids must be .* got list of 8 elements"),
        ((X, Y, Y.unsqueeze(1)), ValueError, r"ids must have shape \(n,\), got \(8, 1\)"),
        ((X, Y[:5], Y), ValueError, r"labels \(5,\) and ids \(8,\)"),
        ((X, Y.tolist(), Y), TypeError, "labels must be a tensor of 8 rows, got list"),
        ({"x": X, "ids": Y}, ValueError, "no labels: got dict with the keys 'x', 'ids'"),
        ({"labels": Y, "ids": Y}, ValueError, "no inputs"),
    ],
)
def test_a_batch_that_lost_something_is_refused(
    batch: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^here: .*" + message):
        split(batch, "here")
