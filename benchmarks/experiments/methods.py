"""Rivals of RHO-LOSS that the evidence compares it with, registered as a user's methods are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from rho_train import register
from rho_train.methods import ScoringContext, Selected, needs_of

# Functions of H[mean p], mean H[p] and mean CE.
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
    baselines of the RHO-LOSS code. H is the entropy in nats, E_k the mean over K = `passes` >= 2.
    The reported losses are those of the mean prediction, -log E_k p_k[y].

    Raises:
        ValueError: no such score, too few passes, or the model has no dropout.

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
    needs = ("logits",)

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
        devices = [context.ids.device] if context.ids.is_cuda else []
        with _dropout_on(context.module), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for _ in range(self.passes):
                logits = context.forward_pass()
                entropy, ce = context.score_logits("entropy", logits)
                p = p + logits.float().softmax(1) / self.passes
                conditional = conditional + entropy / self.passes
                loss = loss + ce / self.passes
        predictive = -torch.special.xlogy(p, p).sum(1)
        scores = _FORMULAS[self.score](predictive, conditional, loss)
        # The softmax of log p is p, and the smallest normal number keeps the logarithm finite.
        log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        return context.top(scores, context.score_logits("loss", log_p).losses)


@contextmanager
def _dropout_on(model: nn.Module) -> Iterator[None]:
    """Put the modules whose training mode differs by dropout alone into it."""
    layers = [
        one
        for one in model.modules()
        if (isinstance(one, _DropoutNd) and one.p > 0.0)
        or (isinstance(one, (nn.MultiheadAttention, nn.RNNBase)) and one.dropout > 0.0)
    ]
    if not layers:
        kind = type(model).__name__
        raise ValueError(
            f"MonteCarlo: {kind} has no dropout layers with p > 0; add nn.Dropout, or give the "
            "task dropout=0.1 or so"
        )
    # In eval mode an encoder layer may take torch's fast path, which has no dropout.
    layers += [one for one in model.modules() if isinstance(one, nn.TransformerEncoderLayer)]
    before = [one.training for one in layers]
    for one in layers:
        one.training = True
    try:
        yield
    finally:
        for one, training in zip(layers, before, strict=True):
            one.training = training


for _name in _FORMULAS:
    register(_name)(MonteCarlo(_name))


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
        if not 0.0 <= self.power < math.inf:
            raise ValueError(f"SelectiveBackprop: power must be in [0, inf), got {self.power}")

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest log-probability after the noise."""
        losses = context.score("loss").scores
        usable = losses > -torch.inf
        ranked = torch.where(usable, losses, torch.nan).sort().values  # NaN comes last
        cdf = torch.searchsorted(ranked, losses, right=True).float() / usable.sum().clamp_min(1)
        noise = torch.empty(len(losses), dtype=torch.float64, device="cpu")
        noise.exponential_(generator=context.generator)  # -log of it is Gumbel noise
        scores = self.power * cdf.log() - noise.log().float().to(losses.device, non_blocking=True)
        return context.top(torch.where(losses.isnan(), torch.nan, scores))


