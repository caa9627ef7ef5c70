"""Checks of the settings of a Selector and of its first batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rho_train.batch import Fields, describe, is_plain
from rho_train.checks import check_counts
from rho_train.history import History
from rho_train.il.store import ILStore
from rho_train.online import OnlineModel

if TYPE_CHECKING:
    from rho_train.selector import Selector

_KINDS: dict[str, tuple[Any, str]] = {
    "ratio": ((int, float, Callable), "a number or a function of the step"),
    "phases": (Callable, "a function of the step"),
    "history": (History, "a History"),
    "scorer": ((nn.Module, OnlineModel), "a module or an OnlineModel"),
    "loss_fn": (Callable, "a function of the model and a batch"),
    "seed": (int, "an int"),
    "check_batches": (bool, "True or False"),
}


def check_settings(selector: Selector, method: object) -> None:
    """Refuse values that would fail at the first batch only, or lack the needs of the method."""
    for name, (kind, wanted) in _KINDS.items():
        value = getattr(selector, name)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if wrong and value is not None:
            got = repr(value) if isinstance(value, (bool, float, str)) else type(value).__name__
            raise TypeError(f"Selector: {name} must be {wanted}, got {got}")
    if isinstance(selector.k, float):
        raise TypeError(f"Selector: k must be an int, got {selector.k!r}; for a share use ratio=")
    given = [name for name in ("k", "check_every") if getattr(selector, name) is not None]
    check_counts(selector, *given)
    if isinstance(selector.ratio, (int, float)):
        check_share(selector.ratio)
    for fault in _faults(selector, pointwise=getattr(method, "pointwise", False)):
        raise ValueError(f"Selector: {fault}")


def check_share(ratio: float, when: str = "") -> float:
    """Return a ratio, a ValueError if it is no share."""
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"Selector: ratio must lie in (0, 1], got {ratio}{when}; a number is k=")
    return ratio


def _faults(selector: Selector, pointwise: bool) -> Iterator[str]:
    """Yield what is wrong with the settings, and how to mend it."""
    needs, il, smoothing = selector.needs, selector.il, selector.label_smoothing
    ratio, method = selector.ratio, f"method {selector.method!r}"
    if (ratio is None) == (selector.k is None):
        yield f"give either ratio or k, got ratio={ratio} and k={selector.k}"
    if not 0.0 <= smoothing <= 1.0:
        yield f"label_smoothing must lie in [0, 1], got {smoothing}"
    if "il" in needs and il is None:
        yield f"{method} needs irreducible losses; pass il=, as a store of rho_train.crossfit_il"
    if selector.loss_fn is not None:
        if selector.forward is not None or smoothing:
            yield (
                "loss_fn= calls the model itself and gives the losses as they are; leave "
                f"{'forward' if selector.forward else 'label_smoothing'} out, and do it there"
            )
        if missing := {"logits", "classes"} & needs:
            needed = " and ".join(sorted(missing))
            yield f"loss_fn= gives losses alone, and {method} needs {needed}; choose rho or loss"
    if smoothing and "il" in needs and isinstance(il, ILStore):
        # Examples learnt as well as smoothing lets them be would come before others.
        yield (
            f"label_smoothing = {smoothing}, and the losses in the store are without; leave it "
            "out, or give a smoothed loss_fn= to the store's function and to the Selector"
        )
    if selector.scope not in ("local", "global"):
        yield f"scope must be 'local' or 'global', got {selector.scope!r}"
    scope = "scope='global' {}, or choose scope='local'"
    if selector.scope == "global" and not pointwise:
        yield scope.format(
            f"needs a method that scores each example for itself, and {selector.method!r} does not "
            "say so; choose rho or loss, register(name, pointwise=True) a method that does"
        )
    if selector.scope == "global" and selector.scoring.train_mode:
        yield scope.format("needs scores that do not depend on the rank; leave train_mode= out")
    own = {"il": il, "scorer": selector.scorer}
    of_one_rank = [name for name, one in own.items() if isinstance(one, OnlineModel)]
    # Each rank would train its own model, or draw its own uniform selection.
    of_one_rank += ["phases"] if selector.phases is not None else []
    if selector.scope == "global" and of_one_rank:
        yield scope.format(f"does not go with {of_one_rank[0]}=, which is of one rank; drop it")


def il_table(il: object) -> Tensor | None:
    """Return the table by id of `Selector(il=...)`, (N,); None where there is none."""
    table = il.table if isinstance(il, ILStore) else il
    named = isinstance(table, str) and table.isidentifier()
    if table is None or isinstance(table, OnlineModel) or named:
        return None
    if not isinstance(table, Tensor):
        got = repr(il) if isinstance(il, str) else type(il).__name__
        raise TypeError(
            "Selector: il must be an ILStore, a tensor (N,), an OnlineModel or the name of a field "
            f"of the batch, got {got}; a file is read with ILStore.load(path, dataset)"
        )
    if table.ndim != 1 or table.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            f"Selector: il must be (N,) of float32, float16 or bfloat16, got {describe(table)}"
        )
    return table


def check_training() -> None:
    """Refuse a model in eval mode without autograd; warn of one with it."""
    fix = "an evaluation takes the whole batch, or selector.preview(model, batch), which counts not"
    if not torch.is_grad_enabled():
        raise ValueError(
            f"Selector: the model is in eval mode and autograd is off, as in an evaluation; {fix}"
        )
    warnings.warn(
        f"Selector: the model is in eval mode; before training call model.train(); {fix}",
        stacklevel=3,
    )


def check_batch(batch: object, fields: Fields, *, classes: bool, first: bool) -> None:
    """Refuse labels that are no `classes`, and in the `first` batch lengths in place of ids."""
    if classes and fields.labels.ndim != 1:
        raise ValueError(
            "Selector: labels must have shape (n,), one class an example, got "
            f"{tuple(fields.labels.shape)}; for sequences give loss_fn=, the loss of each"
        )
    if first and is_plain(batch) and len(fields.ids.unique()) < len(fields.ids):  # type: ignore[no-untyped-call]
        raise ValueError(
            f"Selector: the third element of a {type(batch).__name__} repeats, so it holds no ids: "
            "keep those of IndexedDataset there, or put examples drawn twice into a rho_train.Batch"
        )
