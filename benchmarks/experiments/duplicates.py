"""Data of the experiments without examples that occur more than once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from experiments.classification import ClassificationData
from experiments.texts import words_of
from rho_train import IndexedDataset, find_duplicates
from rho_train.tasks import ImageFiles


def without_duplicates(data: ClassificationData) -> ClassificationData:
    """Return the data without the training rows that occurred before or are in the test part.

    The test part stays as it is. Features and images are equal when all their numbers are, files
    when their bytes are, texts when their words are, in lower case and without punctuation.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [1.0]])
        >>> data = ClassificationData(train_x=x, train_y=torch.tensor([0, 1, 1]), test_x=x[1:2],
        ...     test_y=torch.tensor([1]), num_classes=2, name="three")
        >>> without_duplicates(data).train_x.tolist()
        [[1.0]]
    """
    train = _inputs(data.train_x, data.train_texts)
    test = _inputs(data.test_x, data.test_texts)
    labels = torch.cat([data.test_y, data.train_y])
    pairs = list(zip([*test, *train], labels.tolist(), strict=True))
    first = find_duplicates(IndexedDataset(pairs, labels=labels))[len(test) :] - len(test)
    kept = first == torch.arange(len(train))
    return data.take(train=kept.nonzero().flatten())


def _inputs(x: Any, texts: tuple[str, ...] | None) -> Sequence[Any]:
    if texts is not None:
        return [" ".join(words_of(text)) for text in texts]
    return [path.read_bytes() for path in x.paths] if isinstance(x, ImageFiles) else x
