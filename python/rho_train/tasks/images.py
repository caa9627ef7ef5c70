"""The built-in task `images`: image files in folders that are named by their class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import StackDataset

from rho_train.tasks.image_files import ImageFiles
from rho_train.tasks.models import Pixels, cnn, mlp
from rho_train.tasks.task import Task

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def images(
    folder: Path,
    size: int = 64,
    model: str = "cnn",
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    il_hidden: Sequence[int] = (),
) -> Task:
    """Make a task from train/CLASS/FILE and test/CLASS/FILE, in subfolders of a class too.

    Every file is opened here, so that none that cannot be read stops a training.

    Args:
        folder: that holds the folders train and test.
        size: height and width that images are cut to, in pixels.
        model: cnn or mlp.
        hidden: widths of its layers, see `cnn`; none: 16, 32, 128 of the cnn, 256, 256 of the mlp.
        dropout: of the mlp: rate after each hidden layer, in [0, 1).
        il_hidden: widths of the model of the irreducible losses; none: as `hidden`.

    Raises:
        FileNotFoundError: a folder is missing, or there is no image in one of them.
        ValueError: a class of the test set has no folder in train, files are no images, or the
            model does not fit.
        ImportError: Pillow is missing.

    Example:
        >>> images(Path("flowers"), size=64)  # doctest: +SKIP
    """
    classes, train, test = image_folders("images", folder, size)
    if model not in ("cnn", "mlp"):
        raise ValueError(f"images: model must be cnn or mlp, got {model!r}")
    if model == "cnn" and dropout:
        raise ValueError(f"images: the cnn has no dropout, got {dropout}; choose model = mlp, or 0")

    def make(widths: Sequence[int], seed: int) -> nn.Module:
        shape = train[0].shape[1:]
        if model == "cnn":
            return cnn(shape, len(classes), widths or (16, 32, 128), seed=seed)
        layers = mlp(
            math.prod(shape), widths or (256, 256), len(classes), seed=seed, dropout=dropout
        )
        return nn.Sequential(Pixels(), nn.Flatten(), *layers)

    return Task(
        name=Path(folder).resolve().name,
        train=StackDataset(*train),  # type: ignore[arg-type]
        test=StackDataset(*test),  # type: ignore[arg-type]
        labels=train[1],
        test_labels=test[1],
        make_model=lambda seed: make(hidden, seed),
        make_il_model=lambda seed: make(il_hidden or hidden, seed),
        classes=classes,
    )


def image_folders(
    where: str, folder: Path, size: int
) -> tuple[tuple[str, ...], tuple[ImageFiles, Tensor], tuple[ImageFiles, Tensor]]:
    """Find and open the images in folder/train and folder/test; errors as of `images`.

    Returns:
        The classes, which are the folders in train, in order; files and labels int64 (n,) of both.
    """
    folder = Path(folder)
    for part in (folder / "train", folder / "test"):
        if not part.is_dir():
            raise FileNotFoundError(f"{where}: there is no folder {part}; wanted train and test")
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    others = {path.name for path in (folder / "test").iterdir() if path.is_dir()} - set(classes)
    if others:
        raise ValueError(
            f"{where}: the test set has classes that train has not: {', '.join(sorted(others))}"
        )
    train, test = (_files(where, folder / part, classes, size) for part in ("train", "test"))
    return tuple(classes), train, test


def _files(
    where: str, folder: Path, classes: Sequence[str], size: int
) -> tuple[ImageFiles, Tensor]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in _IMAGES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise FileNotFoundError(f"{where}: there is no image in the folders of {folder}")
    files = ImageFiles(paths, size)
    files.probe()
    return files, torch.tensor(labels, dtype=torch.int64)
