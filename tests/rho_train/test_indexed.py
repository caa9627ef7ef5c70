"""Ids are global however a data set is read, and refused where they would clash."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)

import rho_train
from rho_train import (
    ILRecipe,
    LargeBatchSampler,
    Selector,
    crossfit_il,
    holdout_il,
    pretrained_il,
)
from rho_train.batch import Batch, split
from rho_train.dataset import IndexedDataset, fingerprint

from .test_batch import Encoding, Frozen, Slots, X, Y


def assert_ids_follow(loader: DataLoader[Any], ids: list[int]) -> None:
    """Each id leads back to the example it came with."""
    batches = list(loader)
    assert [i for batch in batches for i in batch.ids.tolist()] == ids
    for batch in batches:
        assert isinstance(batch, Batch)
        assert torch.equal(batch.x, X[batch.ids])
        assert torch.equal(batch.y, Y[batch.ids])


class Pairs(Dataset[Any]):
    """A data set that only has __len__ and __getitem__."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


EXAMPLES: Any = list(zip(X, Y, strict=True))
COLUMNS: Any = (X, Y)


@pytest.mark.parametrize(
    "source",
    [TensorDataset(X, Y), Pairs(), EXAMPLES, StackDataset(*COLUMNS)],
    ids=["TensorDataset", "Pairs", "list", "StackDataset"],
)
def test_ids_are_positions_however_the_data_set_is_read(source: Any) -> None:
    indexed = IndexedDataset(source)
    assert indexed[-1].ids == 7
    assert torch.equal(indexed[-1].x, X[7])
    # With torch's own collate function and with the one that keeps rows read as one batch.
    for collate in (None, indexed.collate):
        assert_ids_follow(DataLoader(indexed, 3, collate_fn=collate), list(range(8)))
        subset = Subset(indexed, [6, 1, 7, 0])
        assert_ids_follow(DataLoader(subset, 3, collate_fn=collate), [6, 1, 7, 0])
    with pytest.raises(IndexError, match="index 8 is outside a data set of 8"):
        indexed[8]
    with pytest.raises(IndexError, match="index -9 is outside a data set of 8"):
        indexed.__getitems__([0, -9])


def test_ids_of_a_concatenation_are_global() -> None:
    joined: ConcatDataset[Any] = ConcatDataset(
        [TensorDataset(X[:3], Y[:3]), TensorDataset(X[3:], Y[3:])]
    )
    assert_ids_follow(DataLoader(IndexedDataset(joined), 5), list(range(8)))


def test_a_subclass_of_tensor_dataset_keeps_its_own_reading() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            return 2 * X[index], Y[index]

    batch = next(iter(DataLoader(IndexedDataset(Doubled(X, Y)), 8)))
    assert torch.equal(batch.x, 2 * X)


def test_dict_examples_get_a_key() -> None:
    source = [{"input_ids": x, "labels": y} for x, y in EXAMPLES]
    batch = next(iter(DataLoader(IndexedDataset(source), 8)))
    assert list(batch) == ["input_ids", "labels", "ids"]
    assert batch["ids"].tolist() == list(range(8))
    assert "ids" not in source[0]


