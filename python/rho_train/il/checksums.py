"""Checksums of the inputs of a data set, by which a store of IL recognises it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rho_train.batch import inputs_of
from rho_train.dataset import IndexedDataset, check_indexed, fingerprint
from rho_train.files import atomic_write
from rho_train.records import from_line, to_line
from rho_train.rng import generator, global_seed
from rho_train.run_folder import RunFolder

_COUNT = 64


class InputChecksum(NamedTuple):
    """The kinds, keys and shapes of an example's inputs (`form`), and a hash of their content."""

    id: int
    form: str
    sha256: str


InputChecksums = tuple[InputChecksum, ...]
"""In the order of the ids; empty: the inputs are not known."""


def input_checksums(dataset: IndexedDataset) -> InputChecksums:
    """Return the SHA-256 of the inputs of 64 examples, by which an ILStore recognises its data set.

    One id is drawn from each of 64 equal ranges, always the same for a length. A change of a share
    s of all examples is missed with probability (1 - s)^64: 4 % for s = 5 %. Inputs are tensors,
    arrays, numbers, texts, and mappings, sequences and dataclasses of them; other objects count by
    their type alone. The same numbers in another dtype are equal, but for uint8. Where the data set
    shows no classes, labels count as inputs do. The random state is restored.

    Returns:
        One checksum an example; none if the data set augments: another reading gives other inputs.

    Raises:
        TypeError: `dataset` is not an IndexedDataset.

    Example:
        >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
        >>> [(found.id, found.form) for found in input_checksums(data)]
        [(0, 'float ()'), (1, 'float ()')]
    """
    check_indexed("input_checksums", dataset)
    n = len(dataset)
    count = min(_COUNT, n)
    settings = {"generator": generator(0, "control points"), "dtype": torch.int64, "device": "cpu"}
    bounds = [i * n // count for i in range(count)] + [n]
    ids = [int(torch.randint(low, high, (), **settings)) for low, high in pairwise(bounds)]  # type: ignore[call-overload]
    with global_seed(0):
        found = _read(dataset, ids)
        return found if found == _read(dataset, ids) else ()


def check_inputs(wanted: InputChecksums, dataset: IndexedDataset) -> int:
    """Refuse a data set with other inputs; return how many were compared, 0 if it augments."""
    ids = [one.id for one in wanted]
    with global_seed(0):
        found = _read(dataset, ids)
        if found == wanted:
            return len(wanted)
        if _read(dataset, ids) != found:
            return 0
    differing = [(a, b) for a, b in zip(wanted, found, strict=True) if a != b]
    before, here = differing[0]
    forms = "" if before.form == here.form else f", which was {before.form} and is {here.form}"
    raise ValueError(
        f"ILStore: the irreducible losses are of other inputs: {len(differing)} of {len(wanted)} "
        f"examples differ, the first has id {before.id}{forms}; count and labels agree, so "
        "examples changed places or their inputs changed; recompute the IL, or load the data set "
        "of the store. For inputs that differ on purpose or by another decoder: "
        "store.replace(input_checksums=())"
    )


def checked_inputs(dataset: IndexedDataset, folder: RunFolder) -> InputChecksums:
    """Return checksums; refuse a data set that augments or is not that of the folder."""
    found = input_checksums(dataset)
    if not found and len(dataset):
        raise ValueError(
            "the data set gives other inputs when it is read again, so it augments; IL is scored "
            "without: pass the plain data set, and the other as augmented= to train on it"
        )
    if folder.path is not None:
        path = folder / "inputs.json"
        if not path.exists():
            atomic_write(path, to_line({"inputs": found}))
        if from_rows(from_line(path.read_bytes(), path)["inputs"]) != found:
            raise ValueError(
                f"{folder.path} holds unfinished irreducible losses of other inputs; give their "
                "data set, or delete the folder"
            )
    return found


def from_rows(rows: Sequence[Any]) -> InputChecksums:
    """Return checksums from what JSON makes of them."""
    return tuple(InputChecksum(*row) for row in rows)


def _read(dataset: IndexedDataset, ids: Sequence[int]) -> InputChecksums:
    with_labels = fingerprint(dataset)["labels"] == "none"
    found = []
    for id in ids:
        # One by one: 64 videos would not fit into memory together.
        sample = dataset.__getitems__([id])[0]
        if not with_labels:
            sample = inputs_of(sample)
        elif not isinstance(sample, Mapping):
            sample = tuple(sample)  # a Batch, whose field names are not part of the form
        content = hashlib.sha256()
        form = _add(content, sample)
        found.append(InputChecksum(id, form, content.hexdigest()))
    return tuple(found)


def _add(content: hashlib._Hash, value: Any) -> str:
    """Add the tensors, numbers and texts of which inputs consist to a hash; return their form."""
    if isinstance(value, Tensor):
        dense = value.to_dense() if value.layout != torch.strided else value
        # NumPy has no bfloat16.
        value = (dense.double() if dense.is_floating_point() else dense).numpy(force=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = (f"{key}: {_add(content, value[key])}" for key in sorted(value, key=str))
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (str, bytes)):
        plain = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
        content.update(f"{len(plain)} ".encode() + plain)
        return "bytes" if isinstance(value, bytes) else "text"
    is_sequence = isinstance(value, (tuple, list))
    # Pillow's images have the interface alone.
    is_array = hasattr(value, "__array__") or hasattr(value, "__array_interface__")
    if is_array or _is_number(value) or (is_sequence and value and all(map(_is_number, value))):
        array = np.asarray(value)
        if array.dtype.kind == "c":
            array = np.stack([array.real, array.imag])
        kind = {"f": "float", "b": "bool", "i": "int", "u": "int"}.get(array.dtype.kind)
        if kind is None:  # texts or objects
            return _add(content, array.tolist())
        content.update(array.astype("<f8" if kind == "float" else "<i8").tobytes())
        return f"{'uint8' if array.dtype == np.uint8 else kind} {array.shape}"
    if is_sequence:
        forms = [_add(content, part) for part in value]
        return f"{len(forms)} x {forms[0]}" if len(set(forms)) == 1 else f"({', '.join(forms)})"
    return type(value).__name__


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)
