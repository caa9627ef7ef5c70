"""A data set with ids, its labels and its fingerprint."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from rho_train.batch import Batch, describe
from rho_train.rng import global_seed

_WRAP_ONCE = "wrap the whole data set once and take subsets of the wrapped one"
_JOIN = "wrap once: rho_train.IndexedDataset(ConcatDataset(parts))"
_LABEL_COLUMNS = ("labels", "label", "y")


class SeededIndices(list[int]):
    """The positions of a large batch, and the seed of its transforms, whichever worker reads it."""

    def __init__(self, positions: Sequence[int], seed: int) -> None:
        super().__init__(positions)
        self.seed = seed


class IndexedDataset(Dataset[Any]):
    """A map-style data set whose examples carry ids: their positions in the wrapped data set.

    Examples (x, y) become `Batch(x, y, ids)`, dicts get the key "ids". Wrap the whole data set
    once, before any split: subsets of the wrapped one keep the ids.

    Args:
        dataset: any data set with `__len__` and `__getitem__`.
        labels: class indices (n,) by position, for data sets that do not show them as `labels`,
            `targets`, the second tensor of a TensorDataset or a column (labels, label, y) of
            Hugging Face data, directly or inside a Subset or ConcatDataset.
        collate_fn: joins the examples of `dataset`, as they are without ids, into a batch: a
            mapping or a pair (x, y), in their order. The ids are added to it. None: as torch does.

    Raises:
        TypeError: the data set has no rows by position or has ids already, or examples or batches,
            when they are read, are neither (x, y) pairs nor dicts.
        ValueError: `labels` do not match the data set.

    Examples:
        >>> data = IndexedDataset(TensorDataset(torch.rand(4, 2), torch.tensor([0, 1, 1, 0])))
        >>> data[-1].ids
        3
    """

    def __init__(
        self,
        dataset: Any,
        *,
        labels: Sequence[int] | Tensor | npt.ArrayLike | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        _check_map_style(dataset)
        if inside := _indexed_inside(dataset):
            of = f"{type(dataset).__name__} carry ids already, of {len(inside)} IndexedDataset"
            raise TypeError(
                f"IndexedDataset: the examples of {of} inside; {_WRAP_ONCE}; as an "
                "evaluation set give IndexedDataset(Subset(data.dataset, subset.indices))"
            )
        self.dataset, self.collate_fn = dataset, collate_fn
        self._labels = None if labels is None else _as_labels(labels, len(dataset), "labels=")

    @property
    def labels(self) -> Tensor:
        """Labels of all examples, int64 (n,), read without loading one; ValueError if not shown."""
        return _labels_of(self.dataset) if self._labels is None else self._labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __repr__(self) -> str:
        return f"IndexedDataset({len(self)} examples of {type(self.dataset).__name__})"

    def __add__(self, other: Any) -> Any:
        raise TypeError(f"IndexedDataset: in a + b the ids of both begin at 0; {_JOIN}")

    def __getitem__(self, index: int) -> Any:
        position = _position(index, len(self))
        return _with_id(self.dataset[position], position)

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        n = len(self)
        # A subclass may transform what it returns, so only the class itself is read in one go.
        if type(self.dataset) is TensorDataset and len(self.dataset.tensors) == 2:
            x, y = self.dataset.tensors
            ids = _positions(indices, n)
            x, y = (part.index_select(0, ids.to(part.device)) for part in (x, y))
            return _Rows(Batch(x, y, ids))
        positions = [_position(index, n) for index in indices]
        with global_seed(indices.seed) if isinstance(indices, SeededIndices) else nullcontext():
            if callable(getattr(self.dataset, "__getitems__", None)):
                samples = self.dataset.__getitems__(positions)
            else:
                samples = [self.dataset[position] for position in positions]
            return [_with_id(*pair) for pair in zip(samples, positions, strict=True)]

    def collate(self, samples: Sequence[Any]) -> Any:
        """Join examples with ids into a batch; those that were read as one batch stay one."""
        if self.collate_fn is not None:
            ids, plain = zip(*map(_without_id, samples), strict=True)
            numbers = torch.tensor(list(map(int, ids)), dtype=torch.int64, device="cpu")
            return _with_id(self.collate_fn(list(plain)), numbers, "what collate_fn returns")
        if isinstance(samples, _Rows):
            return samples.batch
        with torch.device("cpu"):  # for Python numbers, whatever the default device
            return default_collate(list(samples))


class _Rows(Sequence[Batch]):
    """Rows read as one batch, which other collate functions see as a list of examples."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch.ids)

    def __getitem__(self, index: Any) -> Any:
        rows = Batch(*(field[index] for field in self.batch))
        return _Rows(rows) if isinstance(index, slice) else rows


def _check_map_style(dataset: Any) -> None:
    """Refuse what has no examples at the positions 0 to n - 1; the TypeError says what to do."""
    layout = getattr(dataset, "format", None)
    of_tables = isinstance(layout, Mapping) and layout.get("type") in ("arrow", "polars")
    has_rows = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    for wrong, fix in (
        (isinstance(dataset, Mapping), "give one of its data sets, such as data['train']"),
        (hasattr(dataset, "iloc"), "a frame is read by column; give a TensorDataset of its values"),
        (of_tables, "its examples are tables; give data.with_format('torch')"),
        (isinstance(dataset, IterableDataset) or not has_rows, "load the stream into a list"),
    ):
        if wrong:
            wanted = "dataset must be map-style (__len__ and __getitem__ by position)"
            raise TypeError(f"IndexedDataset: {wanted}, got {describe(dataset)}; {fix}")