def test_rows_read_at_once_equal_rows_read_one_by_one() -> None:
    indexed, picks = IndexedDataset(TensorDataset(X, Y)), [3, -1, 3, 0]
    at_once = indexed.collate(indexed.__getitems__(picks))
    wanted = default_collate([indexed[i] for i in picks])
    assert type(at_once) is type(wanted)
    assert all(map(torch.equal, at_once, wanted))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(0, 0)])

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (IndexedDataset([(0, 0)]), "IndexedDataset carry ids already, of 1"),
        (
            Subset(IndexedDataset([(0, 0)]), [0]),
            r"Subset carry ids already, of 1 .*evaluation set .*\(Subset\(data.dataset, subset.ind",
        ),
        (ConcatDataset(2 * [IndexedDataset([(0, 0)])]), r"of 2 .*once and take subsets"),
        (Stream(), "map-style.*got Stream"),
        (iter([(0, 0)]), "map-style.*got list_iterator"),
        ({"train": []}, r"got dict with the keys 'train'; give one of .* data\['train'\]"),
    ],
)
def test_a_data_set_without_positions_is_refused(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        IndexedDataset(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([X[0]], r"\(x, y\) pairs or dicts, got float32 tensor"),
        ([(X, Y, 3)], "got tuple of 3 elements"),
        ([{"x": X, "ids": 3}], "examples must not have a key 'ids' already"),
        ([Batch(X, Y, 0)], "examples must not carry ids already"),
    ],
)
def test_examples_that_cannot_carry_ids_are_refused(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        IndexedDataset(source)[0]


def test_labels_are_found_without_loading_an_example() -> None:
    class Targets:
        targets = Y.tolist()

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> None:
            raise AssertionError("an example was loaded")

    found = [
        IndexedDataset(TensorDataset(X, Y.int())),
        IndexedDataset(Targets()),
        IndexedDataset(Pairs(), labels=Y.numpy()),
        IndexedDataset(TensorDataset(X, torch.rand(8)), labels=Y.tolist()),
    ]
    for dataset in found:
        assert dataset.labels.dtype == Y.dtype
        assert torch.equal(dataset.labels, Y)
        assert fingerprint(dataset) == fingerprint(found[0])


def test_the_fingerprint_is_the_documented_hash_and_sees_every_label() -> None:
    def prints(labels: Tensor) -> dict[str, str]:
        return fingerprint(IndexedDataset(TensorDataset(torch.zeros(len(labels), 1), labels)))

    # sha256sum of the bytes 03 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
    known = "9b768a7138e147b4158a6b26c2e04ee536af084a18f7b751a9439af1a7cc0765"
    assert prints(torch.tensor([3, 1])) == {"n": "2", "labels": known, "ids": "position"}
    others = [Y.flip(0), Y + 1, Y[:-1], torch.cat([Y, Y[:1]])]
    assert all(prints(labels) != prints(Y) for labels in others)


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        (Pairs(), None, "Pairs has no attribute labels or targets; pass the labels"),
        (TensorDataset(X, torch.rand(8)), None, "the second tensor must be integer"),
        (Pairs(), [0, 1], r"labels= must be integer class indices of shape \(8,\)"),
        (
            Pairs(),
            ["cat"] * 8,
            r"integer class indices .* got list of 8 elements \(can't convert .*str_\); names",
        ),
        ([(0, 0)], [[0]], r"got int64 tensor \(1, 1\)"),
    ],
)
def test_unknown_or_bad_labels_are_refused(source: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = IndexedDataset(source, labels=labels).labels


class Series:
    """A pandas column: `series[i]` is the value at the label i of its index, not at position i."""

    def __init__(self, values: Any) -> None:
        self.values = np.array(values)
        self.values.flags.writeable = False

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, label: int) -> Any:
        raise KeyError(label)


