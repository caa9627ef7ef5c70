"""Uncertainty over several forward passes with dropout on (MC dropout)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.registry import register

# Of H[mean p], mean H[p] and mean CE.
_FORMULAS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bald": lambda predictive, conditional, loss: predictive - conditional,
    "predictive_entropy": lambda predictive, conditional, loss: predictive,
    "conditional_entropy": lambda predictive, conditional, loss: conditional,
    "loss_minus_entropy": lambda predictive, conditional, loss: loss - conditional,
    "loss_plus_entropy": lambda predictive, conditional, loss: loss + conditional,
}


@dataclass(frozen=True)
class MonteCarlo:
    """Top k of an uncertainty over K passes with dropout, p_k = softmax of pass k.

    `bald` = H[E_k p_k] - E_k H[p_k] (Houlsby et al., 2011; by dropout: Gal et al., ICML
    2017); `predictive_entropy` = H[E_k p_k]; `conditional_entropy` = E_k H[p_k];
    `loss_minus_entropy` = E_k CE_k - E_k H[p_k]; `loss_plus_entropy` = E_k CE_k + E_k H[p_k]; the
    baselines of the RHO-LOSS code. H is the entropy in nats, E_k the mean over the passes. The
    losses that are reported are those of the mean prediction, -log E_k p_k[y].

    Args:
        score: one of the five.
        passes: K >= 2.

    Example:
        >>> from torch import nn
        >>> from rho_train import Batch, Selector
        >>> selector = Selector(k=1, method=MonteCarlo("bald", passes=4))
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        >>> small = selector(model, Batch(torch.eye(2), torch.arange(2), torch.tensor([5, 6])))
        >>> small.ids.shape
        torch.Size([1])
    """

    score: str
    passes: int = 10
    needs = ("dropout",)

    def __post_init__(self) -> None:
        if self.score not in _FORMULAS:
            raise ValueError(
                f"MonteCarlo: score must be one of {', '.join(_FORMULAS)}, got {self.score!r}"
            )
        if self.passes < 2:
            raise ValueError(f"MonteCarlo: passes must be at least 2, got {self.passes}")

    def __call__(self, candidates: ScoringContext) -> Selected:
        """Return the k rows with the highest score over the passes."""
        p, conditional, loss = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for logits in candidates.passes(self.passes):
            entropy, ce = candidates.score_logits("entropy", logits)
            p = p.to(logits.device) + logits.float().softmax(1) / self.passes
            conditional = conditional.to(logits.device) + entropy / self.passes
            loss = loss.to(logits.device) + ce / self.passes
        predictive = -torch.special.xlogy(p, p).sum(1)
        scores = _FORMULAS[self.score](predictive, conditional, loss)
        # The softmax of log p is p, and the smallest normal number keeps the logarithm finite.
        log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        return candidates.top(scores, candidates.score_logits("loss", log_p).losses)


for _name in _FORMULAS:
    register(_name)(MonteCarlo(_name))
