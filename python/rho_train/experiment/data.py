"""What an experiment trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from rho_train.data.corruption import Corruption, CorruptionConfig
from rho_train.data.duplicates import without_duplicates
from rho_train.data.sets import SETS, SetName, load_text_table
from rho_train.tasks.classification import ClassificationData
from rho_train.tasks.letters import load_letters
from rho_train.tasks.table import load_table

_TEXT_TABLES = (".csv", ".jsonl")
_TEXT = ("min_count", "max_len")


@dataclass(frozen=True, kw_only=True)
class DataConfig(CorruptionConfig):
    """The data of an experiment and how they are corrupted.

    Args:
        name: of a known set; all but letters, which come with the package, need `folder`.
        path: a file of your own instead: .npz with `features` (n, d) and `labels` (n,), or .csv or
            .jsonl with texts and labels.
        folder: where the files of the set lie.
        test: how many of the last rows of `path` are the test set.
        text: the column of `path` that holds the texts.
        label: the column of `path` that holds the labels of texts.
        min_count: of text: words that the training part has less often are unknown; none: as the
            loader of the set has it.
        max_len: of text: words that are read of each; none: as the loader of the set has it.
        size: of image files: height and width that they are cut to; none: as the loader has it.
        drop_duplicates: leave out training points that occurred before or are in the test set.
    """

    name: SetName = "letters"
    path: Path | None = None
    folder: Path | None = None
    test: int = 4000
    text: str = "text"
    label: str = "label"
    min_count: int | None = None
    max_len: int | None = None
    size: int | None = None
    drop_duplicates: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in get_args(SetName):
            names = ", ".join(get_args(SetName))
            raise ValueError(f"data.name must be one of {names}, got {self.name!r}")
        if self.path is None and self.test != 4000:
            raise ValueError(
                f"data.test = {self.test} needs data.path; the known sets have test sets of their "
                "own"
            )
        if self.path is not None and (self.name != "letters" or self.folder is not None):
            raise ValueError(
                f"data.path = {self.path} is a set of your own; leave out data.name and data.folder"
            )
        if self.path is None and self.name == "letters" and self.folder is not None:
            raise ValueError(
                "data.folder is not needed for letters, which come with the package; give the "
                "data.name of the set that lies there"
            )
        if self.name != "letters" and self.folder is None:
            raise ValueError(f"data.name = {self.name} needs data.folder, where its files lie")
        for option, value in self._options().items():
            if option not in self._takes():
                raise ValueError(f"data.{option} has no meaning for {self._what()}")
            if value < 1:
                raise ValueError(f"data.{option} must be at least 1, got {value}")
        if not self._is_text_table() and (self.text, self.label) != ("text", "label"):
            raise ValueError("data.text and data.label are columns of a .csv or .jsonl data.path")

    def load(self) -> ClassificationData:
        """Read the data as they are, without corruption.

        Raises:
            FileNotFoundError, ValueError: files are missing or damaged, see the loaders.
            ImportError: Pillow is missing for image files.
        """
        data = self._load()
        return without_duplicates(data) if self.drop_duplicates else data

    def corrupt(self, data: ClassificationData, seed: int) -> Corruption:
        """Draw what becomes of the data; `Corruption.apply` gives what is trained on."""
        how = {field.name: getattr(self, field.name) for field in fields(CorruptionConfig)}
        config = CorruptionConfig(**how)
        return Corruption.draw(data.train_y, data.test_y, data.num_classes, config, seed=seed)

    def identity(self) -> dict[str, Any]:
        """Return what determines the data, as plain values: the content of files, not their names.

        Raises:
            OSError: a file cannot be read.
        """
        where = self.path or self.folder
        values = asdict(self) | {
            "confused": [list(pair) for pair in self.confused],
            "path": where and where.name,
            "sha256": self._content(),
        }
        return {key: value for key, value in values.items() if key != "folder"}

    @classmethod
    def like(cls, identity: Mapping[str, Any], where: Path | None) -> DataConfig:
        """Return the configuration with this identity, its files at `where`.

        Example:
            >>> DataConfig.like(DataConfig(noise=0.1).identity(), None).noise
            0.1
        """
        known = {field.name for field in fields(cls)} - {"path", "folder"}
        values = {key: value for key, value in identity.items() if key in known}
        values["confused"] = tuple((a, b) for a, b in values.get("confused", ()))
        values["path" if values.get("name", "letters") == "letters" else "folder"] = where
        return cls(**values)

    def _load(self) -> ClassificationData:
        options: dict[str, Any] = self._options()
        if self.folder is not None:
            return SETS[self.name].load(self.folder, **options)
        if self.path is None:
            return load_letters()
        if self._is_text_table():
            return load_text_table(
                self.path, self.test, text=self.text, label=self.label, **options
            )
        return load_table(self.path, self.test)

    def _is_text_table(self) -> bool:
        return self.path is not None and self.path.suffix in _TEXT_TABLES

    def _options(self) -> dict[str, int]:
        values = {name: getattr(self, name) for name in ("min_count", "max_len", "size")}
        return {name: value for name, value in values.items() if value is not None}

    def _takes(self) -> tuple[str, ...]:
        if self.folder is not None:
            return SETS[self.name].takes
        return _TEXT if self._is_text_table() else ()

    def _what(self) -> str:
        return self.name if self.path is None else f"a {self.path.suffix or 'table'} file"

    def _content(self) -> str | None:
        if self.path is not None:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        return SETS[self.name].content(self.folder) if self.folder is not None else None
