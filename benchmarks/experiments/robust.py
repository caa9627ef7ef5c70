"""Rivals of selection that need no second model: robust losses, and skipping of learnt examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class EarlyLearning:
    """Early-learning regularisation (ELR, Liu et al., 2020): pull towards earlier predictions.

    The loss is CE + strength * log(1 - <p, t>); t is the running mean of the predictions p for the
    example, t = momentum * t + (1 - momentum) * p, 4 C bytes an example.

    Example:
        >>> elr = EarlyLearning(3, 2)
        >>> elr.losses(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([2]))
        tensor([0.2056])
    """

    def __init__(self, n: int, classes: int, strength: float = 3.0, momentum: float = 0.7) -> None:
        self.targets = torch.zeros(n, classes)
        self.strength, self.momentum = strength, momentum

    def losses(self, logits: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """Return the losses of a batch, (m,), and learn from its predictions."""
        p = logits.softmax(1).clamp(1e-4, 1 - 1e-4)
        now = p.detach() / p.detach().sum(1, keepdim=True)
        targets = self.targets[ids].lerp_(now, 1 - self.momentum)
        self.targets[ids] = targets
        pull = (1 - (p * targets).sum(1)).log()
        return F.cross_entropy(logits, labels, reduction="none") + self.strength * pull


def infobatch(
    losses: Tensor, progress: float, generator: torch.Generator, ratio: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the examples of a pass in random order, and the weights of all (Qin et al., 2024).

    Of the examples with a last loss below the mean a share `ratio` is skipped, and the others have
    the weight 1 / (1 - ratio), so that the mean gradient stays. In the last eighth of a run, and
    before any loss is known (infinite), all are visited.

    Example:
        >>> ids, weights = infobatch(torch.tensor([1.0, 9.0]), 0.0, torch.Generator(), ratio=1 / 2)
        >>> weights
        tensor([2., 1.])
    """
    low = losses < losses.mean()
    if progress > 0.875 or not losses.isfinite().all():
        low = torch.zeros_like(low)
    skipped = low & (torch.rand(len(losses), generator=generator) < ratio)
    ids = (~skipped).nonzero().flatten()
    order = torch.randperm(len(ids), generator=generator)
    return ids[order], torch.where(low, 1 / (1 - ratio), 1.0)
