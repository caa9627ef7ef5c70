"""CIFAR-10 and CIFAR-100, in the binary version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.sets.files import find, read

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_TEN = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


def load_cifar10(folder: Path) -> ClassificationData:
    """Load CIFAR-10 from a folder of data_batch_1.bin to 5 and test_batch.bin.

    50,000 training and 10,000 test images in 10 classes, uint8 (n, 3, 32, 32). Krizhevsky (2009).

    Args:
        folder: as the archive of the binary version unpacks it: cifar-10-batches-bin.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.

    Example:
        >>> load_cifar10(Path("cifar-10-batches-bin"))  # doctest: +SKIP
    """
    return _load("load_cifar10", folder, _TEN, ("test_batch",), 10, "batches.meta.txt")


def load_cifar100(folder: Path) -> ClassificationData:
    """Load CIFAR-100 from a folder of train.bin and test.bin.

    50,000 training and 10,000 test images in 100 (fine) classes, uint8 (n, 3, 32, 32). Krizhevsky
    (2009).

    Args:
        folder: as the archive of the binary version unpacks it: cifar-100-binary.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.

    Example:
        >>> load_cifar100(Path("cifar-100-binary"))  # doctest: +SKIP
    """
    return _load("load_cifar100", folder, ("train",), ("test",), 100, "fine_label_names.txt")


def _load(
    where: str, folder: Path, train: Sequence[str], test: Sequence[str], classes: int, names: str
) -> ClassificationData:
    (train_x, train_y), (test_x, test_y) = (
        _part(where, folder, part, classes) for part in (train, test)
    )
    beside = Path(folder) / names
    found = tuple(beside.read_text(encoding="utf-8").split()) if beside.is_file() else ()
    return ClassificationData(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        num_classes=classes,
        name=f"CIFAR-{classes}",
        attribution="Krizhevsky, A. (2009). Learning Multiple Layers of Features from Tiny Images",
        kind="image",
        classes=found if len(found) == classes else (),
        licence="none stated",
        source="Krizhevsky (2009), University of Toronto",
        split="as published",
    )


def _part(where: str, folder: Path, names: Sequence[str], classes: int) -> tuple[Tensor, Tensor]:
    # A row is the label (of CIFAR-100 the coarse one, then the fine one), then the pixels.
    before = 1 if classes == 10 else 2
    parts = []
    for name in names:
        path = find(where, folder, f"{name}.bin")
        content = np.frombuffer(read(where, path), np.uint8)
        if not len(content) or len(content) % (before + _PIXELS):
            raise ValueError(
                f"{where}: {path} has {len(content)} bytes, which are no whole rows of "
                f"{before + _PIXELS}; fetch it again"
            )
        rows = content.reshape(-1, before + _PIXELS)
        if (highest := rows[:, before - 1].max()) >= classes:
            raise ValueError(f"{where}: {path} must have labels in [0, {classes}), got {highest}")
        parts.append(rows)
    rows = np.concatenate(parts)
    y = torch.from_numpy(rows[:, before - 1].astype(np.int64))
    return torch.from_numpy(rows[:, before:].copy()).reshape(-1, *_SHAPE), y
