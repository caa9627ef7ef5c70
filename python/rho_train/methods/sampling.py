"""Methods that draw, by the seed of the Selector and the step alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.fused import Scored
from rho_train.methods.registry import register
from rho_train.schedules import Schedule, value_at, values_of


def _check_finite(name: str, number: float | Schedule) -> None:
    if not all(0.0 <= value < math.inf for value in values_of(number)):
        raise ValueError(f"{name} must be finite and at least 0, got {number}")


@register("uniform")
def uniform(context: ScoringContext) -> Selected:
    """Draw k of the n examples without replacement, each set with the same probability.

    No forward pass is made, so no losses are known.

    Example:
        >>> from rho_train import Batch, Selector
        >>> batch = Batch(torch.zeros(4, 2), torch.zeros(4).long(), torch.arange(4))
        >>> Selector(k=4, method="uniform")(torch.nn.Identity(), batch).ids
        tensor([0, 1, 2, 3])
    """
    usable = context.usable
    order = torch.randperm(len(usable), generator=context.generator, device="cpu")[: context.k]
    indices = usable[order.to(usable.device)]
    return Selected(torch.zeros_like(indices, dtype=torch.float32), indices, None)


@register("importance", needs=("logits",))
@dataclass(frozen=True)
class GradNormSampling:
    """Draw k examples with replacement, in proportion to their gradient norm, and weight them.

    `p_i = g_i / sum_j g_j` with `g_i = ||softmax(z_i) - onehot(y_i)||_2`, and `w_i = 1 / (n p_i)`.
    The expectation of the mean of `w_i CE_i` over the draws is the mean of CE over the large batch
    (Katharopoulos and Fleuret, ICML 2018, sections 3.1 and 3.2). Ignored and invalid examples count
    neither for p nor for n.

    Example:
        >>> from rho_train import Batch, Selector
        >>> selector = Selector(k=2, method=GradNormSampling())
        >>> x = torch.tensor([[0.0, 0.0], [99.0, 0.0]])  # the second example is learnt: g = 0
        >>> batch = Batch(x, torch.tensor([0, 0]), torch.tensor([5, 6]))
        >>> selector(torch.nn.Identity(), batch).ids, selector.last.weights
        (tensor([5, 5]), tensor([0.5000, 0.5000]))
    """

    def __call__(self, context: ScoringContext) -> Selected:
        """Return k draws and their weights."""
        norms, losses = context.score("grad_norm")
        # Ignored rows have the score -inf, invalid ones NaN.
        usable, invalid = norms >= 0, norms.isnan().sum()
        count = int(usable.sum())
        if count == 0:
            return context.top(norms)
        p = torch.where(usable, norms, 0.0).double().cpu()
        if not p.any():
            # Everything is learnt: the limit of equal norms.
            p = usable.double().cpu()
        p /= p.sum()
        rows = torch.multinomial(p, context.k, replacement=True, generator=context.generator)
        weights = (1.0 / (count * p[rows])).float().to(norms.device)
        rows = rows.to(norms.device)
        return Selected(norms[rows], rows, losses, invalid, weights)


@register("boltzmann")
@dataclass(frozen=True)
class Boltzmann(Scored):
    """Draw k examples without replacement, one after the other with `p_i ~ exp(score_i / T)`.

    Computed as the top k of `score_i + T G_i` with standard Gumbel noise G, which has the same
    distribution (Gumbel top-k: Kool et al., ICML 2019). The reference code draws with replacement,
    where half of the draws are repeats.

    Args:
        score: one of the fused five.
        temperature: T >= 0, or a schedule of it; 0 is the top k itself.

    Example:
        >>> from rho_train import Batch, Selector
        >>> selector = Selector(k=1, method=Boltzmann("loss", temperature=0.0))
        >>> batch = Batch(torch.tensor([[0.0], [0.0]]), torch.tensor([0, 0]), torch.tensor([5, 6]))
        >>> selector(torch.nn.Identity(), batch).ids
        tensor([5])
    """

    temperature: float | Schedule = 0.25
    pointwise = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_finite("Boltzmann: temperature", self.temperature)

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest score after the noise."""
        temperature = value_at(self.temperature, context.step)
        return context.select(self.score, temperature * context.gumbel())


@register("selective_backprop")
@dataclass(frozen=True)
class SelectiveBackprop:
    """Draw k examples without replacement, one after the other with `p_i ~ CDF(CE_i) ** power`.

    `CDF(c) = #{j: CE_j <= c} / n` is of the large batch. Jiang et al., "Accelerating Deep Learning
    by Focusing on the Biggest Losers" (2019), take that of the last losses, and select each example
    or not by itself. `power` >= 0: 0 is uniform, large values approach the highest losses.

    Example:
        >>> from rho_train import Batch, Selector
        >>> selector = Selector(k=2, method=SelectiveBackprop(power=1.0))
        >>> batch = Batch(torch.zeros(3, 2), torch.tensor([0, 0, -100]), torch.tensor([5, 6, 7]))
        >>> selector(torch.nn.Identity(), batch).ids
        tensor([5, 6])
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        _check_finite("SelectiveBackprop: power", self.power)

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest log-probability after the noise."""
        losses = context.score("loss").scores
        ranked = losses[losses > -torch.inf].sort().values
        cdf = torch.searchsorted(ranked, losses, right=True).float() / max(1, len(ranked))
        scores = self.power * cdf.log() + context.gumbel()
        return context.top(torch.where(losses.isnan(), torch.nan, scores))
