"""Checksums of inputs, by which a store of IL recognises its data set; duplicates."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rho_train.batch import describe, inputs_of
from rho_train.dataset import IndexedDataset, check_indexed, fingerprint
from rho_train.rng import generator, global_seed

_COUNT = 64


class InputChecksum(NamedTuple):
    """A hash of the content of an example's inputs."""

    id: int
    sha256: str


InputChecksums = tuple[InputChecksum, ...]
"""In the order of the ids; empty: the inputs are not known."""


def input_checksums(dataset: IndexedDataset) -> InputChecksums:
    """Return the SHA-256 of the inputs of 64 examples, by which an ILStore recognises its data set.

    One id is drawn from each of 64 equal ranges, always the same for a length. A change of a share
    s of all examples is missed with probability (1 - s)^64: 4 % for s = 5 %. Inputs are tensors,
    arrays, numbers, texts, and mappings, sequences and dataclasses of them; other objects count by
    their type alone. Where the data set shows no classes, labels count too. There are no checksums
    of a data set that augments. Anything but an IndexedDataset is a TypeError.

    Examples:
        >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
        >>> [found.id for found in input_checksums(data)]
        [0, 1]
    """
    check_indexed("input_checksums", dataset)
    n = len(dataset)
    count = min(_COUNT, n)
    settings = {"generator": generator(0, "control points"), "dtype": torch.int64, "device": "cpu"}
    bounds = [i * n // count for i in range(count)] + [n]
    ids = [int(torch.randint(low, high, (), **settings)) for low, high in pairwise(bounds)]  # type: ignore[call-overload]
    with global_seed(0):
        found, again = (tuple(read_checksums(dataset, ids)) for _ in range(2))
        return found if found == again else ()


def check_inputs(wanted: InputChecksums, dataset: IndexedDataset) -> int:
    """Refuse a data set with other inputs; return how many were compared, 0 if it augments."""
    ids = [one.id for one in wanted]
    with global_seed(0):
        found = tuple(read_checksums(dataset, ids))
        if found == wanted:
            return len(wanted)
        if tuple(read_checksums(dataset, ids)) != found:
            return 0
    differing = [a.id for a, b in zip(wanted, found, strict=True) if a != b]
    raise ValueError(
        f"ILStore: the irreducible losses are of other inputs: {len(differing)} of {len(wanted)} "
        f"examples differ, the first has id {differing[0]}; count and labels agree, so "
        "examples changed places or their inputs changed; recompute the IL, or load the data set "
        "of the store. For inputs that differ on purpose or by another decoder: "
        "store.replace(input_checksums=())"
    )


def check_plain(dataset: IndexedDataset) -> InputChecksums:
    """Return the checksums of a data set, and refuse one that augments."""
    found = input_checksums(dataset)
    if not found and len(dataset):
        raise ValueError(
            "the data set gives other inputs when it is read again, so it augments; IL is scored "
            "without: pass the plain data set, and the other as augmented= to train on it"
        )
    return found


def read_checksums(dataset: IndexedDataset, ids: Sequence[int]) -> Iterator[InputChecksum]:
    """Yield the checksum of each example, of its labels too if the data set shows no classes."""
    with_labels = fingerprint(dataset)["labels"] == "none"
    for id in ids:
        # One by one: 64 videos would not fit into memory together.
        sample = dataset.__getitems__([id])[0]
        if not with_labels:
            sample = inputs_of(sample)
        elif not isinstance(sample, Mapping):
            sample = tuple(sample)  # a Batch, whose field names are not part of the form
        content = hashlib.sha256()
        _add(content, sample)
        yield InputChecksum(id, content.hexdigest())


def _add(content: hashlib._Hash, value: Any) -> None:
    """Add the tensors, numbers and texts of which inputs consist to a hash."""
    if isinstance(value, Tensor):
        dense = value.to_dense() if value.layout != torch.strided else value
        # NumPy has no bfloat16.
        value = (dense.double() if dense.is_floating_point() else dense).numpy(force=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        value = [part for key in sorted(value, key=str) for part in (str(key), value[key])]
    if isinstance(value, (str, bytes)):
        plain = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
        content.update(f"{type(value).__name__} {len(plain)} ".encode() + plain)
        return
    if not isinstance(value, (tuple, list)) or all(isinstance(v, (int, float)) for v in value):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            dtype = {"f": "<f8", "c": "<c16"}.get(array.dtype.kind, "<i8")
            content.update(f"{dtype} {array.shape} ".encode() + array.astype(dtype).tobytes())
            return
        value = array.tolist() if array.ndim else (type(value).__name__,)
    content.update(f"{len(value)} parts ".encode())
    for part in value:
        _add(content, part)


_ROWS = 1024  # compared with all earlier ones at once


def find_duplicates(
    dataset: IndexedDataset, *, embeddings: Tensor | None = None, similarity: float = 0.98
) -> Tensor:
    """Return for each example the id of the first one with the same inputs, int64 (n,).

    An example that did not occur before has its own id. Labels do not count, so copies with
    different labels are found; give `IndexedDataset` the labels where it cannot see them.

    Args:
        dataset: read once, without augmentation. Texts count as they are: lower their case before.
        embeddings: floating point (n, d), one row an example, such as the features of a pretrained
            encoder: an example that points the same way as earlier ones is a duplicate of the first
            of them, and of what that one is a duplicate of. Takes n^2 d / 2 multiply-adds.
        similarity: the lowest cosine of such a pair, in (0, 1].

    Raises:
        TypeError, ValueError: an argument is not as described, or embeddings are not finite.

    Examples:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> examples = TensorDataset(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 1, 1]))
        >>> first = find_duplicates(IndexedDataset(examples))
        >>> first
        tensor([0, 1, 0])
        >>> distinct = Subset(examples, first.unique().tolist())
    """
    check_indexed("find_duplicates", dataset)
    n, known, first = len(dataset), dict[str, int](), []
    for found in read_checksums(dataset, range(n)):
        first.append(known.setdefault(found.sha256, found.id))
    firsts = torch.tensor(first, dtype=torch.int64, device="cpu")
    if embeddings is None:
        return firsts
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        got = describe(embeddings)
        raise TypeError(f"find_duplicates: embeddings must be floating point (n, d), got {got}")
    if embeddings.ndim != 2 or len(embeddings) != n or not bool(embeddings.isfinite().all()):
        raise ValueError(
            f"find_duplicates: embeddings must be finite ({n}, d), got {describe(embeddings)}"
        )
    if not 0 < similarity <= 1:
        raise ValueError(f"find_duplicates: similarity must lie in (0, 1], got {similarity}")
    with torch.no_grad():
        unit = F.normalize(embeddings.detach().float())
        for begin in range(0, n, _ROWS):
            end = min(begin + _ROWS, n)
            near = (unit[begin:end] @ unit[:end].T >= similarity).cpu()
            near[:, begin:].fill_diagonal_(True)
            firsts[begin:end] = torch.minimum(firsts[begin:end], near.int().argmax(1))
    while not firsts[firsts].equal(firsts):
        firsts = firsts[firsts]
    return firsts
