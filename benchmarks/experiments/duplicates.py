"""Examples that occur more than once: in the training part, or in both parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.texts import words_of
from rho_train.tasks import ImageFiles


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Rows that occur more than once.

    Args:
        test_rows: int64, the test rows that occur in the training part too.
        train_rows: int64, the training rows that occur in the test part too.
        repeated: int64, the training rows that occurred before in the training part.
        conflicting: int64, those of `repeated` that have another label than the first.
    """

    test_rows: Tensor
    train_rows: Tensor
    repeated: Tensor
    conflicting: Tensor

    def __str__(self) -> str:
        return (
            f"{len(self.test_rows):,} test rows are in the training part; "
            f"{len(self.repeated):,} training rows occurred before, "
            f"{len(self.conflicting):,} with another label"
        )


def find_duplicates(data: ClassificationData) -> Duplicates:
    """Find examples that are equal, whatever their labels.

    Features and images are equal when all their numbers are, files when their bytes are, texts
    when their words are, in lower case and without punctuation.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [1.0]])
        >>> data = ClassificationData(train_x=x, train_y=torch.tensor([0, 1, 1]), test_x=x[1:2],
        ...     test_y=torch.tensor([1]), num_classes=2, name="three")
        >>> print(find_duplicates(data))
        1 test rows are in the training part; 1 training rows occurred before, 1 with another label
    """
    digests = [
        *_digests(data.train_x, data.train_texts),
        *_digests(data.test_x, data.test_texts),
    ]
    groups = np.unique(np.array(digests), return_inverse=True)[1]
    train, test = np.split(groups, [len(data.train_y)])
    _, first, group = np.unique(train, return_index=True, return_inverse=True)
    before = first[group]
    repeated = before != np.arange(len(train))
    labels = data.train_y.numpy()
    return Duplicates(
        _rows(np.isin(test, train)),
        _rows(np.isin(train, test)),
        _rows(repeated),
        _rows(repeated & (labels != labels[before])),
    )


def without_duplicates(data: ClassificationData) -> ClassificationData:
    """Return the data without the training rows that occurred before or are in the test part.

    The test part stays as it is. See `find_duplicates`.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [1.0]])
        >>> data = ClassificationData(train_x=x, train_y=torch.tensor([0, 1, 1]), test_x=x[1:2],
        ...     test_y=torch.tensor([1]), num_classes=2, name="three")
        >>> without_duplicates(data).train_x.tolist()
        [[1.0]]
    """
    found = find_duplicates(data)
    kept = torch.ones(len(data.train_y), dtype=torch.bool)
    kept[found.train_rows] = False
    kept[found.repeated] = False
    return data.take(train=kept.nonzero().flatten())


def _digests(x: Tensor | ImageFiles, texts: tuple[str, ...] | None) -> Iterator[bytes]:
    """Hash each example; 128 bits do not meet by chance."""
    if texts is not None:
        contents: Iterator[bytes] = (" ".join(words_of(text)).encode() for text in texts)
    elif isinstance(x, ImageFiles):
        contents = (path.read_bytes() for path in x.paths)
    else:
        contents = (row.tobytes() for row in x.numpy())
    # As hexadecimal text: arrays of bytes lose zeros at the end.
    return (hashlib.blake2b(content, digest_size=16).hexdigest().encode() for content in contents)


def _rows(mask: npt.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))
