"""Per-example IL in one safetensors file or several, with a fingerprint of its data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from rho_train.checksums import InputChecksum, InputChecksums, check_inputs
from rho_train.dataset import IndexedDataset
from rho_train.dataset import fingerprint as fingerprint_of
from rho_train.files import atomic_write, from_line, to_line
from rho_train.identity import digest
from rho_train.il.blocks import INTEGERS, Column

_FORMAT = "rho_ext.il_store 6"
_FINGERPRINT = {"n": "count", "labels": "labels in their order (SHA-256)", "ids": "id scheme"}
_FILES = "il-*-of-*.safetensors"


class ILStore:
    """The irreducible loss (IL) of every example, indexed by id, bound to its data set.

    `ILStore.of` makes one with what it needs of a data set. Values of a file are compared with
    their checksums when they are first used. `il` and other columns, `known` and `lowest` of a
    store in several files read them into memory; `gather` reads what a batch needs.

    Args:
        il: float32 (N,) in nats; NaN means unknown.
        fingerprint: of the data set, see `rho_train.fingerprint`.
        fold: int16 or int32 (N,), the cross-fit fold that left the example out.
        info: how the IL was made: model and its weight hash, recipe, holdout loss.
        input_checksums: see `rho_train.input_checksums`; empty: inputs are not compared.
        labels: uint8, int16, int32 or int64 (N,), see `check_labels`; None: not compared.
        predicted: int32 (N,), the class that the model finds most likely; -1 where unknown.

    Raises:
        ValueError: wrong shapes, dtypes or devices, or a fingerprint of other data.

    Examples:
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
        predicted: Tensor | None = None,
    ) -> None:
        self.fingerprint = {str(key): str(value) for key, value in fingerprint.items()}
        self.info = {str(key): str(value) for key, value in (info or {}).items()}
        self.input_checksums = input_checksums
        given: dict[str, Any] = {"il": il, "fold": fold, "labels": labels, "predicted": predicted}
        self._columns = {
            name: column if isinstance(column, Column) else Column(name, [column])
            for name, column in given.items()
            if column is not None or name == "il"
        }
        ends = self._columns["il"].ends
        for name, column in self._columns.items():
            if column.ends != ends:
                raise ValueError(
                    f"ILStore: {name} must have the shape of il, ({ends[-1]},), got "
                    f"({column.ends[-1]},)"
                )
        n = ends[-1]
        if set(self.fingerprint) != set(_FINGERPRINT) or self.fingerprint["n"] != str(n):
            raise ValueError(
                f"ILStore: fingerprint must have the keys {', '.join(_FINGERPRINT)}, n = {n} as "
                f"there are {n} rows of il, got {self.fingerprint}; make it with "
                "rho_train.fingerprint(dataset), and give one row an example, NaN where unknown"
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
        names = ("il", "fingerprint", "fold", "info", "input_checksums", "labels", "predicted")
        return ILStore(**{**{name: getattr(self, name) for name in names}, **changes})

    def __len__(self) -> int:
        return int(self.fingerprint["n"])

    def __repr__(self) -> str:
        table = self.table  # the mean of one in several files would read them all
        mean = "" if table is None else f", mean {float(table.nanmean()):.2f}"
        return f"ILStore({len(self)} examples{mean})"

    @property
    def il(self) -> Tensor:
        """The irreducible losses, float32 (N,); NaN means unknown."""
        return self._columns["il"].all()

    @property
    def fold(self) -> Tensor | None:
        """The cross-fit fold that left each example out, int16 or int32 (N,)."""
        return self._columns["fold"].all() if "fold" in self._columns else None

    @property
    def labels(self) -> Tensor | None:
        """The labels that the IL was computed for, integers (N,)."""
        return self._columns["labels"].all() if "labels" in self._columns else None

    @property
    def predicted(self) -> Tensor | None:
        """The class that the IL model, which never saw the example, gives it, int32 (N,)."""
        return self._columns["predicted"].all() if "predicted" in self._columns else None

    @property
    def known(self) -> Tensor:
        """True for examples that have an IL, bool (N,)."""
        return ~torch.isnan(self.il)

    @property
    def table(self) -> Tensor | None:
        """The losses as `il`; None while the values lie in several files that nothing joined."""
        return None if self._columns["il"].joined is None else self.il

    @property
    def sha256(self) -> str:
        """The SHA-256 of the irreducible losses, however many files hold them."""
        column = self._columns["il"]
        column.check()
        return digest(*column.tensors)

    def lowest(self, share: float, ids: Tensor | None = None) -> Tensor:
        """Return the ids of the examples with the lowest IL, int64 (round(share * n),), ascending.

        A filter before training; of equal losses the lower ids come first. `share` is in (0, 1], of
        `ids`, int64 (n,), which all must have an IL; None: of all that have one.

        Examples:
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
            problem = f"{int(losses.isnan().sum())} have no irreducible loss"
            raise ValueError(
                f"ILStore: of {len(examples)} examples, {count} of which are wanted, {problem}"
            )
        return examples[losses.argsort(stable=True)[:count]].sort().values

    def keep_rare(self, below: int = 100) -> ILStore:
        """Return a store with IL 0 for classes with fewer examples than that: their loss counts.

        An IL model hardly learns a class of few examples. Its loss there is high and not
        irreducible, and RHO-LOSS would leave the class. ValueError if the store has no labels.

        Examples:
            >>> data = IndexedDataset([(0.5, 0), (0.7, 1), (0.6, 1)], labels=[0, 1, 1])
            >>> ILStore.of(data, torch.tensor([3.0, 0.3, 0.4])).keep_rare(below=2).il
            tensor([0.0000, 0.3000, 0.4000])
        """
        if self.labels is None:
            raise ValueError("ILStore: keep_rare needs labels; make the store by ILStore.of")
        labels = self.labels.long()
        counts = labels[labels >= 0].bincount(minlength=1)
        rare = (labels >= 0) & (counts[labels.clamp_min(0)] < below) & self.known
        return self.replace(il=self.il.masked_fill(rare, 0.0))

    def gather(self, ids: Tensor) -> Tensor:
        """Return the IL of ids, float32 (n,) on the CPU; IndexError for an id out of range."""
        return self._columns["il"].rows(ids)

    def check_labels(self, ids: Tensor, labels: Tensor) -> None:
        """Refuse labels (n,) of ids that are not those that the IL was computed for, a ValueError.

        Does nothing if the store knows no labels, or `labels` are no integers, one an id.
        """
        mixed = labels.is_floating_point() or labels.is_complex() or labels.shape != ids.shape
        if "labels" not in self._columns or mixed or ids.ndim != 1:
            return
        wanted = self._columns["labels"].rows(ids).long()
        labels = labels.to("cpu", torch.int64)
        if not wanted.equal(labels):
            differing = (wanted != labels).nonzero().flatten()
            first = int(differing[0])
            raise ValueError(
                f"ILStore: the labels of {len(differing)} of {len(ids)} examples are not those "
                f"that the irreducible losses were computed for: id {int(ids[first])} has label "
                f"{int(labels[first])}, and had {int(wanted[first])}; the data was reordered, "
                "filtered or wrapped again: use the IndexedDataset of the store, or subsets of it"
            )

    def verify(self, dataset: IndexedDataset) -> int:
        """Check that the store was made for this data set; only 64 of its examples are read.

        Returns how many examples had their inputs compared: 0 without checksums, or if the data set
        augments. A ValueError lists what differs: count, labels, id scheme or inputs.
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
        for column in self._columns.values():
            column.check()
        infinite = self.il.isinf().nonzero()
        if len(infinite):
            raise ValueError(
                "ILStore: il must be finite or NaN (unknown), got an infinite value at id "
                f"{int(infinite[0])}; the IL model has diverged, lower its rate"
            )

    def save(self, path: str | Path, rows_a_file: int = 0) -> None:
        """Write the store as one safetensors file, or as a folder of files of `rows_a_file` ids.

        Each file is written in one step; an OSError leaves an earlier one untouched. ValueError:
        an IL is infinite, or the folder has a store already.
        """
        self.check()
        path, step = Path(path), max(rows_a_file or len(self), 1)
        columns = {
            name: Column(name, column.all().split(step))  # type: ignore[no-untyped-call]
            for name, column in self._columns.items()
        }
        record = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "info": self.info,
            "input_checksums": self.input_checksums,
            "checksums": {name: column.checksums() for name, column in columns.items()},
        }
        metadata, files = {"record": to_line(record)}, [path]
        if rows_a_file:
            path.mkdir(parents=True, exist_ok=True)
            if next(path.glob(_FILES), None):
                raise ValueError(f"ILStore.save: {path} holds a store already; give a new folder")
            count = len(columns["il"].tensors)
            files = [path / f"il-{i:05}-of-{count:05}.safetensors" for i in range(count)]
        for i, file in enumerate(files):
            tensors = {name: column.tensors[i] for name, column in columns.items()}
            atomic_write(file, serialized(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path, dataset: IndexedDataset | None = None) -> ILStore:
        """Map a file or folder into memory; values are checked when used, `dataset` at once.

        FileNotFoundError if there is none; a ValueError says that a file is damaged, no IL store of
        this version, of another store, or of another data set.
        """
        path = Path(path)
        files = sorted(path.glob(_FILES)) if path.is_dir() else [path] * path.is_file()
        if not files:
            raise FileNotFoundError(
                f"ILStore.load: there is no store {path}; check the path, or compute the IL first"
            )
        tensors: dict[str, list[Tensor]] = {}
        lines, columns = [], dict[str, Any]()
        try:
            for file in files:
                with safe_open(file, framework="pt") as opened:
                    lines.append((opened.metadata() or {}).get("record", ""))
                    for name in opened.keys():  # noqa: SIM118
                        tensors.setdefault(name, []).append(opened.get_tensor(name))
                if lines[-1] != lines[0]:
                    raise ValueError(f"it belongs to another store than {files[0].name}")
            record = from_line(lines[0].encode(), "its header")
            if record.get("format") != _FORMAT:
                raise ValueError(f"its format is {record.get('format')!r}, wanted {_FORMAT!r}")
            checksums = record["checksums"]
            wanted = {name: len(of_files) for name, of_files in checksums.items()}
            if (found := {name: len(parts) for name, parts in tensors.items()}) != wanted:
                raise ValueError(f"its files hold {found}, wanted {wanted}")
            for name, parts in tensors.items():
                columns[name] = Column(name, parts, files, checksums[name])
            inputs = tuple(InputChecksum(*row) for row in record["input_checksums"])
            about = {"fingerprint": record["fingerprint"], "info": record["info"]}
            store = cls(**columns, **about, input_checksums=inputs)
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"ILStore.load: {file} is cut, damaged or no IL store of this version ({error}); "
                "restore it from a copy or compute the IL again"
            ) from error
        if dataset is not None:
            store.verify(dataset)
        return store
