"""Methods that know classes: quotas, and weights for classes with a high loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rho_train.batch import describe
from rho_train.identity import digest
from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.fused import Scored
from rho_train.methods.registry import register


@register("class_quota")
@dataclass(frozen=True)
class ClassQuota(Scored):
    """Select the best examples of every class, as many of each class as its share allows.

    The r-th best example of class c (r = 0, 1, ...) has the seat number `(r + 1/2) / share_c`; the
    k lowest are selected, equal ones by score (Sainte-Lague's apportionment, which no rounding of
    quotas biases). A class with too few examples leaves its seats to the others.

    Args:
        score: one of the fused five.
        shares: one positive number a class; None: its examples in the large batch.

    Example:
        >>> from rho_train import Batch, Selector
        >>> x, y = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), torch.tensor([1, 1, 0])
        >>> selector = Selector(k=2, method=ClassQuota("loss", shares=(1, 1)))
        >>> selector(torch.nn.Identity(), Batch(x, y, torch.tensor([5, 6, 7]))).ids
        tensor([6, 7])
    """

    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shares is not None and not all(0.0 < s < math.inf for s in self.shares):
            raise ValueError(
                f"ClassQuota: shares must be positive and finite, got {self.shares}; a class is "
                "masked by the label ignore_index"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Needs of the score, and classes."""
        return (*super().needs, "classes")

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the lowest seat numbers."""
        scores = context.score(self.score).scores
        rows = (scores > -torch.inf).nonzero().squeeze(1)  # neither ignored nor NaN
        rows = rows[scores[rows].argsort(descending=True, stable=True)]
        labels, device = context.labels[rows].long(), rows.device
        counts = torch.bincount(labels, minlength=context.classes)
        shares = counts.double()
        if self.shares is not None:
            shares = torch.tensor(self.shares, dtype=torch.float64, device=device)
        _check_classes("ClassQuota: shares must have one number", context, len(shares))
        # Rows by class, the best first: the rank within a class counts from where it begins.
        by_class = labels.argsort(stable=True)
        grouped = labels[by_class]
        ranks = torch.arange(len(rows), dtype=torch.int64, device=device)
        ranks -= (counts.cumsum(0) - counts)[grouped]
        seats = torch.empty(len(rows), dtype=torch.float64, device=device)
        seats[by_class] = (ranks.double() + 0.5) / shares[grouped]
        # The rows are in the order of their scores, and a stable sort keeps it among equals.
        best = rows[seats.argsort(stable=True)[: context.k]]
        mask = torch.full_like(scores, -torch.inf).index_fill(0, best, 0)
        return context.select(self.score, mask)


@register("reducr")
class Reducr:
    """Select the top k of the clipped excess loss, weighted towards classes with a high loss.

    `score_i = sum_c w_c max(0, CE_i - IL_ic)` (REDUCR: Bankes et al., NeurIPS 2024), with the
    irreducible losses of one model a class in `class_il`. Without it
    `score_i = w_y max(0, CE_i - IL_i)`. After every selection `w_c ~ w_c exp(lr * L_c)`, where L_c
    is the mean loss of class c in the large batch (in the paper: in a holdout set), for a class
    without examples the mean of the others. The weights begin equal and sum to one.

    Args:
        lr: eta >= 0, of the weights.
        class_il: float (N, C), irreducible loss of example i by the model of class c.

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
                f"Reducr: class_il must be floating point (N, C), got {describe(class_il)}"
            )
        self.lr, self.class_il = lr, class_il
        self.weights: Tensor | None = None
        self.needs = ("ids" if class_il is not None else "il", "classes")

    def __call__(self, context: ScoringContext) -> Selected:
        """Return the k rows with the highest weighted excess."""
        losses, weights = context.score("loss").scores, self._weights(context)
        if self.class_il is None:
            # An ignored row may have any weight.
            known = context.labels.masked_fill(context.ignored, 0).long()
            return context.top(weights[known] * _excess(losses, context.il))
        _check_classes("Reducr: class_il must have one column", context, self.class_il.shape[1])
        # The rows, not the table, go to the device of the losses.
        il = self.class_il[context.ids.to(self.class_il.device)].to(losses.device)
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
        mean = torch.zeros_like(weights).index_add_(0, labels, losses) / count
        mean = torch.where(count > 0, mean, mean[count > 0].mean())
        self.weights = (weights.log() + self.lr * mean).softmax(0)

    def _weights(self, context: ScoringContext) -> Tensor:
        if self.weights is not None:
            return self.weights.to(context.ids.device)
        ones = torch.ones(context.classes, dtype=torch.float32, device=context.ids.device)
        return ones / context.classes

    def identity(self) -> dict[str, Any]:
        """Return what decides the selection, the table as its SHA-256."""
        il = self.class_il
        return {"method": "reducr", "lr": self.lr, "class_il": il if il is None else digest(il)}

    def state_dict(self) -> dict[str, Any]:
        """Return the class weights, for a checkpoint."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the class weights of `state_dict`."""
        self.weights = state["weights"]


def _check_classes(what: str, context: ScoringContext, got: int) -> None:
    if got != context.classes:
        raise ValueError(f"{what} a class, {context.classes}, got {got}")


def _excess(losses: Tensor, il: Tensor) -> Tensor:
    """Return max(0, CE - IL), and -inf where an example has no loss and cannot be selected."""
    return (losses - il).clamp_min(0.0).masked_fill(losses == -torch.inf, -torch.inf)
