"""The data sets that are known by name, each loaded from the folder that holds its files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from experiments.classification import ClassificationData
from experiments.sets.cifar import load_cifar10, load_cifar100
from experiments.sets.folders import load_cinic10, load_clothing1m
from experiments.sets.idx import load_fashion_mnist, load_mnist, load_qmnist, read_idx
from experiments.sets.newsgroups import load_newsgroups
from experiments.sets.ocr import load_ocr
from experiments.sets.tweets import load_tweets

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
]


class KnownSet(NamedTuple):
    """The loader of a set, called with its folder and with those of the options that it takes."""

    load: Callable[..., ClassificationData]
    takes: tuple[str, ...] = ()


_TEXT, _IMAGES = ("min_count", "max_len"), ("size",)
SETS: dict[str, KnownSet] = {
    "fashion_mnist": KnownSet(load_fashion_mnist),
    "mnist": KnownSet(load_mnist),
    "qmnist": KnownSet(load_qmnist),
    "ocr": KnownSet(load_ocr),
    "tweets": KnownSet(load_tweets, _TEXT),
    "newsgroups": KnownSet(load_newsgroups, _TEXT),
    "cifar10": KnownSet(load_cifar10),
    "cifar100": KnownSet(load_cifar100),
    "cinic10": KnownSet(load_cinic10, _IMAGES),
    "clothing1m": KnownSet(load_clothing1m, _IMAGES),
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
    "load_mnist",
    "load_newsgroups",
    "load_ocr",
    "load_qmnist",
    "load_tweets",
    "read_idx",
]
