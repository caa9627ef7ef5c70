"""Read a batch of any structure, and take rows from it."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

_LABEL_KEYS = ("labels", "label", "y")
_INPUT_KEYS = ("x", "inputs")


class Batch(NamedTuple):
    """One example or a batch of an (x, y) data set, with the ids that `IndexedDataset` adds."""

    x: Any
    y: Any
    ids: Any


class Fields(NamedTuple):
    """The parts of a batch that selection needs; a dict of inputs holds keyword arguments."""

    inputs: Any
    labels: Tensor
    ids: Tensor


def split(batch: object, where: str = "Selector") -> Fields:
    """Return the inputs, the labels (n, ...) and the ids (n,), int64 or int32, of a batch.

    A batch is a structure with the fields x, y and ids (named tuple, dataclass, object); a tuple or
    list (x, y, ids); or a mapping with "ids", the labels under "labels", "label" or "y", and the
    inputs under "x" or "inputs", or else under all other keys, as keyword arguments.

    Raises:
        ValueError: the batch has no ids, labels or inputs, or their lengths differ.
        TypeError: the ids or the labels are not tensors of the right type.

    Example:
        >>> split((torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([7, 4]))).ids
        tensor([7, 4])
    """
    if isinstance(batch, Mapping):
        fields = _split_mapping(batch, where)
    elif all(hasattr(batch, name) for name in Batch._fields):
        fields = Fields(*(getattr(batch, name) for name in Batch._fields))
    elif isinstance(batch, (tuple, list)) and not _is_named(batch) and len(batch) == 3:
        fields = Fields(*batch)
    else:
        raise _no_ids(where, batch)
    ids, labels = fields.ids, fields.labels
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"{where}: ids must be an int64 or int32 tensor (n,), got {describe(ids)}; "
            "collate the ids of IndexedDataset unchanged, as torch.tensor(ids)"
        )
    if ids.ndim != 1:
        raise ValueError(
            f"{where}: ids must have shape (n,), got {tuple(ids.shape)}; collate one id an example"
        )
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{where}: labels must be a tensor of {len(ids)} rows, got {describe(labels)}; "
            "collate them to one tensor"
        )
    if labels.shape[:1] != ids.shape:
        raise ValueError(
            f"{where}: labels and ids must have one row an example, got labels "
            f"{tuple(labels.shape)} and ids {tuple(ids.shape)}; check the collate_fn"
        )
    return fields


def inputs_of(sample: Any) -> Any:
    """Return the inputs of one example of an IndexedDataset, as `split` finds those of a batch."""
    return _split_mapping(sample, "inputs_of").inputs if isinstance(sample, Mapping) else sample.x


def gather(batch: T, n: int, indices: Tensor) -> T:
    """Return the rows `indices`, int64 (k,), of a batch of n examples, in its structure and type.

    Rows are taken from tensors and arrays of n rows and from lists and tuples of n elements, at any
    depth of mappings, sequences and dataclasses; other values stay. A mapping whose type no dict
    can build becomes a dict. A sequence of n tensors with n rows each is ambiguous: a ValueError.

    Example:
        >>> batch = Batch(torch.zeros(3, 2), torch.tensor([0, 1, 2]), torch.tensor([7, 4, 9]))
        >>> gather(batch, 3, torch.tensor([2, 0])).ids
        tensor([9, 7])
    """

    def pick(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values.index_select(0, indices.to(values.device))
        if isinstance(values, np.ndarray):
            return values[indices.cpu().numpy()]
        return [values[i] for i in indices.tolist()]

    return _rows(batch, n, pick)


def part(batch: T, n: int, rows: slice) -> T:
    """Return consecutive rows of a batch of n examples, tensors and arrays as views."""
    return _rows(batch, n, operator.itemgetter(rows))


def _rows(batch: T, n: int, pick: Callable[[Any], Any]) -> T:
    """Pick rows of every value that has one for each of the n examples."""

    def rows(value: Any) -> Any:
        if isinstance(value, (Tensor, np.ndarray)):
            return pick(value) if value.shape[:1] == (n,) else value
        if isinstance(value, (tuple, list)) and not _is_named(value) and len(value) == n:
            if n and all(isinstance(v, Tensor) and v.shape[:1] == (n,) for v in value):
                raise ValueError(
                    f"a {type(value).__name__} of {n} tensors with {n} rows each may hold "
                    "one tensor an example or one column each; give columns names (a dict)"
                )
            return type(value)(pick(value))
        return _rebuild(value, rows) if _is_structure(value) else value

    result: T = _rebuild(batch, rows)
    return result


def to(batch: T, device: torch.device | str) -> T:
    """Return a batch with every tensor on `device`, in its structure and type."""
    device = torch.device(device)
    # A copy to the host that does not block could be read before it has arrived.
    non_blocking = device.type != "cpu"

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=non_blocking)
        return _rebuild(value, move) if _is_structure(value) else value

    result: T = _rebuild(batch, move)
    return result


def _rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a structure with every part changed."""
    if isinstance(value, Mapping):
        items = {key: change(item) for key, item in value.items()}
        try:
            return type(value)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if _is_named(value):
        return value._make(map(change, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(change, value))
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    elif hasattr(value, "__dict__"):
        names = list(vars(value))
    else:
        raise TypeError(
            f"a batch of type {type(value).__name__} cannot be rebuilt; use a dataclass or a dict"
        )
    result = copy.copy(value)
    for name in names:
        # Frozen dataclasses refuse a plain assignment.
        object.__setattr__(result, name, change(getattr(value, name)))
    return result


def _is_named(value: object) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _is_structure(value: object) -> bool:
    # An unknown object inside a batch is a value: nobody knows how to rebuild it.
    return isinstance(value, (Mapping, tuple, list)) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _split_mapping(batch: Mapping[Any, Any], where: str) -> Fields:
    if "ids" not in batch:
        raise _no_ids(where, batch)
    label = next((key for key in _LABEL_KEYS if key in batch), None)
    if label is None:
        raise ValueError(
            f"{where}: the batch has no labels: got {describe(batch)}; name them labels, label or y"
        )
    rest = {key: value for key, value in batch.items() if key not in ("ids", label)}
    inputs = next((batch[key] for key in _INPUT_KEYS if key in batch), rest)
    if inputs is rest and not rest:
        raise ValueError(
            f"{where}: the batch has no inputs: got {describe(batch)}; add x or keyword arguments"
        )
    return Fields(inputs, batch[label], batch["ids"])


def _no_ids(where: str, batch: object) -> ValueError:
    keep = "its third element"
    if isinstance(batch, Mapping):
        keep = "the key 'ids' (Hugging Face Trainer: remove_unused_columns=False)"
    return ValueError(
        f"{where}: the batch has no ids: got {describe(batch)}; wrap the data set in "
        f"rho_train.IndexedDataset before the DataLoader, and keep {keep} in the collate_fn; "
        "rho_train.check_loader(loader) says where they get lost"
    )


def describe(value: object) -> str:
    """Describe a value in a few words, such as "float32 tensor (3,)", for errors."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"{name} with the keys {', '.join(map(repr, value))}"
    if _is_named(value):
        return f"{name} with the fields {', '.join(getattr(value, '_fields', ()))}"
    if isinstance(value, (tuple, list)):
        return f"{name} of {len(value)} elements"
    return name
