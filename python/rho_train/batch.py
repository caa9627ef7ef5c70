"""Read a batch of any structure, and take rows from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sized
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

T = TypeVar("T")

_LABEL_KEYS = ("labels", "label", "y")
_INPUT_KEYS = ("x", "inputs")
_ATOMS = (str, bytes, int, float, complex, type(None))


class Batch(NamedTuple):
    """One example or a batch of an (x, y) data set, with the ids that `IndexedDataset` adds."""

    x: Any
    y: Any
    ids: Any

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device; from page-locked memory the host does not wait."""
        return to(self, device)


class Fields(NamedTuple):
    """The parts of a batch that selection needs; a dict of inputs holds keyword arguments."""

    inputs: Any
    labels: Tensor
    ids: Tensor


def split(
    batch: Any, where: str = "Selector", *, needs_ids: bool = True, needs_labels: bool = True
) -> Fields:
    """Return the inputs, the labels (n, ...) and the ids (n,), int64 or int32, of a batch.

    A batch is a structure with the fields x, y and ids; a tuple or list (x, y, ids); or a mapping
    with "ids", the labels under "labels", "label" or "y", and the inputs under "x" or "inputs", or
    else under all other keys, as keyword arguments. Where no ids or labels are needed, a batch
    without gets its rows as ids, and labels (n, 0).
    """
    if isinstance(batch, Mapping):
        inputs, labels, ids = _split_mapping(batch, where, needs_labels)
    elif hasattr(batch, "x") and hasattr(batch, "y"):
        inputs, labels, ids = batch.x, batch.y, getattr(batch, "ids", None)
    elif is_plain(batch) and len(batch) in (2, 3):
        inputs, labels, ids = (*batch, None)[:3]
    else:
        raise _no_ids(where, batch)
    if ids is None and needs_ids:
        raise _no_ids(where, batch)
    integers = isinstance(ids, Tensor) and ids.dtype in (torch.int64, torch.int32)
    if labels is None and not needs_labels:
        first = ids if integers else _first_tensor(batch)
        if isinstance(first, Tensor) and first.ndim:
            labels = torch.empty(len(first), 0, dtype=torch.float32, device=first.device)
    if not isinstance(labels, Tensor) or not labels.ndim:
        raise TypeError(
            f"{where}: labels must be a tensor with a row an example, got {describe(labels)}; "
            "collate them to one tensor"
        )
    if not needs_ids and not (integers and ids.shape == labels.shape[:1]):
        ids = torch.arange(len(labels), dtype=torch.int64, device=labels.device)
    elif not integers:
        raise TypeError(
            f"{where}: ids must be an int64 or int32 tensor (n,), got {describe(ids)}; "
            "collate the ids of IndexedDataset unchanged, as torch.tensor(ids)"
        )
    if labels.shape[:1] != ids.shape:
        raise ValueError(
            f"{where}: labels and ids must have one row an example, got labels "
            f"{tuple(labels.shape)} and ids {tuple(ids.shape)}; check the collate_fn"
        )
    return Fields(inputs, labels, ids)


def take_il(batch: Any, name: str) -> tuple[Any, Tensor]:
    """Return a batch without its irreducible losses `name`, and these, floating point (n,)."""
    rest = batch
    if isinstance(batch, Mapping):
        rest = copy.copy(batch) if isinstance(batch, MutableMapping) else dict(batch)
        il = rest.pop(name, None)
    elif is_plain(batch):
        rest, il = batch[:-1], batch[-1] if batch else None
    else:
        il = getattr(batch, name, None)
    if not isinstance(il, Tensor) or il.ndim != 1 or not il.is_floating_point():
        raise ValueError(
            f"Selector: il={name!r} names irreducible losses in the batch, floating point (n,), "
            f"got {describe(il)} in {describe(batch)}; keep the column in the collate_fn"
        )
    return rest, il