class Column(Sequence[int]):
    """A column of Hugging Face datasets: rows are read one by one, or all by a slice."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, slice), "read row by row"
        return self.values[index]


class Rows:
    """A data set of Hugging Face: rows by position, columns by name."""

    def __init__(self, layout: str | None = None, **columns: list[Any]) -> None:
        self.columns, self.format = columns, {"type": layout}
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return Column(self.columns[key])
        return {name: values[key] for name, values in self.columns.items()}


def test_labels_are_read_by_position_from_whatever_holds_them() -> None:
    values = Y.numpy()
    holders: list[Any] = [
        Series(values),
        Series(values.astype(object)),
        Column(Y.tolist()),
        values.astype(object),
        values.astype(">i8"),
        values.astype("uint16"),
        values[::-1].copy()[::-1],
        tuple(values),
        list(Y),
    ]
    for labels in holders:
        dataset = IndexedDataset(Pairs(), labels=labels)
        assert dataset.labels.tolist() == Y.tolist(), labels
    positions = Series(np.arange(8, dtype=">i4"))
    assert sorted(next(iter(LargeBatchSampler(positions, 8, seed=0)))) == list(range(8))
    # Columns of Hugging Face data; lists of tokens are no classes.
    x = X.tolist()
    assert IndexedDataset(Rows(x=x, label=Y.tolist())).labels.tolist() == Y.tolist()
    for bad in (Rows(x=x, labels=x), Rows(x=x), Rows(x=[], label=[])):
        with pytest.raises(ValueError, match="Rows has no attribute labels or targets; pass"):
            _ = IndexedDataset(bad).labels
    with pytest.raises(TypeError, match=r"are tables; give data\.with_format\('torch'\)"):
        IndexedDataset(Rows("arrow", x=x))
    frame = Series(values)
    frame.iloc = None  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="got Series; a frame is read by column; give"):
        IndexedDataset(frame)


@pytest.mark.parametrize("source", [Pairs(), TensorDataset(X, torch.rand(8))])
def test_data_that_show_no_classes_have_a_fingerprint_all_the_same(source: Any) -> None:
    wanted = {"n": str(len(source)), "labels": "none", "ids": "position"}
    assert fingerprint(IndexedDataset(source)) == wanted


PARTS: Any = [TensorDataset(X[:3], Y[:3]), TensorDataset(X[3:], Y[3:])]


def test_ids_are_global_through_subsets_and_concatenations_of_each_other() -> None:
    joined: Any = ConcatDataset([PARTS[0], ConcatDataset([PARTS[1], Subset(PARTS[0], [2, 0])])])
    indexed = IndexedDataset(joined)
    x, y = torch.cat([X, X[[2, 0]]]), torch.cat([Y, Y[[2, 0]]])
    # The labels are found through all of them.
    assert torch.equal(indexed.labels, y)
    left, right = random_split(indexed, [4, 6], torch.Generator().manual_seed(0))
    both = ConcatDataset([left, Subset(right, [5, 1, 0]), Subset(Subset(indexed, [9, 4]), [1])])
    seen = next(iter(DataLoader(both, 8)))
    assert torch.equal(seen.x, x[seen.ids])
    assert torch.equal(seen.y, y[seen.ids])
    wanted = [*left.indices, *(right.indices[i] for i in (5, 1, 0)), 4]
    assert seen.ids.tolist() == wanted


def test_the_sum_of_two_is_refused() -> None:
    with pytest.raises(TypeError, match="the ids of both begin at 0; wrap once: rho_train.Indexed"):
        IndexedDataset(PARTS[0]) + PARTS[1]


def by_tuple(samples: list[Any]) -> Any:
    x, y, ids = zip(*samples, strict=True)
    return torch.stack(x), torch.stack(y), torch.tensor(ids)


@pytest.mark.parametrize(
    ("examples", "collate"),
    [
        ("pairs", None),
        ("pairs", by_tuple),
        ("pairs", lambda samples: list(by_tuple(samples))),
        ("pairs", lambda samples: Frozen(*by_tuple(samples))),
        ("pairs", lambda samples: Slots(*by_tuple(samples), step=1)),
        ("dicts", None),
        ("dicts", lambda samples: Encoding(default_collate(samples))),
    ],
)
def test_ids_lead_back_to_their_examples_through_collate_and_selection(
    examples: str, collate: Any
) -> None:
    source: Any = TensorDataset(X, Y)
    if examples == "dicts":
        source = [{"input_ids": x, "labels": y, "text": f"row {y}"} for x, y in EXAMPLES]
    batch = next(iter(DataLoader(IndexedDataset(source), 8, True, collate_fn=collate)))
    small = Selector(k=3, method="loss", forward=lambda model, b: model(inputs(b)))(
        nn.Linear(5, 4), batch
    )
    assert type(small) is type(batch)
    fields = split(small)
    assert len(fields.ids) == 3
    assert torch.equal(inputs(small), X[fields.ids])
    assert torch.equal(fields.labels, Y[fields.ids])


def inputs(batch: Any) -> Tensor:
    found = split(batch).inputs
    return found["input_ids"] if isinstance(found, Mapping) else found


INDEXED: Any = IndexedDataset(TensorDataset(X, Y))
JOINED: Any = ConcatDataset([INDEXED, INDEXED])


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(X, Y), "got TensorDataset; wrap it"),
        (Subset(INDEXED, [0, 1]), "got Subset; pass the whole .* ids of the subset"),
        (JOINED, r"got ConcatDataset; the ids .* clash, each begins at 0; wrap once"),
    ],
)
def test_only_a_whole_data_set_with_ids_is_taken(dataset: Any, message: str) -> None:
    def make(seed: int) -> nn.Module:
        return nn.Linear(5, 4)

    takers: list[Callable[[], object]] = [
        lambda: fingerprint(dataset),
        lambda: rho_train.loader(dataset, [[0]]),
        lambda: holdout_il(make, dataset, torch.tensor([0]), ILRecipe(epochs=1)),
        lambda: crossfit_il(make, dataset, 2, ILRecipe(epochs=1)),
        lambda: pretrained_il(make(0), dataset),
    ]
    for take_it in takers:
        with pytest.raises(TypeError, match=message):
            take_it()


def test_a_range_of_positions_reads_as_a_list_of_them() -> None:
    data = IndexedDataset(TensorDataset(torch.arange(10.0), torch.arange(10)))
    for rows in (
        range(2, 5),
        range(0),
        range(5, 2),
        range(-3, -1),
        range(0, 10, 3),
        range(5, 2, -1),
    ):
        found, wanted = (data.collate(data.__getitems__(r)) for r in (rows, list(rows)))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)), rows
    with pytest.raises(IndexError, match="11 is outside"):
        data.__getitems__(range(8, 12))
