"""The built-in task `images`: image files in folders that are named by their class."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import parent_process
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import StackDataset

from rho_train.checks import MakeModel, check_test
from rho_train.rng import generator
from rho_train.tasks.models import cnn
from rho_train.tasks.task import Task

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_BAD_SHOWN = 20


def images(
    folder: Path,
    size: int = 64,
    hidden: Sequence[int] = (16, 32, 128),
    il_hidden: Sequence[int] = (),
    test: int = 0,
) -> Task:
    """Make a task from train/CLASS/FILE and test/CLASS/FILE, or from CLASS/FILE by `test`.

    Files may lie in subfolders of a class; classes are numbered by the alphabet. Names that begin
    with a dot, and __MACOSX, are left out. All files are decoded here once.

    Args:
        folder: that holds the folders train and test, or those of the classes.
        size: height and width that images are cut to, in pixels.
        hidden: widths of the layers, see `cnn`.
        il_hidden: widths of the model of the irreducible losses; none: as `hidden`.
        test: how many images are drawn for the test set where no folder test holds it.

    Raises:
        FileNotFoundError: a folder is missing, or there is no image in one of them.
        ValueError: a file is no image, the model does not fit, or `test` leaves no image.
    """
    folder = Path(folder)
    parts = [folder / "train", folder / "test"]
    if test:
        if any(part.is_dir() for part in parts):
            raise ValueError(f"images: {folder} has a folder train or test; leave test={test} out")
        parts = [folder]
    for part in parts:
        if not part.is_dir():
            wanted = "train/CLASS/FILE and test/CLASS/FILE, or CLASS/FILE and test=N"
            raise FileNotFoundError(f"images: there is no folder {part}; wanted {wanted}")
    folders = {path.name: path for part in parts for path in part.iterdir() if path.is_dir()}
    classes = sorted(name for name in folders if _is_shown(name))
    found = [_found(part, classes) for part in parts]
    if test:
        files = found[0]
        check_test(f"images: {folder}", test, len(files))
        private = generator(0, "test images")
        order = torch.randperm(len(files), generator=private, device="cpu").tolist()
        found = [[files[i] for i in sorted(part)] for part in (order[test:], order[:test])]
    train, tests = (_dataset(files, size) for files in found)

    def make(widths: Sequence[int]) -> MakeModel:
        return lambda seed: cnn((3, size, size), len(classes), widths, seed=seed)

    return Task(
        name=folder.resolve().name,
        train=train,
        test=tests,
        labels=train.datasets[1],
        test_labels=tests.datasets[1],
        make_model=make(hidden),
        make_il_model=make(il_hidden or hidden),
        classes=tuple(classes),
        show=lambda index: train.datasets[0].paths[index],
    )


def _found(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return the files of images, and the label of each."""
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _IMAGES
        and all(map(_is_shown, path.relative_to(folder).parts))
        and not path.is_dir()
    ]
    if not found:
        raise FileNotFoundError(f"images: there is no image in the folders of {folder}")
    return found


def _dataset(found: Sequence[tuple[Path, int]], size: int) -> StackDataset[Any]:
    """Return images and labels."""
    files = ImageFiles([path for path, _ in found], size)
    files.probe()
    labels = torch.tensor([label for _, label in found], dtype=torch.int64, device="cpu")
    return StackDataset(files, labels)  # type: ignore[arg-type]


class ImageFiles(Sequence[Tensor]):
    """Image files as a sequence of tensors uint8 (3, size, size), read with Pillow on access.

    The shorter side is scaled to `size` and the middle cut out, as in the paper's appendix B for
    Clothing-1M. Images are turned as their EXIF tag says, and white is put behind what is
    transparent. A tensor of rows gives the files of these rows. A file that is no readable image is
    a ValueError.

    Examples:
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
        self.paths, self.size = tuple(paths), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | Tensor) -> Any:  # type: ignore[override]
        from PIL import ImageOps

        if isinstance(index, Tensor):
            return ImageFiles([self.paths[row] for row in index.tolist()], self.size)
        fitted = ImageOps.fit(_decoded(self.paths[index]), (self.size, self.size))
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()

    def probe(self) -> None:
        """Decode every file once in this process, on all cores, and name those that are bad."""
        from PIL import Image

        if parent_process() is not None:
            return
        stamps = (path.stat().st_mtime_ns if path.exists() else 0 for path in self.paths)
        with warnings.catch_warnings(), ThreadPool() as pool:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            found = pool.starmap(_problem, zip(self.paths, stamps, strict=True), chunksize=64)
        if bad := [problem for problem in found if problem is not None]:
            shown = "\n".join([*bad[:_BAD_SHOWN], "..."][: len(bad)])
            problem = f"{len(bad)} of {len(self)} files are no readable images"
            raise ValueError(f"ImageFiles: {problem}; restore them or take them out:\n{shown}")


def _decoded(path: Path, *, small: bool = False) -> Any:
    """Read an image upright in RGB, on white; `small`: a JPEG at an eighth of its size, faster."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if small:
                image.draft(None, (1, 1))
            with suppress(Exception):  # a damaged EXIF block turns nothing
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode[0] in "IF":  # Pillow would turn all above 255 to white
                raise ValueError(f"pixels of mode {image.mode} have no known range; save 8 bits")
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # Pillow raises errors of many types for damaged files
        problem = f"{path} is no readable image ({error})"
        raise ValueError(f"ImageFiles: {problem}; restore it or take it out") from error


@cache
def _problem(path: Path, _: int) -> str | None:
    """Return why a file that was changed at some time cannot be decoded, None if it can."""
    try:
        _decoded(path, small=True)
    except ValueError as error:
        return f"{path}: {error.__cause__}"
    return None


def _is_shown(name: str) -> bool:
    """Tell names from those that systems hide, such as ._a.png, .DS_Store and __MACOSX."""
    return not name.startswith(".") and name != "__MACOSX"
