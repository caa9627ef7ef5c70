"""Control points: whether a data set still gives the inputs that a store was computed from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rho_train.batch import inputs_of
from rho_train.dataset import IndexedDataset, check_indexed, fingerprint
from rho_train.files import atomic_write
from rho_train.rng import generator, global_seed

_COUNT = 64
_SKETCH = 16
# Integers and texts must be equal. Floats and pixels need not: the same file goes through another
# decoder, the same transform through another processor, and hashes, rounded or not, would differ.
# In the usual distance between two points, the same photographs at 224 pixels differ by 0 between
# Pillow and OpenCV, by up to 0.09 between Pillow and FFmpeg, where chroma is halved; ImageNet's for
# CIFAR's normalisation moves them by up to 0.2, and points that change places by 1.4.
_TOLERANCE = 0.1
_ROUNDING = 1e-5  # of a sketch's length, where most points are equal and so have no distance


class InputChecksum(NamedTuple):
    """The inputs of one point: their form (kinds, keys and shapes), a hash of what must be equal
    (integers, texts, where values are not finite) and a sketch of each float or uint8 array."""

    id: int
    form: str
    exact: str
    sketches: tuple[tuple[float, ...], ...]


InputChecksums = tuple[InputChecksum, ...]
"""With ascending ids; empty: nothing is known of the inputs."""


def input_checksums(dataset: IndexedDataset) -> InputChecksums:
    """Describe the inputs of 64 points, by which an ILStore knows its data set again.

    The ids are cut into 64 equal ranges and one is drawn from each, always the same for a length.
    A change of a share s of all points is missed with probability (1 - s)^64: 4 % for s = 5 %.
    Inputs are tensors, arrays, numbers, texts, and mappings, sequences and dataclasses of them;
    other objects count by their type alone. Where the data set shows no classes, whose fingerprint
    tells them apart, the labels of an example count as its inputs do. Random state is left as it
    was.

    Returns:
        The points; none if the data set augments: it gives other inputs when it is read again.

    Raises:
        TypeError: `dataset` is not an IndexedDataset.

    Example:
        >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
        >>> [(point.id, point.form) for point in input_checksums(data)]
        [(0, 'float ()'), (1, 'float ()')]
    """
    check_indexed("input_checksums", dataset)
    n = len(dataset)
    count = min(_COUNT, n)
    private = generator(0, "control points")
    ids = [
        int(torch.randint(i * n // count, (i + 1) * n // count, (), generator=private))
        for i in range(count)
    ]
    with global_seed(0):
        points = _read(dataset, ids)
        return points if points == _read(dataset, ids) else ()


def unaugmented_checksums(dataset: IndexedDataset) -> InputChecksums:
    """Return the control points of a data set to score: losses of an augmented one would be those
    of one random view.

    Raises:
        ValueError: a point has other inputs at the second reading.
    """
    points = input_checksums(dataset)
    if not points and len(dataset):
        raise ValueError(
            "the data set gives other inputs when it is read again, so it augments; irreducible "
            "losses are scored without augmentation: pass the plain data set, and the other as "
            "augmented= to train on it"
        )
    return points


def check_inputs(points: InputChecksums, dataset: IndexedDataset) -> int:
    """Compare the inputs of control points with those that a data set of the same labels has.

    Returns:
        How many were compared; 0 if the data set augments, as training may: each of its views is
        another one.

    Raises:
        ValueError: inputs differ; the message says how many and which.
    """
    ids = [point.id for point in points]
    with global_seed(0):
        found = _read(dataset, ids)
        differing = differences(points, found)
        if differing and _read(dataset, ids) != found:
            return 0
    if not differing:
        return len(points)
    before, here = points[differing[0]], found[differing[0]]
    forms = "" if before.form == here.form else f", which was {before.form} and is {here.form}"
    raise ValueError(
        f"ILStore: the irreducible losses are of other inputs: {len(differing)} of {len(points)} "
        f"control points differ, the first has id {before.id}{forms}; count and labels agree, so "
        "points changed places or their inputs changed; recompute the IL for this data set, or "
        "load the data set that the store was made for. Of the same points, prepared in another "
        "way on purpose: dataclasses.replace(store, control=())"
    )


def differences(points: InputChecksums, others: InputChecksums) -> list[int]:
    """Return the places at which two descriptions of the same ids are of different inputs.

    A sketch differs when its distance is more than a tenth of the median distance of the points
    from their median, which no unit, offset or outlier of the inputs moves.
    """
    spreads = []
    for leaf in range(max((len(point.sketches) for point in points), default=0)):
        sketches = np.array([p.sketches[leaf] for p in points if leaf < len(p.sketches)])
        from_median = np.linalg.norm(sketches - np.median(sketches, axis=0), axis=1)
        spreads.append(float(np.median(from_median)))

    def same(one: InputChecksum, two: InputChecksum) -> bool:
        if one[:3] != two[:3]:
            return False
        pairs = zip(np.array(one.sketches), np.array(two.sketches), spreads, strict=False)
        return all(
            np.linalg.norm(a - b) <= _TOLERANCE * spread + _ROUNDING * np.linalg.norm(a)
            for a, b, spread in pairs
        )

    pairs = zip(points, others, strict=True)
    return [place for place, (one, two) in enumerate(pairs) if not same(one, two)]


def keep_inputs(folder: Path, points: InputChecksums) -> None:
    """Leave in a folder of unfinished work what the data are, or compare them with what is there.

    Raises:
        ValueError: the folder holds work on other inputs.
        OSError: the folder cannot be written.
    """
    path = folder / "inputs.json"
    if not path.exists():
        atomic_write(path, to_json(points))
        return
    before = from_json(path.read_text())
    count = len(differences(before, points)) if len(before) == len(points) else len(before)
    if count:
        raise ValueError(
            f"{folder} holds unfinished irreducible losses of other inputs: {count} of "
            f"{len(before)} control points differ; give the data set that they are of, or delete "
            "the folder"
        )


def to_json(points: InputChecksums) -> str:
    """Write control points as text, which `from_json` reads.

    Example:
        >>> from_json(to_json((InputChecksum(3, "text", "ab", ()),)))
        (InputChecksum(id=3, form='text', exact='ab', sketches=()),)
    """
    return json.dumps(points)


def from_json(text: str) -> InputChecksums:
    """Read what `to_json` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        return tuple(
            InputChecksum(id, form, exact, tuple(map(tuple, sketches)))
            for id, form, exact, sketches in json.loads(text)
        )
    except TypeError as error:
        raise ValueError(f"its control points cannot be read: {error}") from error


