"""A multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from rho_train.models.seeded import seeded


def mlp(
    inputs: int, hidden: Sequence[int], classes: int, *, seed: int, dropout: float = 0.0
) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU, x (n, inputs) to logits (n, classes).

    With `dropout` > 0 each hidden layer ends in dropout of that rate. The initial weights depend on
    the sizes and `seed` alone; the global generator is left as it was.

    Example:
        >>> import torch
        >>> mlp(16, [256, 256], 26, seed=0)(torch.zeros(2, 16)).shape
        torch.Size([2, 26])
        >>> [type(layer).__name__ for layer in mlp(16, [8], 2, seed=0, dropout=0.1)]
        ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    sizes = [inputs, *hidden]
    with seeded(seed):
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
            if dropout > 0.0:
                layers.append(nn.Dropout(dropout))
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
