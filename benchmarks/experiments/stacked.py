"""Many small MLPs trained at once: the runs of an experiment as one batch of matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stack:
    """R multilayer perceptrons with ReLU and a learning rate each, trained by AdamW.

    Example:
        >>> models = [nn.Sequential(nn.Linear(3, 2)) for _ in range(4)]
        >>> Stack(models)(torch.zeros(4, 5, 3)).shape
        torch.Size([4, 5, 2])
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        layers = zip(
            *([one for one in model.modules() if isinstance(one, nn.Linear)] for model in models),
            strict=True,
        )
        self.parameters = list[Tensor]()
        for same in layers:
            weight = torch.stack([layer.weight.detach().T for layer in same])
            bias = torch.stack([layer.bias.detach()[None] for layer in same])
            self.parameters += [weight.requires_grad_(), bias.requires_grad_()]
        self.restart()

    def restart(self) -> None:
        """Forget the moments of AdamW, as a new optimizer."""
        self.moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in self.parameters]
        self.steps = 0

    def __call__(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """Map x (R, n, d) to logits (R, n, C), row r by model r; or those of some models."""
        for place in range(0, len(self.parameters), 2):
            x = x.relu() if place else x
            weight, bias = self.parameters[place : place + 2]
            x = torch.baddbmm(bias[rows], x, weight[rows])
        return x

    def train_step(self, x: Tensor, y: Tensor, lr: Tensor) -> None:
        """Take a step on the mean cross-entropy of each row; a model with the rate 0 stays."""
        losses = F.cross_entropy(self(x).flatten(0, 1), y.flatten(), reduction="sum")
        gradients = torch.autograd.grad(losses / y.shape[1], self.parameters)
        self.steps += 1
        rate = lr[:, None, None]
        # The corrections of both moments, as of torch.optim.AdamW.
        first, second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        with torch.no_grad():
            for one, (m, v), gradient in zip(self.parameters, self.moments, gradients, strict=True):
                m.lerp_(gradient, 0.1)
                v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                change = (m / first).div_((v / second).sqrt_().add_(1e-8)).add_(one, alpha=0.01)
                one.sub_(change.mul_(rate))