def _read(dataset: IndexedDataset, ids: Sequence[int]) -> InputChecksums:
    whole = fingerprint(dataset)["labels"] == "none"
    # One by one: 64 videos would not fit into memory together.
    return tuple(_describe(id, dataset.__getitems__([id])[0], whole) for id in ids)


def _describe(id: int, sample: Any, whole: bool) -> InputChecksum:
    parts = _Parts()
    if not whole:
        sample = inputs_of(sample, "input_checksums")
    elif not isinstance(sample, Mapping):
        sample = tuple(sample)  # a Batch, whose fields are no form of their own
    form = parts.add(sample)
    return InputChecksum(id, form, parts.exact.hexdigest()[:16], tuple(parts.sketches))


class _Parts:
    """The tensors, numbers and texts that inputs consist of; `add` returns the form of each."""

    def __init__(self) -> None:
        self.exact = hashlib.sha256()
        self.sketches: list[tuple[float, ...]] = []

    def add(self, value: Any) -> str:
        if isinstance(value, Tensor):
            return self._add_array(_as_array(value))
        if isinstance(value, Mapping):
            items = [f"{key}: {self.add(value[key])}" for key in sorted(value, key=str)]
            return f"{{{', '.join(items)}}}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.add({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        if isinstance(value, (str, bytes)):
            content = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
            self.exact.update(f"{len(content)} ".encode() + content)
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
            array = np.stack([array.real, array.imag])
        if kind in "fc" or array.dtype == np.uint8:
            values = array.astype(np.float64).ravel()
            finite = np.isfinite(values)
            if not finite.all():
                self.exact.update(np.packbits(finite).data)
            self.sketches.append(_sketch(np.where(finite, values, 0.0)))
            return f"{'uint8' if kind == 'u' else 'float'} {array.shape}"
        if kind in "iub":
            self.exact.update(array.astype("<i8").tobytes())
            return f"{'bool' if kind == 'b' else 'int'} {array.shape}"
        return self.add(array.tolist())  # of texts or objects


def _as_array(tensor: Tensor) -> npt.NDArray[Any]:
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    # NumPy has no bfloat16.
    return (dense.double() if dense.is_floating_point() else dense).numpy(force=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)


def _sketch(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return 16 numbers whose distance estimates the root mean square distance of the values.

    s_b = 1/sqrt(m) sum of sign_j x_j over j = b mod 16, signs from a fixed stream: a count sketch
    (Charikar et al. 2002), E|s - s'|^2 = |x - x'|^2 / m. Linear, so an offset that all points share
    cancels in their distances.
    """
    m = len(values)
    stream = hashlib.shake_128(b"signs of control points").digest(-(-m // 8))
    signs = 2.0 * np.unpackbits(np.frombuffer(stream, np.uint8), count=m) - 1
    signed = values * signs
    sums = np.pad(signed, (0, -m % _SKETCH)).reshape(-1, _SKETCH).sum(0) / max(m, 1) ** 0.5
    return tuple(float(f"{value:.7g}") for value in sums)
