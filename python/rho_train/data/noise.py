"""Label noise that is known point by point, to see what a method selects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rho_train.data.rng import generator


class NoisyLabels(NamedTuple):
    """Labels after noise, int64 (n,), and which of them are wrong now, bool (n,)."""

    labels: Tensor
    noisy: Tensor


def uniform_label_noise(labels: Tensor, rate: float, num_classes: int, *, seed: int) -> NoisyLabels:
    """Give a share of the points a label drawn uniformly over all classes.

    As in the paper's code, a fixed count of round(rate * n) distinct points is hit, and the new
    label may be the true one, so the expected share of wrong labels is rate * (C - 1) / C.
    `noisy` marks only labels that changed. The result depends on the arguments alone, so a
    point keeps its noise in every run, subset and shuffle.

    Args:
        labels: integer tensor (n,) of class indices in [0, C); it is not modified.
        rate: share of the points in [0, 1].
        num_classes: C.
        seed: seed of a private generator.

    Raises:
        ValueError: a rate outside [0, 1], a label outside [0, C), or a wrong shape.
        TypeError: labels that are not an integer tensor.

    Example:
        >>> result = uniform_label_noise(torch.zeros(1000, dtype=torch.int64), 0.1, 10, seed=0)
        >>> bool((result.labels != 0).equal(result.noisy)), int(result.noisy.sum()) <= 100
        (True, True)
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"uniform_label_noise: labels must be an integer tensor (n,), got {got}")
    if labels.ndim != 1:
        raise ValueError(
            f"uniform_label_noise: labels must have shape (n,), got {tuple(labels.shape)}"
        )
    if not 0 <= rate <= 1:
        raise ValueError(
            f"uniform_label_noise: rate must lie in [0, 1], got {rate}; 0.1 hits 10 % of the points"
        )
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"uniform_label_noise: labels must lie in [0, num_classes = {num_classes}), got "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    private = generator(seed, "uniform label noise")
    hit = torch.randperm(len(labels), generator=private)[: round(rate * len(labels))]
    clean = labels.to("cpu", torch.int64)
    result = clean.clone()
    result[hit] = torch.randint(num_classes, hit.shape, generator=private)
    return NoisyLabels(result, result != clean)
