"""What an experiment trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rho_train.data import (
    ClassificationData,
    Corruption,
    CorruptionConfig,
    load_letters,
    load_table,
)
from rho_train.data.sets import SETS, SetName


@dataclass(frozen=True, kw_only=True)
class DataConfig(CorruptionConfig):
    """The data of an experiment and how they are corrupted.

    Args:
        name: of a known set; all but letters, which comes with the package, need `folder`.
        path: a file of your own instead: .npz with `features` (n, d) and `labels` (n,).
        folder: where the files of the set lie.
        test: how many of the last rows of `path` are the test set.
    """

    name: SetName = "letters"
    path: Path | None = None
    folder: Path | None = None
    test: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in SETS:
            raise ValueError(f"data.name must be one of {', '.join(SETS)}, got {self.name!r}")
        if self.path is None and self.test != 4000:
            raise ValueError(
                f"data.test = {self.test} needs data.path; the known sets have test sets of their "
                "own"
            )
        if self.path is not None and (self.name != "letters" or self.folder is not None):
            raise ValueError(
                f"data.path = {self.path} stands for a set of your own; leave out data.name and "
                "data.folder"
            )
        if self.path is None and (self.name == "letters") == (self.folder is not None):
            raise ValueError(
                "data.folder is not needed for letters, which come with the package"
                if self.folder is not None
                else f"data.name = {self.name} needs data.folder, where its files lie"
            )

    def load(self) -> ClassificationData:
        """Read the data as they are, without corruption.

        Raises:
            FileNotFoundError, ValueError: the files are missing or damaged.
        """
        if self.path is not None:
            return load_table(self.path, self.test)
        if self.folder is not None:
            return SETS[self.name].load(self.folder)
        return load_letters()

    def corrupt(self, data: ClassificationData, seed: int) -> Corruption:
        """Draw what becomes of the data; `Corruption.apply` gives what is trained on."""
        return Corruption.draw(data.train_y, data.test_y, data.num_classes, self, seed=seed)

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
        values["folder" if values.get("name", "letters") != "letters" else "path"] = where
        return cls(**values)

    def _content(self) -> str | None:
        if self.path is not None:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        return SETS[self.name].content(self.folder) if self.folder is not None else None
