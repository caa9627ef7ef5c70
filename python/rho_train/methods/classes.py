"""Methods that know classes: quotas, and weights for the classes that are behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rho_train.identity import digest
from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.fused import check_score, needs_of_score
from rho_train.methods.registry import register


@register("class_quota")
@dataclass(frozen=True)
class ClassQuota:
    """The best points of every class, as many of each class as its share allows.

    The r-th best point of class c (r = 0, 1, ...) has the seat number `(r + 1/2) / share_c`; the k
    lowest are kept, equal ones by score (Sainte-Lague's apportionment, which no rounding of quotas
    biases). A class with too few points leaves its seats to the others.

    Args:
        score: one of the fused five.
        shares: one positive number a class; None: the number of its points in the large batch, so
            that selection does not shift the mix of the classes.

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
        check_score("ClassQuota", self.score)
        if self.shares is not None and not all(0.0 < s < math.inf for s in self.shares):
            raise ValueError(
                f"ClassQuota: shares must be positive and finite, got {self.shares}; mask a class "
                "by the label ignore_index"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Classes, and irreducible losses or all logits, if they are in the score."""
        return (*needs_of_score(self.score), "classes")

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the lowest seat numbers."""
        scores = context.score(self.score).scores
        rows = (scores > -torch.inf).nonzero().squeeze(1)  # neither ignored nor NaN
        rows = rows[scores[rows].argsort(descending=True, stable=True)]
        labels = context.labels[rows].long()
        classes = context.classes
        counts = torch.bincount(labels, minlength=classes)
        if self.shares is None:
            shares = counts.double()
        elif len(self.shares) == classes:
            shares = torch.tensor(self.shares, dtype=torch.float64, device=rows.device)
        else:
            raise ValueError(
                f"ClassQuota: shares must have one number a class, {classes}, got "
                f"{len(self.shares)}"
            )
        # Of the rows by class, the best first, each knows its rank by where its class begins.
        by_class = labels.argsort(stable=True)
        grouped = labels[by_class]
        begins = counts.cumsum(0) - counts
        seats = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        ranks = torch.arange(len(rows), device=rows.device) - begins[grouped]
        seats[by_class] = (ranks + 0.5) / shares[grouped]
        # The rows are in the order of their scores, and a stable sort keeps it among equals.
        kept = rows[seats.argsort(stable=True)[: context.k]]
        bias = torch.full_like(scores, -torch.inf)
        bias[kept] = 0.0
        return context.select(self.score, bias)


@register("reducr")
class Reducr:
    """Top k of the clipped excess loss, weighted towards the classes that are behind.

    `score_i = sum_c w_c max(0, CE_i - IL_ic)` (REDUCR: Bankes et al., NeurIPS 2024), with the
    irreducible losses of one model a class in `class_il`. Without it, IL_ic is known for the class
    of the point alone and `score_i = w_y max(0, CE_i - IL_i)`. After every selection
    `w_c ~ w_c exp(lr * L_c)`, where L_c is the mean loss of the points of class c in the large
    batch (in the paper: of a holdout set of the class); a class without points there takes the mean
    of the others. The weights begin equal and sum to one.

    Args:
        lr: eta >= 0, of the weights.
        class_il: float (N, C), irreducible loss of point i by the model of class c.

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

    def __init__(self, lr: float = 1e-4, class_il: Tensor | None = None) -> None:
        if not 0.0 <= lr < math.inf:
            raise ValueError(f"Reducr: lr must be finite and at least 0, got {lr}")
        if class_il is not None and (class_il.ndim != 2 or not class_il.is_floating_point()):
            raise ValueError(
                "Reducr: class_il must be floating point (N, C), got "
                f"{class_il.dtype} {tuple(class_il.shape)}"
            )
        self.lr, self.class_il = lr, class_il
        self.weights: Tensor | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Classes, and irreducible losses, unless they are given by class."""
        return ("il", "classes") if self.class_il is None else ("classes",)

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest weighted excess."""
        losses, weights = context.score("loss").scores, self._weights(context)
        if self.class_il is None:
            # An ignored row may have any weight.
            known = context.labels.masked_fill(context.ignored, 0).long()
            return context.top(weights[known] * _excess(losses, context.il))
        if self.class_il.shape[1] != len(weights):
            raise ValueError(
                f"Reducr: class_il must have one column a class, {len(weights)}, got "
                f"{self.class_il.shape[1]}"
            )
        # The rows, not the table, go to the device of the losses.
        ids = context.ids.to(self.class_il.device)
        il = self.class_il[ids].to(losses.device)
        return context.top(_excess(losses[:, None], il) @ weights)

    def update(self, context: ScoringContext, selected: Selected) -> None:
        """Move the weights towards the classes with a high loss."""
        assert selected.losses is not None
        # On the CPU, where a sum over equal labels has one order.
        labels, losses = context.labels.cpu().long(), selected.losses.cpu().float()
        seen = (labels != context.ignore_index) & losses.isfinite()
        labels, losses = labels[seen], losses[seen]
        weights = self._weights(context).cpu()
        count = torch.zeros_like(weights).index_add_(0, labels, torch.ones_like(losses))
        total = torch.zeros_like(weights).index_add_(0, labels, losses)
        present = count > 0
        mean = total / count
        mean = torch.where(present, mean, mean[present].mean())
        self.weights = (weights.log() + self.lr * mean).softmax(0)

    def _weights(self, context: ScoringContext) -> Tensor:
        if self.weights is None:
            classes, device = context.classes, context.ids.device
            return torch.full((classes,), 1.0 / classes, device=device)
        return self.weights.to(context.ids.device)

    def identity(self) -> dict[str, Any]:
        """Return what decides the choice, the table as its SHA-256."""
        il = self.class_il
        return {"method": "reducr", "lr": self.lr, "class_il": il if il is None else digest(il)}

    def state_dict(self) -> dict[str, Any]:
        """Return the class weights, for a checkpoint."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the class weights of `state_dict`."""
        self.weights = state["weights"]


def _excess(losses: Tensor, il: Tensor) -> Tensor:
    """Return max(0, CE - IL), and -inf where a point has no loss and must not be selected."""
    return (losses - il).clamp_min(0.0).masked_fill(losses == -torch.inf, -torch.inf)
