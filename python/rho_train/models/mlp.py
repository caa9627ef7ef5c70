"""A multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from rho_train.models.seeded import seeded


def mlp(inputs: int, hidden: Sequence[int], classes: int, *, seed: int) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU, x (n, inputs) to logits (n, classes).

    The initial weights depend on `seed` alone; the global generator is left as it was.

    Example:
        >>> import torch
        >>> mlp(16, [256, 256], 26, seed=0)(torch.zeros(2, 16)).shape
        torch.Size([2, 26])
    """
    sizes = [inputs, *hidden]
    with seeded(seed):
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
