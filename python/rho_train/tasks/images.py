"""The built-in task `images`: image files in folders that are named by their class."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import StackDataset

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

    Args:
        folder: that holds the folders train and test.
        size: height and width that images are cut to, in pixels.
        model: cnn or mlp.
        hidden: widths of its layers; none: 16, 32, 128 of the cnn, 256, 256 of the mlp.
        dropout: of the mlp: rate after each hidden layer, in [0, 1).
        il_hidden: widths of the model of the irreducible losses; none: as `hidden`.

    Raises:
        FileNotFoundError: a folder is missing, or there is no image in one of them.
        ValueError: a class of the test set is not in train, a file is no image (all are opened
            here), or the model does not fit.
        ImportError: Pillow is missing.

    Example:
        >>> images(Path("flowers"), size=64)  # doctest: +SKIP
    """
    if model not in ("cnn", "mlp"):
        raise ValueError(f"images: model must be cnn or mlp, got {model!r}")
    if model == "cnn" and dropout:
        raise ValueError(f"images: the cnn has no dropout, got {dropout}; choose model = mlp, or 0")
    folder = Path(folder)
    for part in (folder / "train", folder / "test"):
        if not part.is_dir():
            raise FileNotFoundError(f"images: there is no folder {part}; wanted train and test")
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    others = {path.name for path in (folder / "test").iterdir() if path.is_dir()} - set(classes)
    if others:
        names = ", ".join(sorted(others))
        raise ValueError(f"images: the test set has classes that train has not: {names}")
    train, test = (_Images.read(folder / part, classes, size) for part in ("train", "test"))

    def make(widths: Sequence[int], seed: int) -> nn.Module:
        if model == "cnn":
            return cnn((3, size, size), len(classes), widths or (16, 32, 128), seed=seed)
        layers = mlp(3 * size**2, widths or (256, 256), len(classes), seed=seed, dropout=dropout)
        return nn.Sequential(Pixels(), nn.Flatten(), *layers)

    return Task(
        name=folder.resolve().name,
        train=train,
        test=test,
        labels=train.datasets[1],
        test_labels=test.datasets[1],
        make_model=lambda seed: make(hidden, seed),
        make_il_model=lambda seed: make(il_hidden or hidden, seed),
        classes=tuple(classes),
    )


class _Images(StackDataset[Any]):
    """Images and labels; another version of Pillow may decode a JPEG to slightly other pixels."""

    input_tolerance = 8.0

    @classmethod
    def read(cls, folder: Path, classes: Sequence[str], size: int) -> _Images:
        found = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in _IMAGES
        ]
        if not found:
            raise FileNotFoundError(f"images: there is no image in the folders of {folder}")
        files = ImageFiles([path for path, _ in found], size)
        files.probe()
        return cls(files, torch.tensor([label for _, label in found]))  # type: ignore[arg-type]


class ImageFiles(Sequence[Tensor]):
    """Image files as a sequence of tensors uint8 (3, size, size), read with Pillow on access.

    The shorter side is scaled to `size` and the middle cut out, as in the paper's appendix B for
    Clothing-1M. A tensor of rows gives the files of these rows.

    Args:
        paths: of the files, JPEG or PNG or what else Pillow reads.
        size: height and width in pixels.

    Raises:
        ImportError: Pillow is missing.
        ValueError: `size` is below 1; or, when it is read, a file is no readable image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (30, 20), (255, 0, 0)).save(path)
        >>> ImageFiles([path, path], size=8)[1].shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        if operator.index(size) < 1:
            raise ValueError(f"ImageFiles: size must be at least 1 pixel, got {size}")
        if find_spec("PIL") is None:
            raise ImportError("ImageFiles: image files need Pillow; pip install 'rho-ext[images]'")
        self.paths, self.size = tuple(paths), size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of a tensor of all images."""
        return (len(self), 3, self.size, self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | Tensor) -> Any:  # type: ignore[override]
        from PIL import Image, ImageOps

        if isinstance(index, Tensor):
            return ImageFiles([self.paths[row] for row in index.tolist()], self.size)
        try:
            with Image.open(self.paths[index]) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (self.size, self.size))
        except OSError as error:
            raise _unreadable(self.paths[index], error) from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()

    def probe(self) -> None:
        """Open every file and read its header; name the first that is no readable image."""
        from PIL import Image

        bad = []
        for path in self.paths:
            try:
                Image.open(path).close()
            except OSError as error:
                bad.append(_unreadable(path, error))
        if bad:
            raise ValueError(f"{bad[0]}" + (f" ({len(bad) - 1} more)" if len(bad) > 1 else ""))


def _unreadable(path: Path, error: Exception) -> ValueError:
    fix = "restore it or take it out"
    return ValueError(f"ImageFiles: {path} is no readable image ({error}); {fix}")
