"""Data sets in IDX files: MNIST, Fashion-MNIST, QMNIST."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.sets.files import find, read

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGITS = tuple("0123456789")
_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_QMNIST_FILES = (
    "qmnist-train-images-idx3-ubyte",
    "qmnist-train-labels-idx2-int",
    "qmnist-test-images-idx3-ubyte",
    "qmnist-test-labels-idx2-int",
)


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Read an IDX file, gzipped if its name ends in .gz.

    The format: two zero bytes, a byte for the type, a byte for the number of dimensions, the
    dimensions as big-endian uint32, then the values, big-endian, last dimension fastest.

    Raises:
        ValueError: the file is no IDX file, cut, or longer than it says.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    content = read("read_idx", Path(path))
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:2] != b"\0\0" or len(content) < start or content[2] not in _DTYPES:
        raise ValueError(
            f"read_idx: {path} is no IDX file (it begins with {content[:4].hex(' ')}, wanted "
            "00 00, a type and the number of dimensions); give the file as it was published"
        )
    dtype = np.dtype(_DTYPES[content[2]])
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    wanted = start + dtype.itemsize * math.prod(shape)
    if len(content) != wanted:
        raise ValueError(
            f"read_idx: {path} has {len(content)} bytes, its header says {wanted} for the shape "
            f"{shape}; fetch it again"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def load_fashion_mnist(folder: Path) -> ClassificationData:
    """Load Fashion-MNIST from the folder of its four IDX files, gzipped or not.

    60,000 training and 10,000 test images of 10 kinds of clothes, uint8 (n, 1, 28, 28). Xiao,
    Rasul and Vollgraf (2017), arXiv 1708.07747, MIT.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or holds other shapes or labels than it should.

    Example:
        >>> load_fashion_mnist(Path("fashion-mnist"))  # doctest: +SKIP
    """
    return _load(
        "load_fashion_mnist",
        folder,
        _MNIST_FILES,
        name="Fashion-MNIST",
        attribution="Xiao, H., Rasul, K., Vollgraf, R. (2017). Fashion-MNIST. arXiv 1708.07747 "
        "(MIT, Zalando SE)",
        classes=_CLOTHES,
        licence="MIT",
        source="Zalando Research, arXiv 1708.07747",
    )


def load_mnist(folder: Path) -> ClassificationData:
    """Load MNIST from the folder of its four IDX files, gzipped or not.

    60,000 training and 10,000 test images of handwritten digits, uint8 (n, 1, 28, 28). LeCun,
    Cortes and Burges (1998). Raises as `load_fashion_mnist`.

    Example:
        >>> load_mnist(Path("mnist"))  # doctest: +SKIP
    """
    return _load(
        "load_mnist",
        folder,
        _MNIST_FILES,
        name="MNIST",
        attribution="LeCun, Y., Cortes, C., Burges, C. (1998). The MNIST database",
        classes=_DIGITS,
        source="LeCun, Cortes and Burges",
    )


def load_qmnist(folder: Path) -> ClassificationData:
    """Load QMNIST from the folder of its four IDX files, gzipped or not.

    60,000 training digits, those of MNIST, and 60,000 test digits, of which the first 10,000 are
    those of MNIST; the other 50,000 are the paper's holdout. uint8 (n, 1, 28, 28). Yadav and
    Bottou (2019), arXiv 1905.10498. Raises as `load_fashion_mnist`.

    Example:
        >>> load_qmnist(Path("qmnist"))  # doctest: +SKIP
    """
    return _load(
        "load_qmnist",
        folder,
        _QMNIST_FILES,
        name="QMNIST",
        attribution="Yadav, C., Bottou, L. (2019). Cold Case: the Lost MNIST Digits. "
        "arXiv 1905.10498",
        classes=_DIGITS,
        source="Yadav and Bottou, arXiv 1905.10498",
    )


def _load(where: str, folder: Path, names: tuple[str, ...], **described: Any) -> ClassificationData:
    parts = []
    for images_name, labels_name in (names[:2], names[2:]):
        images_path, labels_path = (
            find(where, folder, images_name),
            find(where, folder, labels_name),
        )
        images, labels = read_idx(images_path), read_idx(labels_path)
        # QMNIST has eight columns a label: the class, then the writer and other provenance.
        labels = labels[:, 0] if labels.ndim == 2 else labels
        if images.dtype != np.uint8 or images.ndim != 3 or not len(images):
            raise ValueError(
                f"{where}: {images_path} must hold images uint8 (n, height, width), got "
                f"{images.dtype} {images.shape}"
            )
        if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() > 9:
            raise ValueError(
                f"{where}: {labels_path} must hold {len(images)} labels in [0, 10), got "
                f"{labels.shape} from {labels.min()} to {labels.max()}"
            )
        parts.append((_images(images), torch.from_numpy(labels.astype(np.int64))))
    (train_x, train_y), (test_x, test_y) = parts
    return ClassificationData(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        num_classes=10,
        kind="image",
        split="as published",
        **described,
    )


def _images(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).unsqueeze(1)