@register("class_quota")
@dataclass(frozen=True)
class ClassQuota:
    """Select the best examples of every class, as many of each class as its share allows.

    The r-th best example of class c (r = 0, 1, ...) has the seat number `(r + 1/2) / share_c`; the
    k lowest are selected, equal ones by score (Sainte-Lague's apportionment, which no rounding of
    quotas biases). A class with too few examples leaves its seats to the others.

    Args:
        score: rho, loss, neg_il, grad_norm or entropy.
        shares: one positive number a class; None: its examples in the large batch.

    Example:
        >>> from rho_train import Batch, Selector
        >>> x, y = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), torch.tensor([1, 1, 0])
        >>> selector = Selector(k=2, method=ClassQuota("loss", shares=(1, 1)))
        >>> selector(torch.nn.Identity(), Batch(x, y, torch.tensor([5, 6, 7]))).ids
        tensor([6, 7])
    """

    score: str = "rho"
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.shares is not None and not all(0.0 < s < math.inf for s in self.shares):
            raise ValueError(
                f"ClassQuota: shares must be positive and finite, got {self.shares}; a class is "
                "masked by the label ignore_index"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Needs of the score, and classes."""
        return (*needs_of(self.score), "classes")

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the lowest seat numbers."""
        classes = context.logits.shape[1]
        scores = context.score(self.score).scores
        device = scores.device
        usable = scores > -torch.inf  # neither ignored nor NaN
        # The others are of a class after the last.
        labels = torch.where(usable, context.labels.long(), classes)
        counts = torch.zeros(classes + 1, dtype=torch.int64, device=device)
        counts = counts.scatter_add(0, labels, torch.ones_like(labels))
        shares = counts.double()
        if self.shares is not None:
            if len(self.shares) != classes:
                raise ValueError(
                    f"ClassQuota: shares must have one number a class, {classes}, got "
                    f"{len(self.shares)}"
                )
            shares = torch.tensor((*self.shares, 1.0), dtype=torch.float64, device=device)
        rows = torch.where(usable, scores, -torch.inf).argsort(descending=True, stable=True)
        labels = labels[rows]
        # Rows by class, the best first: the rank within a class counts from where it begins.
        by_class = labels.argsort(stable=True)
        grouped = labels[by_class]
        ranks = torch.arange(len(rows), dtype=torch.int64, device=device)
        ranks -= (counts.cumsum(0) - counts)[grouped]
        seats = torch.empty(len(rows), dtype=torch.float64, device=device)
        seats[by_class] = (ranks.double() + 0.5) / shares[grouped]
        seats = torch.where(labels < classes, seats, torch.inf)
        # The rows are in the order of their scores, and a stable sort keeps it among equals.
        best = rows[seats.argsort(stable=True)[: context.k]]
        mask = torch.full_like(scores, -torch.inf).index_fill(0, best, 0)
        return context.select(self.score, mask)


# Reducr sums losses up to _MOST nats in multiples of _UNIT.
_MOST, _UNIT = 2.0**15, 2.0**-24


@register("reducr")
class Reducr:
    """Select the top k of the clipped excess loss, weighted towards classes with a high loss.

    `score_i = w_y max(0, CE_i - IL_i)` (after REDUCR: Bankes et al., NeurIPS 2024, who have an IL
    model for each class). After every selection `w_c ~ w_c exp(lr * L_c)`, where L_c is the mean
    loss of class c in the large batch (in the paper: in a holdout set), for a class without
    examples the mean of the others. The weights begin equal and sum to one; lr >= 0.

    Example:
        >>> from rho_train import Batch, Selector
        >>> method = Reducr(lr=math.log(4))
        >>> selector = Selector(il=torch.zeros(2), k=1, method=method)
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        >>> batch = Batch(x, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> selector(torch.nn.Identity(), batch).ids  # losses log(1 + e) and log(1 + e) - 1
        tensor([0])
        >>> method.weights  # four to one
        tensor([0.8000, 0.2000])
    """

    needs = ("il", "classes")

    def __init__(self, lr: float = 1e-4) -> None:
        if not 0.0 <= lr < math.inf:
            raise ValueError(f"Reducr: lr must be finite and at least 0, got {lr}")
        self.lr = lr
        self.weights: Tensor | None = None

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest weighted excess."""
        losses, weights = context.score("loss").scores, self._weights(context)
        # An ignored row may have any weight. One without a loss cannot be selected.
        known = context.labels.masked_fill(context.ignored, 0).long()
        excess = (losses - context.il).clamp_min(0.0).masked_fill(losses == -torch.inf, -torch.inf)
        return context.top(weights[known] * excess)

    def update(self, context: ScoringContext, selected: Selected) -> None:
        """Move the weights towards the classes with a high loss."""
        assert selected.losses is not None
        weights, losses = self._weights(context), selected.losses
        seen = (context.labels != context.ignore_index) & losses.isfinite()
        labels = torch.where(seen, context.labels, 0).long()
        # Integers, whose sum over equal labels has one result in any order, as a GPU adds them.
        units = torch.where(seen, losses.double().clamp_max(_MOST) / _UNIT, 0.0).round().long()
        total = torch.zeros_like(weights, dtype=torch.int64).index_add_(0, labels, units)
        count = torch.zeros_like(total).index_add_(0, labels, seen.long())
        known, mean = count > 0, total.double() * _UNIT / count
        mean = torch.where(known, mean, torch.where(known, mean, 0.0).sum() / known.sum())
        self.weights = (weights.log() + self.lr * mean.float()).softmax(0)

    def _weights(self, context: ScoringContext) -> Tensor:
        if self.weights is None:
            classes = context.logits.shape[1]
            return torch.ones(classes, dtype=torch.float32, device=context.ids.device) / classes
        self.weights = self.weights.to(context.ids.device)
        return self.weights

    def identity(self) -> dict[str, Any]:
        """Return what decides the selection."""
        return {"method": "reducr", "lr": self.lr}

    def state_dict(self) -> dict[str, Any]:
        """Return the class weights, for a checkpoint."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the class weights of `state_dict`."""
        self.weights = state["weights"]
