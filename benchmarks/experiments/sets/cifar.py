"""CIFAR-10 and CIFAR-100, in the binary version or the one for Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.sets.files import find, read
from experiments.sets.pickles import load_arrays

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_TEN = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


def load_cifar10(folder: Path) -> ClassificationData:
    """Load CIFAR-10 from a folder of data_batch_1 to 5 and test_batch, with .bin or without.

    50,000 training and 10,000 test images in 10 classes, uint8 (n, 3, 32, 32). Krizhevsky (2009).
    The binary version is read where both are there; that for Python is a pickle, of which only
    arrays are taken.

    Args:
        folder: as the archive unpacks it: cifar-10-batches-bin or cifar-10-batches-py.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.

    Example:
        >>> load_cifar10(Path("cifar-10-batches-bin"))  # doctest: +SKIP
    """
    return _load("load_cifar10", folder, _TEN, ("test_batch",), 10, "labels", "batches.meta")


def load_cifar100(folder: Path) -> ClassificationData:
    """Load CIFAR-100 from a folder of train and test, with .bin or without.

    50,000 training and 10,000 test images in 100 (fine) classes, uint8 (n, 3, 32, 32). Krizhevsky
    (2009).

    Args:
        folder: as the archive unpacks it: cifar-100-binary or cifar-100-python.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.

    Example:
        >>> load_cifar100(Path("cifar-100-binary"))  # doctest: +SKIP
    """
    return _load("load_cifar100", folder, ("train",), ("test",), 100, "fine_labels", "meta")


def _load(
    where: str,
    folder: Path,
    train: Sequence[str],
    test: Sequence[str],
    classes: int,
    labels: str,
    names: str,
) -> ClassificationData:
    (train_x, train_y), (test_x, test_y) = (
        _part(where, folder, part, classes, labels) for part in (train, test)
    )
    return ClassificationData(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        num_classes=classes,
        name=f"CIFAR-{classes}",
        attribution="Krizhevsky, A. (2009). Learning Multiple Layers of Features from Tiny Images",
        kind="image",
        classes=_names(where, folder, names, labels, classes),
        licence="none stated",
        source="Krizhevsky (2009), University of Toronto",
        split="as published",
    )


def _part(
    where: str, folder: Path, names: Sequence[str], classes: int, key: str
) -> tuple[Tensor, Tensor]:
    pixels, labels = [], []
    for name in names:
        path = find(where, folder, f"{name}.bin", name)
        read = _binary if path.name.startswith(f"{name}.bin") else _pickled
        x, y = read(where, path, classes, key)
        if x.shape != (len(y), _PIXELS) or not len(y) or y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"{where}: {path} must hold images of {_PIXELS} bytes with labels in [0, "
                f"{classes}), got {x.shape} and {y.shape}"
            )
        pixels.append(x)
        labels.append(y)
    x, y = np.concatenate(pixels), np.concatenate(labels)
    return torch.from_numpy(x).reshape(-1, *_SHAPE), torch.from_numpy(y.astype(np.int64))


def _binary(
    where: str, path: Path, classes: int, key: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    # A row is the label (of CIFAR-100 the coarse one, then the fine one), then the pixels.
    before = 1 if classes == 10 else 2
    content = np.frombuffer(read(where, path), np.uint8)
    if len(content) % (before + _PIXELS):
        raise ValueError(
            f"{where}: {path} has {len(content)} bytes, which are no whole rows of "
            f"{before + _PIXELS}; fetch it again"
        )
    rows = content.reshape(-1, before + _PIXELS)
    return rows[:, before:], rows[:, before - 1]


def _pickled(
    where: str, path: Path, classes: int, key: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    content = load_arrays(where, path)
    try:
        return np.asarray(content["data"], np.uint8), np.asarray(content[key], np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {path} lacks data or {key} ({error!r})") from error


def _names(where: str, folder: Path, file: str, labels: str, classes: int) -> tuple[str, ...]:
    """Return the names of the classes, which lie beside the images; none if they do not."""
    text = "fine_label_names.txt" if classes == 100 else "batches.meta.txt"
    try:
        path = find(where, folder, text, file)
    except FileNotFoundError:
        return ()
    if path.name == text:
        found = path.read_text(encoding="utf-8").split()
    else:
        key = labels.replace("labels", "label_names")
        content = load_arrays(where, path)
        found = content.get(key, []) if isinstance(content, dict) else []
    return tuple(found) if len(found) == classes else ()
