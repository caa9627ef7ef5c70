"""Per-example IL in one safetensors file, with a fingerprint of its data set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rho_train.batch import describe
from rho_train.checks import check_rows
from rho_train.dataset import IndexedDataset
from rho_train.dataset import fingerprint as fingerprint_of
from rho_train.files import atomic_write
from rho_train.il.checksums import InputChecksums, check_inputs, from_json

_FORMAT = "rho_ext.il_store"
_VERSION = 3
_FINGERPRINT = {"n": "count", "labels": "labels in their order (SHA-256)", "ids": "id scheme"}
_DTYPES = {torch.float32: "F32", torch.int32: "I32", torch.int16: "I16"}
LABEL_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
_RECOMPUTE = "recompute the IL for this data set"
_PIECE = 1 << 22


@dataclass(frozen=True, eq=False)
class ILStore:
    """The irreducible loss (IL) of every example, indexed by id, bound to its data set.

    The values are read, and infinite ones refused, by `save` and `check` alone.

    Args:
        il: float32 (N,) in nats; NaN means unknown.
        fingerprint: of the data set, see `rho_train.fingerprint`.
        fold: int16 or int32 (N,), the cross-fit fold that left the example out.
        info: how the IL was made: model and its weight hash, recipe, holdout loss.
        input_checksums: see `rho_train.input_checksums`; empty: inputs are not compared.
        sha256: of the content, from the file that the store was loaded from.
        labels: integers (N,), those of the data set, see `ILStore.check_labels`.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an incomplete fingerprint.
        TypeError: metadata that is not text.

    Example:
        >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
        >>> store = ILStore(torch.tensor([0.3, float("nan")]), fingerprint_of(data))
        >>> store.verify(data)
        0
        >>> store.known
        tensor([ True, False])
    """

    il: Tensor
    fingerprint: Mapping[str, str]
    fold: Tensor | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    input_checksums: InputChecksums = field(default=(), repr=False)
    sha256: str | None = None
    labels: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", dict(self.fingerprint))
        object.__setattr__(self, "info", dict(self.info))
        _check_table("il", self.il, (torch.float32,))
        if self.fold is not None:
            _check_table("fold", self.fold, (torch.int16, torch.int32))
            if self.fold.shape != self.il.shape:
                raise ValueError(
                    f"ILStore: fold must have the shape of il, {tuple(self.il.shape)}, "
                    f"got {tuple(self.fold.shape)}"
                )
        if self.labels is not None:
            _check_table("labels", self.labels, LABEL_DTYPES)
        for name in ("fingerprint", "info"):
            for key, value in getattr(self, name).items():
                if not isinstance(key, str) or not isinstance(value, str):
                    raise TypeError(
                        f"ILStore: {name} must map text to text, got {key!r}: {value!r}; use str()"
                    )
        if set(self.fingerprint) != set(_FINGERPRINT):
            raise ValueError(
                f"ILStore: fingerprint must have the keys {', '.join(_FINGERPRINT)}, got "
                f"{', '.join(self.fingerprint)}; make it with rho_train.fingerprint(dataset)"
            )
        if self.fingerprint["n"] != str(len(self.il)):
            raise ValueError(
                f"ILStore: il has {len(self.il)} rows for a data set of {self.fingerprint['n']}; "
                "give one row an example, NaN where the IL is unknown"
            )

    @property
    def known(self) -> Tensor:
        """True for examples that have an IL, bool (N,)."""
        return ~torch.isnan(self.il)

    def lowest(self, share: float, ids: Tensor | None = None) -> Tensor:
        """Return the ids of the examples with the lowest IL, int64 (round(share * n),), ascending.

        A filter before training; of equal losses the lower ids come first.

        Args:
            share: of the examples, in (0, 1].
            ids: int64 (n,), the examples to filter, all with an IL; None: all that have one.

        Raises:
            ValueError: `share` is no share, no example is left, or one has no IL.

        Example:
            >>> data = {"n": "4", "labels": "", "ids": "position"}
            >>> ILStore(torch.tensor([0.5, 0.1, torch.nan, 0.3]), data).lowest(0.67)
            tensor([1, 3])
        """
        if not 0.0 < share <= 1.0:
            raise ValueError(f"ILStore: share must lie in (0, 1], got {share}")
        examples = self.known.nonzero().flatten() if ids is None else ids
        losses = self.il[examples]
        count = round(share * len(examples))
        if count == 0 or losses.isnan().any():
            raise ValueError(
                f"ILStore: of {len(examples)} examples {int(losses.isnan().sum())} have no "
                f"irreducible loss, and a share of {share} are {count}; there must be one at least"
            )
        return examples[losses.argsort(stable=True)[:count]].sort().values

    def check_labels(self, ids: Tensor, labels: Tensor) -> None:
        """Refuse labels of examples that are not those that the IL was computed for.

        Does nothing if the store knows no labels, or `labels` are no integers (n,), one an id.

        Args:
            ids: integers (n,), as the data set gave them.
            labels: (n,), as the data set gave them.

        Raises:
            IndexError: an id is out of range.
            ValueError: labels differ; the message names the first id that does.

        Example:
            >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
            >>> store = ILStore.of(data, torch.tensor([0.3, 0.4]))
            >>> store.check_labels(torch.tensor([1]), torch.tensor([1]))
            >>> store.check_labels(torch.tensor([1]), torch.tensor([0]))
            Traceback (most recent call last):
            ValueError: ILStore: the labels of 1 of 1 examples are not those ...
        """
        if self.labels is not None and comparable(ids, labels):
            check_rows("ILStore", ids, len(self.il), "give ids of its data set")
            compare_labels(ids, labels, self.labels[ids.cpu()])

    @classmethod
    def of(
        cls,
        dataset: IndexedDataset,
        il: Tensor,
        *,
        fold: Tensor | None = None,
        info: Mapping[str, str] | None = None,
        input_checksums: InputChecksums = (),
    ) -> ILStore:
        """Return the store of a data set, with its fingerprint and its labels if it shows some."""
        made_from = fingerprint_of(dataset)
        labels = None if made_from["labels"] == "none" else smallest(dataset.labels)
        return cls(il, made_from, fold, info or {}, input_checksums, labels=labels)

    def verify(self, dataset: IndexedDataset) -> int:
        """Check that the store was made for this data set; only 64 of its examples are read.

        Returns:
            How many examples had their inputs compared: 0 if the store has no input checksums, or
            if the data set augments.

        Raises:
            ValueError: count, labels, id scheme or inputs differ; the message lists which.
        """
        return compare(self.fingerprint, self.input_checksums, dataset)

    def check(self) -> None:
        """Read all values; raise a ValueError if one is infinite or has changed since saving."""
        # In pieces: a test of the whole table would allocate the table once more.
        for begin in range(0, len(self.il), _PIECE):
            infinite = self.il[begin : begin + _PIECE].isinf().nonzero()
            if len(infinite):
                raise ValueError(
                    "ILStore: il must be finite or NaN (unknown), got an infinite value at id "
                    f"{begin + int(infinite[0])}; the IL model has diverged, lower its rate"
                )
        if self.sha256 is not None and self.sha256 != self._digest():
            raise ValueError(
                "ILStore: the values do not match the checksum of their file: restore it from a "
                "copy; or they were changed after loading, then keep them in a new ILStore"
            )

    def save(self, path: str | Path) -> None:
        """Write the store as one safetensors file, in one step and without a copy in memory.

        Raises:
            ValueError: see `check`.
            OSError: the file cannot be written; an earlier file is untouched.
        """
        self.check()
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            **{f"fingerprint.{key}": value for key, value in self.fingerprint.items()},
            **{f"info.{key}": value for key, value in self.info.items()},
            "input_checksums": json.dumps(self.input_checksums),
            "sha256": self.sha256 or self._digest(),
        }
        metadata["header_sha256"] = json_digest(metadata)
        header: dict[str, object] = {"__metadata__": metadata}
        offset = 0
        for name, tensor in self._tensors().items():
            end = offset + tensor.nbytes
            dtype, shape = _DTYPES[tensor.dtype], list(tensor.shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        size = len(text).to_bytes(8, "little")
        atomic_write(path, [size, text, *map(_bytes, self._tensors().values())])

    @classmethod
    def load(cls, path: str | Path, dataset: IndexedDataset | None = None) -> ILStore:
        """Map a store into memory; check its structure, metadata and `dataset`, but not its values.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut, damaged, no IL store, of another format version, or of
                another data set.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"ILStore.load: there is no file {path}; check the path or compute the IL first"
            )
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            wrote = metadata.get("format"), metadata.get("version")
            if wrote != (_FORMAT, str(_VERSION)):
                raise ValueError(
                    f"format {wrote[0]!r} version {wrote[1]!r}, wanted {_FORMAT} version {_VERSION}"
                )
            if metadata.pop("header_sha256", None) != json_digest(metadata):
                raise ValueError("its metadata do not match their checksum")
            if not {"il"} <= set(found) <= {"il", "fold"}:
                raise ValueError(f"its tensors must be il and fold, got {', '.join(found)}")
            store = cls(
                found["il"],
                _with_prefix(metadata, "fingerprint."),
                found.get("fold"),
                _with_prefix(metadata, "info."),
                from_json(metadata.get("input_checksums", "[]")),
                metadata.get("sha256", ""),
            )
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"ILStore.load: {path} is cut, damaged or no IL store of this version ({error}); "
                f"restore it from a copy or {_RECOMPUTE}"
            ) from error
        if dataset is not None:
            try:
                store.verify(dataset)
            except ValueError as error:
                raise ValueError(f"ILStore.load: {path}: {error}") from error
        return store

    def _tensors(self) -> dict[str, Tensor]:
        return {"il": self.il} if self.fold is None else {"il": self.il, "fold": self.fold}

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self._tensors().items():
            digest.update(f"{name} {tensor.dtype} {len(tensor)}".encode())
            digest.update(_bytes(tensor))
        return digest.hexdigest()


