"""Checksums of the inputs of a data set, by which a store of IL recognises it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rho_train.batch import inputs_of
from rho_train.dataset import IndexedDataset, check_indexed, fingerprint
from rho_train.files import atomic_write
from rho_train.records import from_line, to_line
from rho_train.rng import generator, global_seed
from rho_train.run_folder import RunFolder

_COUNT = 64
_VALUES = 32  # of an array that may differ by a tolerance


class InputChecksum(NamedTuple):
    """The kinds, keys and shapes of an example's inputs (`form`), and a hash of their content.

    With an `input_tolerance`, 32 `values` of each float or uint8 array, in units of it, replace it.
    """

    id: int
    form: str
    sha256: str
    values: Sequence[Sequence[float]] = ()


InputChecksums = tuple[InputChecksum, ...]
"""In the order of the ids; empty: the inputs are not known."""


def input_checksums(dataset: IndexedDataset) -> InputChecksums:
    """Return the SHA-256 of the inputs of 64 examples, by which an ILStore recognises its data set.

    One id is drawn from each of 64 equal ranges, always the same for a length. A change of a share
    s of all examples is missed with probability (1 - s)^64: 4 % for s = 5 %. Inputs are tensors,
    arrays, numbers, texts, and mappings, sequences and dataclasses of them; other objects count by
    their type alone. The same numbers in another dtype are equal, but for uint8. Where the data set
    shows no classes, labels count as inputs do. The random state is restored.

    Hashes are exact; for another decoder there is `IndexedDataset(..., input_tolerance=...)`.

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
        differing = differences(wanted, found)
        if differing and _read(dataset, ids) != found:
            return 0
    if not differing:
        return len(wanted)
    before, here = wanted[differing[0]], found[differing[0]]
    forms = "" if before.form == here.form else f", which was {before.form} and is {here.form}"
    raise ValueError(
        f"ILStore: the irreducible losses are of other inputs: {len(differing)} of {len(wanted)} "
        f"examples differ, the first has id {before.id}{forms}; count and labels agree, so "
        "examples changed places or their inputs changed; recompute the IL, or load the data set "
        "of the store. For another decoder: IndexedDataset(..., input_tolerance=...). For inputs "
        "prepared otherwise on purpose: store.replace(input_checksums=())"
    )


def differences(one: InputChecksums, other: InputChecksums) -> list[int]:
    """Return the places at which the checksums of the same ids differ by more than tolerated."""

    return [
        place
        for place, (a, b) in enumerate(zip(one, other, strict=True))
        if a[:3] != b[:3]
        or any(math.dist(x, y) > len(x) ** 0.5 for x, y in zip(a.values, b.values, strict=True))
    ]


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
        before = from_rows(from_line(path.read_bytes(), path)["inputs"])
        if len(before) != len(found) or differences(before, found):
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
        content = _Content(dataset.input_tolerance)
        form = content.add(sample)
        found.append(InputChecksum(id, form, content.sha256.hexdigest(), content.values))
    return tuple(found)


class _Content:
    """Hashes the tensors, numbers and texts that inputs consist of; `add` returns their form."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.sha256 = hashlib.sha256()
        self.values: list[list[float]] = []

    def add(self, value: Any) -> str:
        if isinstance(value, Tensor):
            dense = value.to_dense() if value.layout != torch.strided else value
            # NumPy has no bfloat16.
            dense = dense.double() if dense.is_floating_point() else dense
            return self._add_array(dense.numpy(force=True))
        if isinstance(value, Mapping):
            items = [f"{key}: {self.add(value[key])}" for key in sorted(value, key=str)]
            return f"{{{', '.join(items)}}}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.add({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        if isinstance(value, (str, bytes)):
            content = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
            self.sha256.update(f"{len(content)} ".encode() + content)
            return "bytes" if isinstance(value, bytes) else "text"
        is_sequence = isinstance(value, (tuple, list))
        # Pillow's images have the interface alone.
        is_array = hasattr(value, "__array__") or hasattr(value, "__array_interface__")
        if is_array or _is_number(value) or (is_sequence and value and all(map(_is_number, value))):
            return self._add_array(np.asarray(value))
        if is_sequence:
            forms = [self.add(part) for part in value]
            return f"{len(forms)} x {forms[0]}" if len(set(forms)) == 1 else f"({', '.join(forms)})"
        return type(value).__name__

    def _add_array(self, array: npt.NDArray[Any]) -> str:
        kind = array.dtype.kind
        if kind == "c":
            array, kind = np.stack([array.real, array.imag]), "f"
        if kind not in "fiub":
            return self.add(array.tolist())  # of texts or objects
        is_uint8 = array.dtype == np.uint8
        name = "uint8" if is_uint8 else {"f": "float", "b": "bool"}.get(kind, "int")
        if self.tolerance and (kind == "f" or is_uint8):
            values = array.astype(np.float64).ravel()
            finite = np.isfinite(values)
            self.sha256.update(np.packbits(finite).data)
            places = np.linspace(0, len(values) - 1, min(_VALUES, len(values)))
            shown = np.where(finite, values, 0.0)[places.round().astype(np.int64)] / self.tolerance
            self.values.append([float(f"{value:.9g}") for value in shown])
            return f"{name} {array.shape} within {self.tolerance:g}"
        self.sha256.update(array.astype("<f8" if kind == "f" else "<i8").tobytes())
        return f"{name} {array.shape}"


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)
