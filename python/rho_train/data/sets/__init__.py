"""The data sets that are known by name, each loaded from the folder that holds its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rho_train.data.classification import ClassificationData
from rho_train.data.letters import load_letters
from rho_train.data.sets.idx import load_fashion_mnist, load_mnist, load_qmnist, read_idx

SetName = Literal["letters", "fashion_mnist", "mnist", "qmnist"]


@dataclass(frozen=True)
class KnownSet:
    """How a set is loaded, and which of the files in its folder make it up."""

    load: Callable[[Path], ClassificationData]
    files: tuple[str, ...]

    def content(self, folder: Path) -> str:
        """Return the SHA-256 of the names and contents of the files in a folder."""
        digest = hashlib.sha256()
        for path in sorted(path for name in self.files for path in Path(folder).glob(name)):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


SETS: dict[str, KnownSet] = {
    "letters": KnownSet(lambda _: load_letters(), ()),
    "fashion_mnist": KnownSet(load_fashion_mnist, ("*-ubyte", "*-ubyte.gz")),
    "mnist": KnownSet(load_mnist, ("*-ubyte", "*-ubyte.gz")),
    "qmnist": KnownSet(load_qmnist, ("qmnist-*",)),
}

__all__ = ["SETS", "SetName", "load_fashion_mnist", "load_mnist", "load_qmnist", "read_idx"]