def compare(
    fingerprint: Mapping[str, str], checksums: InputChecksums, dataset: IndexedDataset
) -> int:
    """Refuse a data set with another fingerprint or other inputs; see `ILStore.verify`."""
    theirs = fingerprint_of(dataset)
    if theirs["labels"] == "none" != fingerprint["labels"]:
        _ = dataset.labels  # which raises, and says how the data set can show them
    differences = [
        f"{meaning}: store has {fingerprint[key]}, data set has {theirs[key]}"
        for key, meaning in _FINGERPRINT.items()
        if fingerprint[key] != theirs[key]
    ]
    if differences:
        raise ValueError(
            f"ILStore: the store belongs to another data set ({'; '.join(differences)}); "
            f"{_RECOMPUTE}, or load the data set of the store"
        )
    return check_inputs(checksums, dataset)


def comparable(ids: Tensor, labels: Tensor) -> bool:
    """Return whether labels are class indices, one an id."""
    floating = labels.is_floating_point() or labels.is_complex()
    return not floating and labels.shape == ids.shape and ids.ndim == 1


def compare_labels(ids: Tensor, labels: Tensor, wanted: Tensor) -> None:
    """Refuse labels that differ from the `wanted` ones on the CPU, see `check_labels`."""
    labels, wanted = labels.to("cpu", torch.int64), wanted.long()
    if wanted.equal(labels):
        return
    differing = (wanted != labels).nonzero().flatten()
    first = int(differing[0])
    raise ValueError(
        f"ILStore: the labels of {len(differing)} of {len(ids)} examples are not those that the "
        f"irreducible losses were computed for: id {int(ids[first])} has label "
        f"{int(labels[first])}, and had {int(wanted[first])}; the data was reordered, filtered or "
        "wrapped again, so its ids belong to other examples: use the IndexedDataset that the store "
        "was computed with, or take subsets of it, which keep its ids"
    )


def smallest(labels: Tensor) -> Tensor:
    """Return labels in the smallest integer type that holds them."""
    low, high = map(int, labels.aminmax()) if len(labels) else (0, 0)
    fitting = (t for t in LABEL_DTYPES if torch.iinfo(t).min <= low and high <= torch.iinfo(t).max)
    return labels.to("cpu", next(fitting)).contiguous()


def _check_table(name: str, table: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(table, Tensor) or table.dtype not in dtypes or table.ndim != 1:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"ILStore: {name} must be a {wanted} tensor (N,), got {describe(table)}")
    if table.device.type != "cpu" or table.requires_grad or not table.is_contiguous():
        raise ValueError(
            f"ILStore: {name} must be a contiguous CPU tensor without gradient, "
            f"pass {name}.detach().cpu().contiguous()"
        )


def json_digest(value: object) -> str:
    """Return the SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _with_prefix(metadata: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}


def _bytes(table: Tensor) -> memoryview:
    array = table.numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).data
