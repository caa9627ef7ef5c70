"""IL in several files by id range, for tables too large for one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rho_train.checks import check_rows
from rho_train.dataset import IndexedDataset
from rho_train.files import atomic_write
from rho_train.il.checksums import InputChecksums, from_json
from rho_train.il.store import ILStore, comparable, compare, compare_labels, json_digest

_FORMAT = "rho_ext.il_shards"
_VERSION = 2
_INDEX = "index.json"


@dataclass(frozen=True, eq=False)
class ILShards:
    """The irreducible losses of a data set as a folder of stores, opened without reading them.

    Args:
        shards: shard i has the ids from i * rows on.
        rows: of each shard; the last one may have fewer.
        fingerprint, info, input_checksums: of the whole data set, see `ILStore`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "il"
        >>> print_of = {"n": "5", "labels": "", "ids": "position"}
        >>> save_shards(ILStore(torch.arange(5) / 4, print_of), folder, rows=2)
        >>> ILShards.load(folder).gather(torch.tensor([4, 0, 3]))
        tensor([1.0000, 0.0000, 0.7500])
    """

    shards: tuple[ILStore, ...]
    rows: int
    fingerprint: Mapping[str, str]
    info: Mapping[str, str]
    input_checksums: InputChecksums = field(default=(), repr=False)

    def __len__(self) -> int:
        return int(self.fingerprint["n"])

    def gather(self, ids: Tensor) -> Tensor:
        """Return the IL of ids, float32 (n,); one that is out of range is an IndexError."""
        return self._gather([shard.il for shard in self.shards], ids, torch.float32)

    def check_labels(self, ids: Tensor, labels: Tensor) -> None:
        """Refuse labels of other examples, see `ILStore.check_labels`."""
        known = [shard.labels for shard in self.shards if shard.labels is not None]
        if len(known) == len(self.shards) and comparable(ids, labels):
            compare_labels(ids, labels, self._gather(known, ids, torch.int64))

    def _gather(self, tables: Sequence[Tensor], ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of ids, (n,), from the table of each shard."""
        ids = ids.cpu()
        check_rows("ILShards", ids, len(self), "give ids of its data set")
        ordered, order = ids.sort()
        bounds = torch.arange(len(tables) + 1, dtype=torch.int64, device="cpu") * self.rows
        cuts: list[int] = torch.searchsorted(ordered, bounds).tolist()
        rows = torch.empty(len(ids), dtype=dtype, device="cpu")
        for index, table in enumerate(tables):
            part = slice(cuts[index], cuts[index + 1])
            if part.start < part.stop:
                rows[order[part]] = table[ordered[part] - index * self.rows].to(dtype)
        return rows

    def check(self) -> None:
        """Read all values, see `ILStore.check`; the ValueError names the shard."""
        for index, shard in enumerate(self.shards):
            try:
                shard.check()
            except ValueError as error:
                raise ValueError(f"ILShards: shard {index}: {error}") from error

    def verify(self, dataset: IndexedDataset) -> int:
        """Check that the store was made for this data set, see `ILStore.verify`."""
        return compare(self.fingerprint, self.input_checksums, dataset)

    def join(self) -> ILStore:
        """Return one store in memory, 4 bytes a row."""
        folds = [shard.fold for shard in self.shards if shard.fold is not None]
        return ILStore(
            torch.cat([shard.il for shard in self.shards]),
            self.fingerprint,
            torch.cat(folds) if folds else None,
            self.info,
            self.input_checksums,
        )

    @classmethod
    def load(cls, folder: str | Path, dataset: IndexedDataset | None = None) -> ILShards:
        """Map all shards into memory, and check that they are whole and belong to `dataset`.

        Raises:
            FileNotFoundError: the folder has no index or lacks a shard.
            ValueError: the index or a shard is damaged, or of another store or data set.
        """
        path = Path(folder) / _INDEX
        if not path.is_file():
            raise FileNotFoundError(
                f"ILShards.load: there is no file {path}; check the path, or write the shards again"
            )
        try:
            index = json.loads(path.read_text())
            if index["format"] != _FORMAT or index["version"] != _VERSION:
                raise ValueError(f"wanted {_FORMAT} version {_VERSION}")
            if index.pop("sha256") != json_digest(index):
                raise ValueError("it does not match its checksum")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"ILShards.load: {path} is damaged or no index ({error}); write the shards again"
            ) from error
        shards = []
        for number, sha256 in enumerate(index["shards"]):
            file = Path(folder) / _file(number, len(index["shards"]))
            shards.append(ILStore.load(file))
            if shards[-1].sha256 != sha256:
                raise ValueError(
                    f"ILShards.load: {file} is a shard of another store than {path}; restore it"
                )
        checksums = from_json(index["input_checksums"])
        store = cls(tuple(shards), index["rows"], index["fingerprint"], index["info"], checksums)
        if dataset is not None:
            store.verify(dataset)
        return store


def save_shards(store: ILStore, folder: str | Path, rows: int) -> None:
    """Write a store as a folder of shards of `rows` ids each; the index comes last.

    Raises:
        ValueError: `rows` is less than 1, the folder has an index already, or see `ILStore.save`.
        OSError: the folder cannot be written.
    """
    if rows < 1:
        raise ValueError(f"save_shards: rows must be at least 1, got {rows}")
    folder = Path(folder)
    if (folder / _INDEX).exists():
        raise ValueError(f"save_shards: {folder} holds a store already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    begins = range(0, len(store.il), rows)
    digests = []
    for number, begin in enumerate(begins):
        end = min(begin + rows, len(store.il))
        ids = f"{store.fingerprint['ids']} from {begin}"
        fingerprint = {**store.fingerprint, "n": str(end - begin), "ids": ids}
        fold = None if store.fold is None else store.fold[begin:end]
        shard = ILStore(store.il[begin:end], fingerprint, fold)
        path = folder / _file(number, len(begins))
        shard.save(path)
        digests.append(ILStore.load(path).sha256)
    index = {
        "format": _FORMAT,
        "version": _VERSION,
        "rows": rows,
        "fingerprint": dict(store.fingerprint),
        "info": dict(store.info),
        "input_checksums": json.dumps(store.input_checksums),
        "shards": digests,
    }
    atomic_write(folder / _INDEX, json.dumps({**index, "sha256": json_digest(index)}, indent=1))


def _file(number: int, count: int) -> str:
    return f"il-{number:05}-of-{count:05}.safetensors"