def inputs_of(sample: Any) -> Any:
    """Return the inputs of one example of an IndexedDataset, as `split` finds those of a batch."""
    return _split_mapping(sample, "", False)[0] if isinstance(sample, Mapping) else sample.x


def gather(batch: T, n: int, rows: Tensor | slice, *, whole: object = None) -> T:
    """Return `rows`, int64 (k,) or a slice, of a batch of n examples, in its structure and type.

    Rows are taken from tensors and arrays of n rows, from lists and tuples of n elements and from
    containers that know their examples (PackedSequence, TensorDict, batches of PyTorch Geometric),
    at any depth; other values stay, and `whole` does. ValueError for a sequence of n tensors with n
    rows each, which is ambiguous; TypeError for a value of n elements that cannot be cut.
    """

    def take(value: Any) -> Any:
        if isinstance(value, Tensor) and not value.is_nested:
            if value is whole or value.shape[:1] != (n,):
                return value
            if isinstance(rows, slice):
                return value[rows]
            return value.index_select(0, rows.to(value.device))
        if value is whole or isinstance(value, _ATOMS):
            return value
        if isinstance(value, np.ndarray):
            return value[_numbers(n, rows)] if value.shape[:1] == (n,) else value
        if (own := _own_count(value)) == n:
            return _own_rows(value, n, rows)
        if is_plain(value) and len(value) == n:
            if n and all(isinstance(v, Tensor) and v.shape[:1] == (n,) for v in value):
                raise ValueError(
                    f"a {type(value).__name__} of {n} tensors with {n} rows each may hold "
                    "one tensor an example or one column each; give columns names (a dict)"
                )
            return type(value)([value[i] for i in _numbers(n, rows)])
        if isinstance(value, Mapping) or (own is None and _is_structure(value)):
            return _rebuild(value, take)
        if own is None and isinstance(value, Sized) and not callable(value) and len(value) == n:
            raise TypeError(
                f"a {type(value).__name__} of {n} elements in a batch of {n} examples: no rows can "
                "be taken from it; collate it to a tensor, an array or a list"
            )
        return value

    result: T = take(batch) if _own_count(batch) == n else _rebuild(batch, take)
    return result


def _numbers(n: int, rows: Tensor | slice) -> list[int]:
    return list(range(n)[rows]) if isinstance(rows, slice) else rows.tolist()


def _own_count(value: Any) -> int | None:
    """Return how many examples a container knows that it has, None if it is no such container."""
    if isinstance(value, Tensor):
        return value.size(0) if value.is_nested else None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, (dict, tuple, list)):
        return None
    if hasattr(type(value), "from_data_list"):  # a batch of PyTorch Geometric
        return int(value.num_graphs)
    size = getattr(value, "batch_size", None)  # of a TensorDict or a tensorclass
    return (size[0] if size else -1) if isinstance(size, torch.Size) else None


def _own_rows(value: Any, n: int, rows: Tensor | slice) -> Any:
    """Take rows of a container that knows its examples, by its own means."""
    if isinstance(getattr(value, "batch_size", None), torch.Size):
        return value[rows]
    numbers = _numbers(n, rows)
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        return pack_padded_sequence(padded[numbers], lengths[numbers], True, enforce_sorted=False)
    some = [value[i] for i in numbers]
    if isinstance(value, Tensor):
        return torch.nested.as_nested_tensor(some, layout=value.layout)
    return type(value).from_data_list(some)


