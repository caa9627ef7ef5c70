"""Images that stay files until they are indexed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class ImageFiles(Sequence[Tensor]):
    """Image files as a sequence of tensors uint8 (3, size, size), read with Pillow on access.

    The shorter side is scaled to `size` and the middle is cut out, as the paper does for
    Clothing-1M (its appendix B: 256, then 224). One index gives one image, a slice a batch
    (n, 3, size, size), a tensor of rows the files of these rows.

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
        >>> images = ImageFiles([path, path], size=8)
        >>> images.shape, images[0].shape, images[0:2].dtype
        ((2, 3, 8, 8), torch.Size([3, 8, 8]), torch.uint8)
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        if operator.index(size) < 1:
            raise ValueError(f"ImageFiles: size must be at least 1 pixel, got {size}")
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "ImageFiles: image files need Pillow; pip install 'rho-ext[images]'"
            ) from error
        self.paths = tuple(paths)
        self.size = size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of the tensor that holds all images."""
        return (len(self), 3, self.size, self.size)

    def probe(self) -> None:
        """Open every file and read its header.

        Raises:
            ValueError: some are no readable images; the message names the first.
        """
        from PIL import Image

        bad: list[tuple[Path, Exception]] = []
        for path in self.paths:
            try:
                Image.open(path).close()
            except OSError as error:
                bad.append((path, error))
        if bad:
            raise _unreadable(*bad[0], more=len(bad) - 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor | ImageFiles:  # type: ignore[override]
        if isinstance(index, Tensor):
            return ImageFiles([self.paths[row] for row in index.tolist()], self.size)
        if isinstance(index, slice):
            images = [self._read(path) for path in self.paths[index]]
            return torch.stack(images) if images else torch.empty(0, *self.shape[1:])
        return self._read(self.paths[index])

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (self.size, self.size))
        except OSError as error:
            raise _unreadable(path, error) from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()


def _unreadable(path: Path, error: Exception, more: int = 0) -> ValueError:
    others = f", and {more} others" if more else ""
    return ValueError(
        f"ImageFiles: {path} is no readable image ({error}){others}; restore it, or take it out of "
        "the data set"
    )
