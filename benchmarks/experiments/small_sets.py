"""Sets of vectors for experiments with many short runs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.sets import load_fashion_mnist
from experiments.sets.newsgroups import load_newsgroups, load_reuters
from rho_train.tasks import letters

WORDS = 300


class Vectors(NamedTuple):
    """Training inputs float32 (n, d) and labels, a test set, and the number of classes."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


@lru_cache(maxsize=1)
def load(name: str, folder: Path) -> Vectors:
    """Load Letters, Fashion-MNIST at 14 x 14 pixels, or texts as bags of 300 words."""
    if name == "Letters":
        task = letters()
        x, y = task.train.tensors
        test_x, test_y = task.test.tensors
        return Vectors(x, y, test_x, test_y, 26)
    if name == "Fashion-MNIST":
        data = load_fashion_mnist(folder / "fashion-mnist")
        x, test_x = (
            F.avg_pool2d(part.float(), 2).flatten(1) for part in (data.train_x, data.test_x)
        )
        x, test_x = ((part - x.mean()) / x.std() for part in (x, test_x))
    else:
        read = load_reuters if name == "Reuters R52" else load_newsgroups
        data = read(folder / "newsgroups")
        x, test_x = _bags(data.train_x), _bags(data.test_x)
    return Vectors(x, data.train_y, test_x, data.test_y, data.num_classes)


def _bags(tokens: Tensor) -> Tensor:
    """Return log(1 + count) of each word, by rows of the same length; 0 and 1 are no words."""
    found = torch.zeros(len(tokens), WORDS)
    found.scatter_add_(1, tokens.where(tokens < WORDS, 0), torch.ones(tokens.shape))
    found[:, :2] = 0
    return 10 * F.normalize(found.log1p())
