"""Names of the methods of selection."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from rho_train.methods.context import Method

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
        >>> @register("margin")
        ... def margin(context):
        ...     best, second = context.logits.topk(2).values.unbind(1)
        ...     return context.top(second - best)
        >>> x = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0]])
        >>> batch = Batch(x, torch.tensor([0, 0, 0]), torch.tensor([7, 8, 9]))
        >>> Selector(k=2, method="margin")(torch.nn.Identity(), batch).ids
        tensor([8, 9])
        >>> unregister("margin")
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
            "of a class pass an object, as Boltzmann()"
        )
    return method


def needs_of(method: str | Method) -> Collection[str]:
    """Return what a method needs besides the model, see `register`."""
    return getattr(find(method), "needs", ())


def names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(_METHODS)
