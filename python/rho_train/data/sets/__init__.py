"""The data sets that are known by name, each loaded from the folder that holds its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rho_train.data.sets.cifar import load_cifar10, load_cifar100
from rho_train.data.sets.folders import load_cinic10, load_clothing1m, load_image_folder
from rho_train.data.sets.idx import load_fashion_mnist, load_mnist, load_qmnist, read_idx
from rho_train.data.sets.newsgroups import load_newsgroups
from rho_train.data.sets.ocr import load_ocr
from rho_train.data.sets.tweets import load_tweets
from rho_train.tasks.classification import ClassificationData
from rho_train.tasks.text_table import load_text_table

SetName = Literal[
    "letters",
    "fashion_mnist",
    "mnist",
    "qmnist",
    "ocr",
    "tweets",
    "newsgroups",
    "cifar10",
    "cifar100",
    "cinic10",
    "clothing1m",
    "image_folder",
]


@dataclass(frozen=True)
class KnownSet:
    """How a set is loaded from its folder.

    Args:
        load: called with the folder, and with those of the options that it takes.
        files: patterns of the files that make it up.
        takes: names of its options.
        lazy: whether its files are read later, one by one.
    """

    load: Callable[..., ClassificationData]
    files: tuple[str, ...]
    takes: tuple[str, ...] = ()
    lazy: bool = False

    def content(self, folder: Path) -> str:
        """Return a SHA-256 of the files: of names and contents, or sizes where they are lazy."""
        digest = hashlib.sha256()
        for path in sorted({path for name in self.files for path in Path(folder).glob(name)}):
            if path.is_file():
                content = str(path.stat().st_size).encode() if self.lazy else path.read_bytes()
                digest.update(path.relative_to(folder).as_posix().encode())
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


_IDX = ("*-ubyte", "*-ubyte.gz")
_TEXT = ("min_count", "max_len")
SETS: dict[str, KnownSet] = {
    "fashion_mnist": KnownSet(load_fashion_mnist, _IDX),
    "mnist": KnownSet(load_mnist, _IDX),
    "qmnist": KnownSet(load_qmnist, ("qmnist-*",)),
    "ocr": KnownSet(load_ocr, ("letters.pickle*",)),
    "tweets": KnownSet(load_tweets, ("aggregatedCorpus*.csv*",), _TEXT),
    "newsgroups": KnownSet(load_newsgroups, ("20newsgroups-t*.tab*",), _TEXT),
    "cifar10": KnownSet(load_cifar10, ("*_batch*", "batches.meta*")),
    "cifar100": KnownSet(load_cifar100, ("train*", "test*", "meta*", "*_names.txt")),
    "cinic10": KnownSet(load_cinic10, ("train/**/*", "test/**/*"), ("size",), lazy=True),
    "clothing1m": KnownSet(load_clothing1m, ("**/*",), ("size",), lazy=True),
    "image_folder": KnownSet(load_image_folder, ("train/**/*", "test/**/*"), ("size",), lazy=True),
}
"""The sets by name, letters left out, which come with the package."""

__all__ = [
    "SETS",
    "SetName",
    "load_cifar10",
    "load_cifar100",
    "load_cinic10",
    "load_clothing1m",
    "load_fashion_mnist",
    "load_image_folder",
    "load_mnist",
    "load_newsgroups",
    "load_ocr",
    "load_qmnist",
    "load_text_table",
    "load_tweets",
    "read_idx",
]
