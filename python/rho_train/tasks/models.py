"""Small models of the built-in tasks; initial weights depend on a seed alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.scoring import seeded

_CPU = torch.device("cpu")
_FLOAT: Any = {"device": _CPU, "dtype": torch.float32}  # whatever the defaults are


class Pixels(nn.Module):
    """Map bytes 0 to 255 to float32 -1 to 1, as the paper normalises CIFAR by (.5, .5, .5)."""

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 of any shape to float32 of the same shape."""
        return images.float() / 127.5 - 1.0


def mlp(
    inputs: int, hidden: Sequence[int], classes: int, *, seed: int, dropout: float = 0.0
) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU and dropout, x (n, inputs) to logits (n, classes).

    Examples:
        >>> mlp(16, [256, 256], 26, seed=0)(torch.zeros(2, 16)).shape
        torch.Size([2, 26])
    """
    check_widths(hidden)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    sizes = [inputs, *hidden]
    with seeded(_CPU, seed):
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b, **_FLOAT), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes, **_FLOAT))


def cnn(
    shape: Sequence[int], classes: int, widths: Sequence[int] = (16, 32, 128), *, seed: int
) -> nn.Sequential:
    """Build a convolutional network, images uint8 (n, channels, height, width) to logits (n, C).

    A 3x3 convolution, ReLU and 2x2 maximum for each width but the last, that of a hidden layer.

    Examples:
        >>> cnn((1, 28, 28), 10, seed=0)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """
    check_widths(widths)
    channels, height, width = shape
    *convolutions, hidden = widths
    pixels = (height >> len(convolutions)) * (width >> len(convolutions))
    if pixels < 1:
        problem = f"{height} x {width} pixels cannot be halved {len(convolutions)} times"
        raise ValueError(f"cnn: images of {problem}; give fewer widths")
    with seeded(_CPU, seed):
        layers: list[nn.Module] = [Pixels()]
        for width in convolutions:
            convolution = nn.Conv2d(channels, width, 3, padding=1, **_FLOAT)
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        layers += [nn.Flatten(), nn.Linear(channels * pixels, hidden, **_FLOAT), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden, classes, **_FLOAT))


def embedding_bag(
    vocabulary: int, classes: int, widths: Sequence[int] = (64,), *, seed: int
) -> nn.Sequential:
    """Build a bag of embeddings, token ids int64 (n, length) to logits (n, C).

    The mean embedding of the first width, without padding (id 0), then layers of the others.

    Examples:
        >>> embedding_bag(1000, 3, seed=0)(torch.tensor([[5, 7, 0], [9, 0, 0]])).shape
        torch.Size([2, 3])
    """
    check_widths(widths)
    with seeded(_CPU, seed):
        bag = nn.EmbeddingBag(vocabulary, widths[0], mode="mean", padding_idx=0, **_FLOAT)
        return nn.Sequential(bag, *mlp(widths[0], widths[1:], classes, seed=seed + 1))


def check_widths(widths: Sequence[int]) -> None:
    """Refuse widths of layers that are no positive integers."""
    if not isinstance(widths, Sequence) or any(type(w) is not int or w < 1 for w in widths):
        raise ValueError(f"widths of hidden layers must be positive integers, got {widths!r}")
