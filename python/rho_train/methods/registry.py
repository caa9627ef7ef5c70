"""The methods of selection: their names, and those that come with the package."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch

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
            "of a class pass an object"
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


for _name, _needs in _NEEDS.items():
    register(_name, needs=_needs, pointwise=True)(lambda of, by=_name: of.select(by))


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
