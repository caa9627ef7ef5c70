"""Per-example IL in one safetensors file or several, with a fingerprint of its data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rho_train.checks import check_rows
from rho_train.dataset import IndexedDataset
from rho_train.dataset import fingerprint as fingerprint_of
from rho_train.files import atomic_write
from rho_train.il.blocks import INTEGERS, Part
from rho_train.il.checksums import InputChecksums, check_inputs, from_json
from rho_train.records import from_line, to_line

_FORMAT = "rho_ext.il_store 4"
_FINGERPRINT = {"n": "count", "labels": "labels in their order (SHA-256)", "ids": "id scheme"}
_NAMES = dict(zip((torch.float32, *INTEGERS), ("F32", "U8", "I16", "I32", "I64"), strict=True))
_INDEX = "index.json"


class ILStore:
    """The irreducible loss (IL) of every example, indexed by id, bound to its data set.

    `ILStore.of` makes one with what it needs of a data set. Values of a file are compared with
    their checksums when they are first used. `il`, `fold`, `labels`, `known` and `lowest` of a
    store in several files read them into memory; `gather` reads what a batch needs.

    Args:
        il: float32 (N,) in nats; NaN means unknown.
        fingerprint: of the data set, see `rho_train.fingerprint`.
        fold: int16 or int32 (N,), the cross-fit fold that left the example out.
        info: how the IL was made: model and its weight hash, recipe, holdout loss.
        input_checksums: see `rho_train.input_checksums`; empty: inputs are not compared.
        labels: uint8, int16, int32 or int64 (N,), see `check_labels`; None: not compared.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an incomplete fingerprint.
        TypeError: metadata that is not text.

    Example:
        >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
        >>> store = ILStore.of(data, torch.tensor([0.3, float("nan")]))
        >>> store.verify(data)
        0
        >>> store.known
        tensor([ True, False])
    """

    def __init__(
        self,
        il: Tensor,
        fingerprint: Mapping[str, str],
        fold: Tensor | None = None,
        info: Mapping[str, str] | None = None,
        input_checksums: InputChecksums = (),
        labels: Tensor | None = None,
    ) -> None:
        given = {"il": il, "fold": fold, "labels": labels}
        parts = {k: [Part(k, t)] for k, t in given.items() if t is not None or k == "il"}
        self._fill(parts, fingerprint, info or {}, input_checksums)

    def _fill(
        self,
        parts: Mapping[str, list[Part]],
        fingerprint: Mapping[str, str],
        info: Mapping[str, str],
        input_checksums: InputChecksums,
    ) -> None:
        self.fingerprint, self.info = dict(fingerprint), dict(info)
        self.input_checksums, self._parts = input_checksums, dict(parts)
        self._joined: dict[str, Tensor] = {}
        sizes = [len(part) for part in parts["il"]]
        for name, column in parts.items():
            if (found := [len(part) for part in column]) != sizes:
                raise ValueError(
                    f"ILStore: {name} must have the shape of il, ({sum(sizes)},), got {found}"
                )
        for key, value in [*self.fingerprint.items(), *self.info.items()]:
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(
                    "ILStore: fingerprint and info must map text to text, got "
                    f"{key!r}: {value!r}; use str()"
                )
        if set(self.fingerprint) != set(_FINGERPRINT):
            raise ValueError(
                f"ILStore: fingerprint must have the keys {', '.join(_FINGERPRINT)}, got "
                f"{', '.join(self.fingerprint)}; make it with rho_train.fingerprint(dataset)"
            )
        if self.fingerprint["n"] != str(sum(sizes)):
            raise ValueError(
                f"ILStore: il has {sum(sizes)} rows for a data set of {self.fingerprint['n']}; "
                "give one row an example, NaN where the IL is unknown"
            )

    @classmethod
    def of(cls, dataset: IndexedDataset, il: Tensor, **more: Any) -> ILStore:
        """Return a store with the fingerprint and the labels of a data set, and more arguments."""
        made_from, labels = fingerprint_of(dataset), None
        if made_from["labels"] != "none":
            labels = dataset.labels
            low, high = map(int, labels.aminmax()) if len(labels) else (0, 0)
            fits = [t for t in INTEGERS if torch.iinfo(t).min <= low <= high <= torch.iinfo(t).max]
            labels = labels.to("cpu", fits[0]).contiguous()
        return cls(il, made_from, labels=labels, **more)

    def replace(self, **changes: Any) -> ILStore:
        """Return a store in which some of its arguments have other values."""
        names = ("il", "fingerprint", "fold", "info", "input_checksums", "labels")
        return ILStore(**{**{name: getattr(self, name) for name in names}, **changes})

    def __len__(self) -> int:
        return int(self.fingerprint["n"])

    @property
    def il(self) -> Tensor:
        """The irreducible losses, float32 (N,); NaN means unknown."""
        return self._whole("il")

    @property
    def fold(self) -> Tensor | None:
        """The cross-fit fold that left each example out, int16 or int32 (N,)."""
        return self._whole("fold") if "fold" in self._parts else None

    @property
    def labels(self) -> Tensor | None:
        """The labels that the IL was computed for, integers (N,)."""
        return self._whole("labels") if "labels" in self._parts else None

    @property
    def known(self) -> Tensor:
        """True for examples that have an IL, bool (N,)."""
        return ~torch.isnan(self.il)

    @property
    def table(self) -> Tensor | None:
        """As `il`; None if the values lie in several files, and nothing has joined them yet."""
        return self.il if "il" in self._joined or len(self._parts["il"]) == 1 else None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the checksums of the irreducible losses."""
        found = [part.checksums() for part in self._parts["il"]]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

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

    def gather(self, ids: Tensor) -> Tensor:
        """Return the IL of ids, float32 (n,) on the CPU.

        Raises:
            IndexError: an id is out of range.
            ValueError: the file is damaged where they lie.
        """
        return self._rows("il", ids)

    def check_labels(self, ids: Tensor, labels: Tensor) -> None:
        """Refuse labels of examples that are not those that the IL was computed for.

        Does nothing if the store knows no labels, or `labels` are no integers, one an id.

        Args:
            ids: integers (n,).
            labels: (n,).

        Raises:
            IndexError: an id is out of range.
            ValueError: labels differ, or the file is damaged where those of the store lie.

        Example:
            >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
            >>> store = ILStore.of(data, torch.tensor([0.3, 0.4]))
            >>> store.check_labels(torch.tensor([1]), torch.tensor([1]))
            >>> store.check_labels(torch.tensor([1]), torch.tensor([0]))
            Traceback (most recent call last):
            ValueError: ILStore: the labels of 1 of 1 examples are not those ...
        """
        mixed = labels.is_floating_point() or labels.is_complex() or labels.shape != ids.shape
        if "labels" not in self._parts or mixed or ids.ndim != 1:
            return
        wanted, labels = self._rows("labels", ids).long(), labels.to("cpu", torch.int64)
        if not wanted.equal(labels):
            differing = (wanted != labels).nonzero().flatten()
            first = int(differing[0])
            raise ValueError(
                f"ILStore: the labels of {len(differing)} of {len(ids)} examples are not those "
                f"that the irreducible losses were computed for: id {int(ids[first])} has label "
                f"{int(labels[first])}, and had {int(wanted[first])}; the data was reordered, "
                "filtered or wrapped again, so its ids belong to other examples: use the "
                "IndexedDataset that the store was computed with, or take subsets of it, which "
                "keep its ids"
            )

    def verify(self, dataset: IndexedDataset) -> int:
        """Check that the store was made for this data set; only 64 of its examples are read.

        Returns:
            How many examples had their inputs compared: 0 if the store has no input checksums, or
            if the data set augments.

        Raises:
            ValueError: count, labels, id scheme or inputs differ; the message lists which.
        """
        theirs = fingerprint_of(dataset)
        if theirs["labels"] == "none" != self.fingerprint["labels"]:
            _ = dataset.labels  # which raises, and says how the data set can show them
        differences = [
            f"{meaning}: store has {self.fingerprint[key]}, data set has {theirs[key]}"
            for key, meaning in _FINGERPRINT.items()
            if self.fingerprint[key] != theirs[key]
        ]
        if differences:
            raise ValueError(
                f"ILStore: the store belongs to another data set ({'; '.join(differences)}); "
                "recompute the IL for this data set, or load the data set of the store"
            )
        return check_inputs(self.input_checksums, dataset)

    def check(self) -> None:
        """Read all values; raise a ValueError if one is infinite or has changed since saving."""
        for part in (part for column in self._parts.values() for part in column):
            part.check()
        begin = 0
        for part in self._parts["il"]:
            il = part.all().numpy()
            # Neither takes the memory of another table, and both ignore NaN.
            if np.isinf([np.fmin.reduce(il, initial=0.0), np.fmax.reduce(il, initial=0.0)]).any():
                raise ValueError(
                    "ILStore: il must be finite or NaN (unknown), got an infinite value at id "
                    f"{begin + np.isinf(il).argmax()}; the IL model has diverged, lower its rate"
                )
            begin += len(part)

    def save(self, path: str | Path, rows_a_file: int = 0) -> None:
        """Write the store as one safetensors file, or as a folder of files of `rows_a_file` ids.

        A file is written in one step and without a copy in memory. In a folder the index comes
        last.

        Raises:
            ValueError: see `check`; or the folder holds a store already.
            OSError: a file cannot be written; an earlier one is untouched.
        """
        self.check()
        path, step = Path(path), rows_a_file or max(len(self), 1)
        index, begins = path / _INDEX, range(0, max(len(self), 1), step)
        if index.exists():
            raise ValueError(f"ILStore.save: {path} holds a store already; choose another folder")
        # As safetensors orders them, so that each begins at a multiple of its element size.
        names = sorted(self._parts, key=lambda name: -self._whole(name).element_size())
        files = [{k: Part(k, self._whole(k)[i : i + step]) for k in names} for i in begins]
        record = to_line(
            {
                "format": _FORMAT,
                "fingerprint": self.fingerprint,
                "info": self.info,
                "input_checksums": self.input_checksums,
                "files": [{k: part.checksums() for k, part in file.items()} for file in files],
            }
        )
        if not rows_a_file:
            return _write(path, files[0], {"record": record})
        path.mkdir(parents=True, exist_ok=True)
        for file, parts in zip(_files(path, len(files)), files, strict=True):
            _write(file, parts, {})
        atomic_write(index, record)
        return None

    @classmethod
    def load(cls, path: str | Path, dataset: IndexedDataset | None = None) -> ILStore:
        """Map a file or folder into memory; values are checked when used, `dataset` at once.

        Raises:
            FileNotFoundError: there is no such file, or a folder lacks one.
            ValueError: a file is cut, damaged, no IL store, of another format version, or of
                another data set.
        """
        path = file = Path(path)
        files, store, parts = [path], object.__new__(cls), dict[str, list[Part]]()
        try:
            if path.is_dir():
                file = path / _INDEX
                record = _record(_existing(file).read_bytes())
                files = _files(path, len(record["files"]))
            else:
                with safe_open(_existing(path), framework="pt") as opened:
                    record = _record((opened.metadata() or {}).get("record", "").encode())
            for file, checksums in zip(files, record["files"], strict=True):
                with safe_open(_existing(file), framework="pt") as opened:
                    tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                if set(tensors) != set(checksums):
                    raise ValueError(f"its tensors are {', '.join(tensors)}")
                for name, tensor in tensors.items():
                    part = Part(name, tensor, file, checksums[name])
                    parts.setdefault(name, []).append(part)
            inputs = from_json(record["input_checksums"])
            store._fill(parts, record["fingerprint"], record["info"], inputs)
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"ILStore.load: {file} is cut, damaged or no IL store of this version ({error}); "
                "restore it from a copy or compute the IL again"
            ) from error
        try:
            if dataset is not None:
                store.verify(dataset)
        except ValueError as error:
            raise ValueError(f"ILStore.load: {path}: {error}") from error
        return store

    def _whole(self, name: str) -> Tensor:
        if name not in self._joined:
            found = [part.all() for part in self._parts[name]]
            self._joined[name] = found[0] if len(found) == 1 else torch.cat(found)
        return self._joined[name]

    def _rows(self, name: str, ids: Tensor) -> Tensor:
        ids, parts = ids.to("cpu", torch.int64), self._parts[name]
        check_rows("ILStore", ids, len(self), "give ids of its data set")
        if len(parts) == 1:
            return parts[0].rows(ids)
        ordered, order = ids.sort()
        begins = list(accumulate(map(len, parts), initial=0))
        bounds = torch.tensor(begins, dtype=torch.int64, device="cpu")
        cuts: list[int] = torch.searchsorted(ordered, bounds).tolist()
        found = [
            part.rows(ordered[cuts[i] : cuts[i + 1]] - begins[i])
            for i, part in enumerate(parts)
            if i == 0 or cuts[i] < cuts[i + 1]
        ]
        rows = torch.cat(found)
        return torch.empty_like(rows).index_copy_(0, order, rows)


def _files(folder: Path, count: int) -> list[Path]:
    return [folder / f"il-{number:05}-of-{count:05}.safetensors" for number in range(count)]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"ILStore.load: there is no file {path}; check the path, or compute the IL first"
        )
    return path


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = from_line(line, "")
    except ValueError:
        raise ValueError("the checksum of its record is missing or wrong") from None
    if record.get("format") != _FORMAT:
        raise ValueError(f"its format is {record.get('format')!r}, wanted {_FORMAT!r}")
    return record


def _write(path: Path, parts: Mapping[str, Part], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; its own writer would copy the values."""
    header: dict[str, object] = {"__metadata__": metadata}
    tensors = {name: part.all() for name, part in parts.items()}
    ends = list(accumulate((tensor.nbytes for tensor in tensors.values()), initial=0))
    for i, (name, tensor) in enumerate(tensors.items()):
        dtype, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": ends[i : i + 2]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = (tensor.numpy().data for tensor in tensors.values())
    atomic_write(path, [len(text).to_bytes(8, "little"), text, *values])