def _indexed_inside(dataset: Any) -> list[IndexedDataset]:
    """Return the IndexedDatasets that a data set is or takes its examples from."""
    if isinstance(dataset, IndexedDataset):
        return [dataset]
    if isinstance(dataset, Subset):
        return _indexed_inside(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [found for part in dataset.datasets for found in _indexed_inside(part)]
    return []


def check_indexed(where: str, dataset: Any) -> None:
    """Refuse what is no whole data set with ids; the TypeError says how to get one."""
    if isinstance(dataset, IndexedDataset):
        return
    inside, fix = len(_indexed_inside(dataset)), "wrap it: rho_train.IndexedDataset(dataset)"
    if inside == 1:
        fix = "pass the whole IndexedDataset that it was taken from, and the ids of the subset"
    elif inside:
        fix = f"the ids of the {inside} inside would clash, each begins at 0; {_JOIN}"
    raise TypeError(
        f"{where}: dataset must be an IndexedDataset, got {type(dataset).__name__}; {fix}"
    )


def fingerprint(dataset: IndexedDataset) -> dict[str, str]:
    """Return the count, the SHA-256 of the labels, or "none", and the id scheme of a data set.

    No example is loaded. Anything but an IndexedDataset is a TypeError.

    Examples:
        >>> fingerprint(IndexedDataset([("a", 0), ("b", 1)], labels=[0, 1]))["n"]
        '2'
    """
    check_indexed("fingerprint", dataset)
    try:
        labels = dataset.labels.cpu().contiguous().numpy().astype("<i8", copy=False)
        digest = hashlib.sha256(labels.data).hexdigest()
    except ValueError:
        digest = "none"
    return {"n": str(len(dataset)), "labels": digest, "ids": "position"}


def _position(index: int, n: int) -> int:
    position = operator.index(index)
    if not -n <= position < n:
        raise IndexError(f"IndexedDataset: index {position} is outside a data set of {n}")
    return position % n


def _positions(indices: Sequence[int], n: int) -> Tensor:
    # At every step: NumPy reads a list of integers ten times as fast as torch.
    ids = torch.from_numpy(np.array(indices, dtype=np.int64))
    bounds = [int(bound) for bound in ids.aminmax()] if len(ids) else []
    for bound in bounds:
        _position(bound, n)
    return ids % n if min(bounds, default=0) < 0 else ids


def _labels_of(dataset: Any) -> Tensor:
    """Find the labels that a data set shows, int64 (n,)."""
    name = type(dataset).__name__
    for attribute in ("labels", "targets"):
        found = getattr(dataset, attribute, None)
        if found is not None:
            return _as_labels(found, len(dataset), f"{name}.{attribute}")
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return _as_labels(dataset.tensors[1], len(dataset), "the second tensor")
    if isinstance(dataset, Subset):
        return _labels_of(dataset.dataset)[read_column(dataset.indices).long()]
    if isinstance(dataset, ConcatDataset):
        return torch.cat([_labels_of(part) for part in dataset.datasets])
    columns = getattr(dataset, "column_names", None)  # of Hugging Face data
    if isinstance(columns, list) and len(dataset):
        column = next((name for name in _LABEL_COLUMNS if name in columns), None)
        if column is not None and hasattr(dataset, "select_columns"):  # else by its transform
            dataset = dataset.select_columns(column).with_format("numpy")
        # Token ids or texts, which have a length, are no classes, and may be long to read.
        if column is not None and np.ndim(dataset[0][column]) == 0:
            return _as_labels(dataset[column], len(dataset), f"the column {column!r}")
    raise ValueError(
        f"IndexedDataset: {name} has no attribute labels or targets; pass the labels of the "
        "examples, as labels=[y for _, y in data]"
    )


def _as_labels(labels: Any, n: int, source: str) -> Tensor:
    wanted = f"IndexedDataset: {source} must be integer class indices of shape ({n},)"
    try:
        tensor = read_column(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{describe(labels)} ({str(error).partition('. ')[0]})"
        fix = "names are numbered by np.unique(labels, return_inverse=True)[1]"
        raise ValueError(f"{wanted}, got {got}; {fix}") from error
    if tensor.is_floating_point() or tensor.is_complex() or tensor.shape != (n,):
        fix = "pass labels= with one integer an example"
        raise ValueError(f"{wanted}, got {describe(tensor)}; {fix}")
    return tensor.to(torch.int64)


def read_column(values: Any) -> Tensor:
    """Return numbers as a tensor on the CPU, read by position from whatever holds them."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    # By NumPy: torch reads a pandas Series by its index, and refuses byte orders and strides.
    array = np.asarray(values[:] if isinstance(values, Sequence) else values)
    if array.dtype == object:
        array = np.array(array.tolist())
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def _with_id(sample: Any, ids: int | Tensor, what: str = "examples") -> Any:
    if isinstance(sample, Batch):
        raise TypeError(f"IndexedDataset: {what} must not carry ids already; {_WRAP_ONCE}")
    if isinstance(sample, Mapping):
        if "ids" in sample:
            fix = "rename it; the ids are added"
            raise TypeError(f"IndexedDataset: {what} must not have a key 'ids' already; {fix}")
        return {**sample, "ids": ids}
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return Batch(sample[0], sample[1], ids)
    raise TypeError(f"IndexedDataset: {what} must be (x, y) pairs or dicts, got {describe(sample)}")


def _without_id(sample: Any) -> tuple[int | Tensor, Any]:
    if isinstance(sample, Mapping):
        return sample["ids"], {key: value for key, value in sample.items() if key != "ids"}
    return sample.ids, (sample.x, sample.y)
