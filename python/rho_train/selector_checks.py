"""Checks of the settings of a Selector and of its first batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rho_train.batch import Fields, describe
from rho_train.checks import check_counts
from rho_train.history import History
from rho_train.il.store import ILStore
from rho_train.online import OnlineModel
from rho_train.schedules import Schedule, UniformPhases, values_of

if TYPE_CHECKING:
    from rho_train.selector import Selector

_KINDS: dict[str, tuple[Any, str]] = {
    "phases": (UniformPhases, "UniformPhases"),
    "history": (History, "a History"),
    "scorer": ((nn.Module, OnlineModel), "a module or an OnlineModel"),
    "loss_fn": (Callable, "a function of the model and a batch"),
}


def check_options(selector: Selector) -> None:
    """Refuse values that would fail at the first batch only."""
    ratio, k, smoothing = selector.ratio, selector.k, selector.label_smoothing
    if (ratio is None) == (k is None):
        raise ValueError(f"Selector: give either ratio or k, got ratio={ratio} and k={k}")
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float, Schedule)):
            raise TypeError(f"Selector: ratio must be a number or a Schedule, got {ratio!r}")
        if not all(0.0 < value <= 1.0 for value in values_of(ratio)):
            raise ValueError(
                f"Selector: ratio must lie in (0, 1], got {ratio}; for a number of examples use k="
            )
    if isinstance(k, float):
        raise TypeError(f"Selector: k must be an int, got {k!r}; for a share use ratio=")
    given = [name for name in ("k", "check_every") if getattr(selector, name) is not None]
    check_counts(selector, *given)
    if type(selector.seed) is not int:
        raise TypeError(f"Selector: seed must be an int, got {selector.seed!r}")
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"Selector: label_smoothing must lie in [0, 1], got {smoothing}")
    for name, (kind, wanted) in _KINDS.items():
        part = getattr(selector, name)
        if part is not None and not isinstance(part, kind):
            raise TypeError(f"Selector: {name} must be {wanted}, got {type(part).__name__}")


def check_method(selector: Selector, found: object) -> None:
    """Refuse settings that lack the needs of the method that was found."""
    needs, il, smoothing = selector.needs, selector.il, selector.label_smoothing
    scoring, forward, method = selector.scoring, selector.forward, f"method {selector.method!r}"
    if "il" in needs and il is None:
        raise ValueError(
            f"Selector: {method} needs irreducible losses; pass il=, an ILStore "
            "(rho_train.holdout_il or rho_train.crossfit_il make one) or a tensor by id"
        )
    if scoring.refresh < 1.0:
        refresh = f"Selector: Scoring(refresh={scoring.refresh})"
        if selector.history is None:
            raise ValueError(f"{refresh} needs the last losses; pass history=History(len(dataset))")
        if {"logits", "dropout"} & needs:
            raise ValueError(
                f"{refresh} knows losses alone, and {method} needs the logits of all examples; "
                "choose another method, or refresh=1"
            )
    if selector.loss_fn is not None:
        if forward is not None or smoothing:
            raise ValueError(
                "Selector: loss_fn= calls the model itself and gives the losses as they are; leave "
                f"{'label_smoothing' if forward is None else 'forward'} out, and do it there"
            )
        if missing := {"logits", "dropout", "classes"} & needs:
            raise ValueError(
                f"Selector: loss_fn= gives losses alone, and {method} needs "
                f"{' and '.join(sorted(missing))}; choose a method of losses, as rho or loss"
            )
    if smoothing and "il" in needs and isinstance(il, ILStore):
        # Examples learnt as well as smoothing lets them be would come before others.
        raise ValueError(
            f"Selector: label_smoothing = {smoothing}, and the losses in the store are without; "
            "leave it out, or give a smoothed loss_fn= to the store's function and to the Selector"
        )
    if selector.scope == "global":
        _check_global(selector, pointwise=getattr(found, "pointwise", False))
    elif selector.scope != "local":
        raise ValueError(f"Selector: scope must be 'local' or 'global', got {selector.scope!r}")


def _check_global(selector: Selector, pointwise: bool) -> None:
    """Refuse settings with which several ranks would not select as one process does."""
    parts = {"il": selector.il, "scorer": selector.scorer, "phases": selector.phases}
    own = [name for name, one in parts.items() if isinstance(one, (OnlineModel, UniformPhases))]
    reason = None
    if not pointwise:
        reason = (
            f"needs a method that scores each example for itself, and {selector.method!r} does not "
            "say so; choose rho or loss, register(name, pointwise=True) a method that does"
        )
    elif selector.scoring.refresh < 1.0 or selector.scoring.train_mode:
        reason = (
            "needs scores that do not depend on the rank; leave Scoring(refresh=..., "
            "train_mode=...) at their defaults"
        )
    elif own:
        # Every rank would train its own model, or draw its own uniform selection.
        kind = type(parts[own[0]]).__name__
        reason = f"does not go with {own[0]}={kind}(...), which is of one rank; leave it out"
    if reason is not None:
        raise ValueError(f"Selector: scope='global' {reason}, or choose scope='local'")


def il_table(il: object) -> Tensor | None:
    """Return the table by id of `Selector(il=...)`, (N,); None where there is none."""
    table = il.table if isinstance(il, ILStore) else il
    if table is None or isinstance(table, OnlineModel):
        return None
    if not isinstance(table, Tensor):
        raise TypeError(
            "Selector: il must be an ILStore, a tensor (N,) or an OnlineModel, got "
            f"{type(il).__name__}; a file is read with ILStore.load(path, dataset)"
        )
    if table.ndim != 1 or table.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            f"Selector: il must be (N,) of float32, float16 or bfloat16, got {describe(table)}"
        )
    return table


def check_batch(batch: object, fields: Fields, *, classes: bool, first: bool) -> None:
    """Refuse labels that are no `classes`, and in the `first` batch lengths in place of ids."""
    if classes and fields.labels.ndim != 1:
        raise ValueError(
            "Selector: labels must have shape (n,), one class an example, got "
            f"{tuple(fields.labels.shape)}; for sequences give loss_fn=, the loss of each"
        )
    plain = first and isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields")
    if plain and len(fields.ids.unique()) < len(fields.ids):  # type: ignore[no-untyped-call]
        raise ValueError(
            f"Selector: the third element of a {type(batch).__name__} repeats, so it holds no ids: "
            "keep those of IndexedDataset there, or put examples drawn twice into a rho_train.Batch"
        )