def leaves(batch: Any, n: int, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and the values of the fields of a batch of n examples, at any depth."""
    values = is_plain(batch) and len(batch) == n
    if name and (values or _own_count(batch) is not None or not _is_structure(batch)):
        yield name, batch
    else:
        for key, value in _items(batch):
            yield from leaves(value, n, f"{name}.{key}" if name else str(key))


def ids_of(batch: Any) -> Any:
    """Return the ids, labels or first tensor of a batch that `split` has read, without checks."""
    if isinstance(batch, Mapping):
        keys = (key for key in ("ids", *_LABEL_KEYS) if batch.get(key) is not None)
        key = next(keys, None)
        return _first_tensor(batch) if key is None else batch[key]
    found = batch[1] if is_plain(batch) else getattr(batch, "ids", None)
    if found is None:
        found = batch[2] if is_plain(batch) and len(batch) > 2 else getattr(batch, "y", None)
    return _first_tensor(batch) if found is None else found


def _first_tensor(batch: Any) -> Any:
    """Return the first tensor of a batch at any depth, None if it has none."""
    return next((value for _, value in leaves(batch, -1) if isinstance(value, Tensor)), None)


def to(batch: T, device: torch.device | str, keep: object = None) -> T:
    """Return a batch with every tensor on `device`, but `keep`, in its structure and type."""
    device = torch.device(device)
    # A copy to the host that does not block could be read before it has arrived.
    non_blocking = device.type != "cpu"

    def move(value: Any) -> Any:
        if value is keep:
            return value
        if isinstance(value, Tensor) or _own_count(value) is not None:
            return value.to(device, non_blocking=non_blocking)
        return _rebuild(value, move) if value is batch or _is_structure(value) else value

    result: T = move(batch)
    return result


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; from page-locked memory the host does not wait."""
    on_gpu = device.type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor


def _rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a structure with every part changed."""
    if isinstance(value, Mapping):
        items = {key: change(item) for key, item in value.items()}
        try:
            return type(value)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if isinstance(value, (tuple, list)):
        make = getattr(value, "_make", type(value))
        return make(map(change, value))
    result = copy.copy(value)
    for name, item in _items(value):
        # Frozen dataclasses refuse a plain assignment.
        object.__setattr__(result, name, change(item))
    return result


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Return the names and the values of the parts of a structure."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    slots = [one.__dict__.get("__slots__", ()) for one in type(value).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    names += getattr(value, "__dict__", ())
    return [(one, getattr(value, one)) for one in names if hasattr(value, one) and one[:2] != "__"]


def is_plain(value: Any) -> bool:
    """Return whether a value is a list or a tuple without names."""
    return isinstance(value, (tuple, list)) and not hasattr(value, "_fields")


def _is_structure(value: object) -> bool:
    """Return whether parts of a value may be fields: an object has some if it holds tensors."""
    if isinstance(value, (Mapping, tuple, list)):
        return True
    if isinstance(value, _ATOMS) or callable(value):
        return False
    return any(isinstance(item, (Tensor, np.ndarray)) for _, item in _items(value))


def _split_mapping(
    batch: Mapping[Any, Any], where: str, needs_labels: bool
) -> tuple[Any, Any, Any]:
    label = next((key for key in _LABEL_KEYS if key in batch), None)
    if label is None and needs_labels:
        raise ValueError(
            f"{where}: the batch has no labels: got {describe(batch)}; name them labels, label or "
            "y; for examples that have none give loss_fn="
        )
    rest = {key: value for key, value in batch.items() if key not in ("ids", label)}
    inputs = next((batch[key] for key in _INPUT_KEYS if key in batch), rest)
    return inputs, None if label is None else batch[label], batch.get("ids")


def _no_ids(where: str, batch: object) -> ValueError:
    keep = "its third element"
    if isinstance(batch, Mapping):
        keep = "the key 'ids' (Hugging Face Trainer: remove_unused_columns=False)"
    return ValueError(
        f"{where}: the batch has no ids: got {describe(batch)}; wrap the data set in "
        f"rho_train.IndexedDataset before the DataLoader, and keep {keep} in the collate_fn; "
        "a batch that a loop unpacks, as in x, y = batch, is passed whole"
    )


def describe(value: object) -> str:
    """Describe a value in a few words, such as "float32 tensor (3,)", for errors."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"{name} with the keys {', '.join(map(repr, value))}"
    if not isinstance(value, (tuple, list)):
        return name
    names = getattr(value, "_fields", None)
    has = f"with the fields {', '.join(names)}" if names else f"of {len(value)} elements"
    return f"{name} {has}"
