"""Rows are taken from batches of any structure, and errors name what a batch has lost."""

from __future__ import annotations

import dataclasses
from collections import UserDict, defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from rho_train import Selector
from rho_train.batch import Batch, gather, ids_of, split, to

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
    if isinstance(a, SimpleNamespace):
        return equal(vars(a), vars(b))
    if isinstance(a, (Frozen, Slots)):
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
    assert equal(gather(batch, n, slice(1, 3)), build(kind, rows[1:3]))
    assert equal(batch, build(kind, rows))


class Columns(UserDict[str, Any]):
    """Like a TensorDict: a mapping that knows its batch size and indexes itself."""

    def __init__(self, columns: dict[str, Any], size: list[int]) -> None:
        super().__init__(columns)
        self.batch_size, self.device = torch.Size(size), None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        return Columns(
            {k: v[key] for k, v in self.data.items()}, [len(torch.arange(self.batch_size[0])[key])]
        )

    def to(self, device: Any, **_: Any) -> Columns:
        return Columns({k: v.to(device) for k, v in self.data.items()}, list(self.batch_size))


class Graphs:
    """Like a batch of PyTorch Geometric: nodes of all graphs in one tensor."""

    def __init__(self, graphs: list[Any]) -> None:
        self.x, self.y, self.ids = (
            torch.cat([getattr(one, name) for one in graphs]) for name in ("x", "y", "ids")
        )
        self.graphs, self.num_graphs, self.batch_size = graphs, len(graphs), len(graphs)

    from_data_list = classmethod(lambda cls, graphs: cls(graphs))

    def __getitem__(self, row: int) -> Any:
        return self.graphs[row]

    def to(self, device: Any, **_: Any) -> Graphs:
        moved = [{k: v.to(device) for k, v in vars(one).items()} for one in self.graphs]
        return Graphs([SimpleNamespace(**one) for one in moved])


class OverObject:
    """Fields are properties over an object."""

    def __init__(self, **fields: Tensor) -> None:
        self._store = SimpleNamespace(**fields)

    x = property(lambda self: self._store.x)
    y = property(lambda self: self._store.y)
    ids = property(lambda self: self._store.ids)


class Computed:
    """Fields are made by a function, and nobody can cut them."""

    def __init__(self, **fields: Tensor) -> None:
        self._get = lambda name: fields[name]

    x = property(lambda self: self._get("x"))
    y = property(lambda self: self._get("y"))
    ids = property(lambda self: self._get("ids"))


class PlainSlots:
    __slots__ = ("ids", "x", "y")

    def __init__(self, **fields: Tensor) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


def sequences(lengths: list[int]) -> list[Tensor]:
    return [torch.full((length, 2), float(i)) for i, length in enumerate(lengths)]


def graphs() -> Graphs:
    nodes = [X[i : i + 1].repeat(1 + i % 3, 1) for i in range(8)]
    y, ids = Y.split(1), torch.arange(8).split(1)
    return Graphs([SimpleNamespace(x=a, y=b, ids=c) for a, b, c in zip(nodes, y, ids, strict=True)])


FIELDS = {"x": X, "y": Y, "ids": torch.arange(8)}
Found = Callable[[Any], Any]
# What is in the rows of a batch of 8, read from the batch and from the result.
ITSELF: dict[str, tuple[Callable[[], Any], Found]] = {
    "tensordict": (lambda: Columns(FIELDS, [8]), lambda b: (b["x"], b.batch_size[0])),
    "tensordict in a dict": (
        lambda: {**FIELDS, "x": Columns({"a": X}, [8])},
        lambda b: (b["x"]["a"], b["x"].batch_size[0]),
    ),
    "graphs": (graphs, lambda b: (torch.stack([g.x[0] for g in b.graphs]), b.num_graphs)),
    "properties": (lambda: OverObject(**FIELDS), lambda b: (b.x, len(b.ids))),
    "slots": (lambda: PlainSlots(**FIELDS), lambda b: (b.x, len(b.y))),
    "object in a dict": (
        lambda: {**FIELDS, "x": SimpleNamespace(tensors=X, mask=X > 0)},
        lambda b: (b["x"].tensors, len(b["x"].mask)),
    ),
    "jagged": (
        lambda: {
            **FIELDS,
            "x": torch.nested.nested_tensor(
                [X[i : i + 1].repeat(1 + i % 3, 1) for i in range(8)], layout=torch.jagged
            ),
        },
        lambda b: (torch.stack([one[0] for one in b["x"].unbind()]), b["x"].size(0)),
    ),
}


def test_rows_of_containers_that_take_them_of_themselves() -> None:
    rows = torch.tensor([6, 1, 3])
    for case, (make, read) in ITSELF.items():
        batch = make()
        for taken, wanted in (
            (gather(batch, 8, rows), rows),
            (gather(batch, 8, slice(2, 5)), None),
        ):
            values, count = read(taken)
            assert torch.equal(values, X[2:5] if wanted is None else X[wanted]), case
            assert count == 3, case
            assert type(taken) is type(batch), case
            assert len(ids_of(taken)) == 3, case
        assert ids_of(to(batch, "meta")).device.type == "meta", case
        assert torch.equal(read(batch)[0], X), case


