"""Methods by the uncertainty over several forward passes with dropout (MC dropout)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.registry import register
from rho_train.scoring import modes_set, seeded

# Functions of H[mean p], mean H[p] and mean CE.
_FORMULAS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bald": lambda predictive, conditional, loss: predictive - conditional,
    "predictive_entropy": lambda predictive, conditional, loss: predictive,
    "conditional_entropy": lambda predictive, conditional, loss: conditional,
    "loss_minus_entropy": lambda predictive, conditional, loss: loss - conditional,
    "loss_plus_entropy": lambda predictive, conditional, loss: loss + conditional,
}


def dropout_layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model whose training mode differs by dropout alone."""
    return [
        one
        for one in model.modules()
        if (isinstance(one, _DropoutNd) and one.p > 0.0)
        or (isinstance(one, (nn.MultiheadAttention, nn.RNNBase)) and one.dropout > 0.0)
    ]


@dataclass(frozen=True)
class MonteCarlo:
    """Top k of an uncertainty over K passes with dropout, p_k = softmax of pass k.

    `bald` = H[E_k p_k] - E_k H[p_k] (Houlsby et al., 2011; by dropout: Gal et al., ICML
    2017); `predictive_entropy` = H[E_k p_k]; `conditional_entropy` = E_k H[p_k];
    `loss_minus_entropy` = E_k CE_k - E_k H[p_k]; `loss_plus_entropy` = E_k CE_k + E_k H[p_k]; the
    baselines of the RHO-LOSS code. H is the entropy in nats, E_k the mean over K = `passes` >= 2.
    The reported losses are those of the mean prediction, -log E_k p_k[y].

    Example:
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
            known = ", ".join(_FORMULAS)
            raise ValueError(f"MonteCarlo: score must be one of {known}, got {self.score!r}")
        if self.passes < 2:
            raise ValueError(f"MonteCarlo: passes must be at least 2, got {self.passes}")

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest score over the passes."""
        p = conditional = loss = torch.zeros_like(context.ids[0], dtype=torch.float32)
        seed = int(torch.randint(2**31, (), generator=context.generator, device="cpu"))
        model = context.passes.module
        # In eval mode an encoder layer may take torch's fast path, which has no dropout.
        encoders = [one for one in model.modules() if isinstance(one, nn.TransformerEncoderLayer)]
        layers = [*dropout_layers(model), *encoders]
        with modes_set(layers, True), seeded(context.ids.device, seed):
            for _ in range(self.passes):
                logits = context.passes.logits()
                entropy, ce = context.score_logits("entropy", logits)
                p = p + logits.float().softmax(1) / self.passes
                conditional = conditional + entropy / self.passes
                loss = loss + ce / self.passes
        predictive = -torch.special.xlogy(p, p).sum(1)
        scores = _FORMULAS[self.score](predictive, conditional, loss)
        # The softmax of log p is p, and the smallest normal number keeps the logarithm finite.
        log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        return context.top(scores, context.score_logits("loss", log_p).losses)


for _name in _FORMULAS:
    register(_name)(MonteCarlo(_name))
