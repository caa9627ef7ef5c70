"""The methods of selection: their names, and those that come with the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import Tensor

from rho_train.batch import upload
from rho_train.methods.context import Method, ScoringContext, Selected

M = TypeVar("M", bound=Callable[..., Any])

NEEDS = ("il", "ids", "logits", "classes")
_METHODS: dict[str, Any] = {}


def register(
    name: str, *, needs: Collection[str] = (), pointwise: bool = False
) -> Callable[[M], M]:
    """Make a method known as `Selector(method=name)`.

    Args:
        name: new, of letters, digits and underscores.
        needs: of a function: `il`, irreducible losses; `ids`, those of the data set (else it sees
            rows where a batch has no ids); `logits`, or `classes`, labels that are classes, which
            `Selector(loss_fn=...)` does not have.
        pointwise: of a function: it selects the highest scores, and the score of an example does
            not depend on the others, as `Selector(scope="global")` wants.

    Returns:
        A decorator for a function of `ScoringContext` that returns `Selected`, an object that is
        called like one, or a class of which every Selector makes such an object. Objects may have
        `needs` and `pointwise`, and if they learn `update(context, selected)`, called after every
        selection, `state_dict` and `load_state_dict`.

    Raises:
        ValueError: the name is taken by another method or is no name, or a need is unknown.
            Defining the same function again, as in a notebook, replaces it.

    Examples:
        >>> import torch
        >>> from rho_train import Batch, Selector
        >>> @register("own_margin")
        ... def margin(context):
        ...     best, second = context.logits.topk(2).values.unbind(1)
        ...     return context.top(second - best)
        >>> x = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0]])
        >>> batch = Batch(x, torch.tensor([0, 0, 0]), torch.tensor([7, 8, 9]))
        >>> Selector(k=2, method="own_margin")(torch.nn.Identity(), batch).ids
        tensor([8, 9])
        >>> unregister("own_margin")
    """
    if not name.isidentifier():
        raise ValueError(f"register: name must be letters, digits and underscores, got {name!r}")
    if unknown := ", ".join(sorted(set(needs) - set(NEEDS))):
        raise ValueError(f"register: needs must be some of {', '.join(NEEDS)}, got {unknown}")

    def add(method: M) -> M:
        if _origin(_METHODS.get(name, method)) != _origin(method):
            raise ValueError(f"register: there is a method {name!r} already; choose another name")
        if needs:
            method.needs = tuple(needs)  # type: ignore[attr-defined]
        if pointwise:
            method.pointwise = True  # type: ignore[attr-defined]
        _METHODS[name] = method
        return method

    return add


def _origin(method: object) -> tuple[str, str]:
    return method.__module__, getattr(method, "__qualname__", repr(method))


def unregister(name: str) -> None:
    """Remove a method, so that its name is free again."""
    del _METHODS[name]


def find(method: object) -> Method:
    """Return the method of a name, or a method as it is."""
    if isinstance(method, str):
        known, entry = ", ".join(_METHODS), _METHODS.get(method)
        if entry is None:
            raise ValueError(f"Selector: method must be one of {known}, got {method!r}")
        return entry() if isinstance(entry, type) else entry  # type: ignore[no-any-return]
    if isinstance(method, type) or not callable(method):
        raise TypeError(
            f"Selector: method must be a name or be called with ScoringContext, got {method!r}; "
            "of a class pass an object, as Reducr()"
        )
    return method


def needs_of(method: str | Method) -> Collection[str]:
    """Return what a method needs besides the model, see `register`."""
    return getattr(find(method), "needs", ())


def modules() -> set[str]:
    """Return the modules that registered methods, which worker processes must import too."""
    return {_origin(method)[0] for method in _METHODS.values()} - {"__main__"}


def names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(_METHODS)


# The five scores of `rho_ext.select`, all baselines of the paper's section 4, and their needs:
# `rho` = CE - IL (Mindermann et al., ICML 2022, eq. 3); `loss` = CE (Loshchilov and Hutter, 2015,
# without their sampling); `neg_il` = -IL; `grad_norm` = ||softmax(z) - onehot(y)||_2 (Katharopoulos
# and Fleuret, ICML 2018, section 3.2, for the logits); `entropy` = H[softmax(z)].
_NEEDS: dict[str, tuple[str, ...]] = {
    "rho": ("il",),
    "loss": (),
    "neg_il": ("il",),
    "grad_norm": ("logits",),
    "entropy": ("logits",),
}
# Reducr sums losses up to _MOST nats in multiples of _UNIT.
_MOST, _UNIT = 2.0**15, 2.0**-24


def _best_by(score: str) -> Method:
    def best(context: ScoringContext) -> Selected:
        return context.select(score)

    return best


for _name, _needs in _NEEDS.items():
    register(_name, needs=_needs, pointwise=True)(_best_by(_name))


@register("uniform")
def uniform(context: ScoringContext) -> Selected:
    """Draw k of the n examples without replacement, each set with the same probability."""
    ignored = context.ignored
    order = torch.randperm(len(ignored), generator=context.generator, device="cpu")
    order = upload(order, ignored.device)
    # Those that are ignored come last, and the others keep their order.
    indices = order[ignored[order].argsort(stable=True)][: context.k]
    indices = indices.masked_fill(ignored[indices], -1)
    return Selected(torch.zeros_like(indices, dtype=torch.float32), indices, None)


@register("reducr")
class Reducr:
    """Select the top k of the clipped excess loss, weighted towards classes with a high loss.

    `score_i = w_y max(0, CE_i - IL_i)` (after REDUCR: Bankes et al., NeurIPS 2024, who have an IL
    model for each class). After every selection `w_c ~ w_c exp(lr * L_c)`, where L_c is the mean
    loss of class c in the large batch (in the paper: in a holdout set), for a class without
    examples the mean of the others. The weights begin equal and sum to one; lr >= 0.

    Examples:
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
            ones = torch.ones(context.classes, dtype=torch.float32, device=context.ids.device)
            return ones / context.classes
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