def test_packed_sequences_are_packed_again() -> None:
    cases = [[5, 2, 4, 3, 2, 1], [6, 2, 4, 3, 2, 1], [1] * 6, [6, 4, 3, 2, 2, 1]]
    for lengths in cases:
        for rows in ([1, 3, 5], [5, 0], [2, 2, 4]):
            kept = sequences(lengths)
            in_order = lengths == sorted(lengths, reverse=True)
            for enforce in {False, in_order}:
                packed = pack_sequence(kept, enforce_sorted=enforce)
                batch = Batch(packed, torch.arange(6), torch.arange(6))
                taken = gather(batch, 6, torch.tensor(rows)).x
                assert type(taken) is type(packed)
                pairs = zip(unpack_sequence(taken), [kept[i] for i in rows], strict=True)
                assert all(torch.equal(a, b) for a, b in pairs), (lengths, rows, enforce)
                assert to(taken, "meta").data.device.type == "meta"
                assert to(taken, "meta").batch_sizes.device.type == "cpu"
                # One row an element is not one row an example.
                other = gather({"p": packed, "ids": torch.arange(9)}, 9, torch.tensor([1]))
                assert other["p"] is packed


def test_what_cannot_be_cut_is_refused() -> None:
    rows = torch.tensor([1, 3])
    ids = torch.arange(8)
    refused: list[tuple[Any, str]] = [
        ({"x": X, "ids": ids, "group": range(8)}, "a range of 8 elements in a batch of 8 examples"),
        ({"x": X, "ids": ids, "names": set("abcdefgh")}, "a set of 8 elements"),
    ]
    for batch, message in refused:
        with pytest.raises((TypeError, ValueError), match=message):
            gather(batch, 8, rows)
    with pytest.raises(TypeError, match="batch of type Computed keeps 8 ids: functions compute"):
        Selector(k=2, method="loss")(torch.nn.Identity(), Computed(**FIELDS))
    # What says that it has no batch is a mapping as others.
    bare = gather({"x": Columns({"a": X}, []), "ids": ids}, 8, rows)
    assert torch.equal(bare["x"]["a"], X[rows])
    # A text and a model that have n elements by chance are values.
    layers = torch.nn.Sequential(*[torch.nn.Identity()] * 8)
    kept = gather({"x": X, "ids": ids, "kind": "training", "model": layers}, 8, rows)
    assert (kept["kind"], kept["model"]) == ("training", layers)


# Structures over n examples: how a leaf is made of the numbers of the examples.
LEAVES: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda i: i[:, None] * torch.ones(1, 2),
    "array": lambda i: i.double().numpy(),
    "list": lambda i: [f"text {one}" for one in i.tolist()],
    "tuple": lambda i: tuple(torch.full((2,), one) for one in i.tolist()),
    "columns": lambda i: Columns({"c": i}, [len(i)]),
    "shared": lambda i: torch.ones(99),
    "text": lambda i: "shared",
    "none": lambda i: None,
}
NODES: dict[str, Callable[[list[Any]], Any]] = {
    "dict": lambda parts: {f"k{j}": part for j, part in enumerate(parts)},
    "pair": lambda parts: Pair(parts[0], parts[-1]),
    "frozen": lambda parts: Frozen(parts[0], torch.zeros(99), torch.zeros(99)),
    "object": lambda parts: SimpleNamespace(
        **{f"a{j}": part for j, part in enumerate(parts)}, t=torch.ones(99)
    ),
}
STRUCTURES = st.recursive(
    st.sampled_from(list(LEAVES)),
    lambda inner: st.tuples(st.sampled_from(list(NODES)), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=6,
)


def grown(plan: Any, numbers: Tensor) -> Any:
    if isinstance(plan, str):
        return LEAVES[plan](numbers)
    return NODES[plan[0]]([grown(part, numbers) for part in plan[1]])


@settings(deadline=None, derandomize=True, max_examples=150)
@given(plan=STRUCTURES, picks=st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_the_cut_of_any_structure_is_its_examples_one_by_one(plan: Any, picks: list[int]) -> None:
    numbers, rows = torch.arange(7), torch.tensor(picks)
    batch = {"x": grown(plan, numbers), "ids": numbers}
    assert equal(gather(batch, 7, rows), {"x": grown(plan, numbers[rows]), "ids": numbers[rows]})


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
        ((X, Y, Y.unsqueeze(1)), ValueError, r"labels \(8,\) and ids \(8, 1\)"),
        ((X, Y[:5], Y), ValueError, r"labels \(5,\) and ids \(8,\)"),
        ((X, Y.tolist(), Y), TypeError, "labels must be a tensor with a row an example, got list"),
        ({"x": X, "ids": Y}, ValueError, "no labels: got dict with the keys 'x', 'ids'"),
    ],
)
def test_a_batch_that_lost_something_is_refused(
    batch: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^here: .*" + message):
        split(batch, "here")
