"""Checks of the settings of a Selector, of its first batch, and of its first small batch."""

from __future__ import annotations

import reprlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rho_train.batch import Fields, describe, gather, is_plain, leaves, split
from rho_train.checks import check_counts
from rho_train.dry_run import unchanged
from rho_train.history import History
from rho_train.il.store import ILStore
from rho_train.methods.context import ScoringContext
from rho_train.online import OnlineModel
from rho_train.rng import global_seed
from rho_train.scoring import rounding_of, scoring_mode, sharded

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
            raise TypeError(f"Selector: {name} must be {wanted}, got {reprlib.repr(value)}")
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
    # Each rank would train its own model, draw its own uniform selection, or learn its statistics.
    of_one_rank = {
        "il": isinstance(il, OnlineModel),
        "scorer": isinstance(selector.scorer, OnlineModel),
        "phases": selector.phases is not None,
        "train_mode": selector.scoring.train_mode,
    }
    if selector.scope == "global":
        if not pointwise:
            yield (
                f"scope='global' needs a method that scores each example for itself, and {method} "
                "does not say so; choose rho or loss, or register(name, pointwise=True) one"
            )
        for name in of_one_rank:
            if of_one_rank[name]:
                yield f"scope='global' does not go with {name}=, which is of one rank; drop it"
    elif selector.scope != "local":
        yield f"scope must be 'local' or 'global', got {selector.scope!r}"


def il_table(il: object) -> Tensor | None:
    """Return the table by id of `Selector(il=...)`, (N,); None where there is none."""
    table = il.table if isinstance(il, ILStore) else il
    named = isinstance(table, str) and table.isidentifier()
    if table is None or isinstance(table, OnlineModel) or named:
        return None
    kinds = torch.float32, torch.float16, torch.bfloat16
    if not isinstance(table, Tensor) or table.ndim != 1 or table.dtype not in kinds:
        got = repr(il) if isinstance(il, str) else describe(table)
        raise TypeError(
            "Selector: il must be an ILStore, an OnlineModel, the name of a field or a tensor (N,) "
            f"of float32, float16 or bfloat16, got {got}; a file is read with ILStore.load"
        )
    return table


def check_training() -> None:
    """Refuse a model in eval mode without autograd; warn of one with it."""
    said = "Selector: the model is in eval mode"
    fix = "before training call model.train(); an evaluation takes selector.preview(model, batch)"
    if not torch.is_grad_enabled():
        raise ValueError(f"{said} and autograd is off, as in an evaluation; {fix}")
    warnings.warn(f"{said}; {fix}", stacklevel=3)


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


_OFF = "Selector(check_batches=False) leaves this check out"


def check_small_batch(
    context: ScoringContext, batch: Any, small: Any, rows: Tensor, *, proxy: bool
) -> bool:
    """Score the small batch, `rows` of a large one, in eval mode; ValueError if its losses differ.

    Returns whether this told, or warned of a model with which it never will.
    """
    module, options = context.module, context.options
    eager: AbstractContextManager[Any] = nullcontext()
    if "torch._dynamo" in sys.modules:
        # Graphs are compiled for the sizes of training. Importing dynamo takes seconds.
        eager = torch.compiler.set_stance("force_eager")
    scoring = scoring_mode(module, bf16=options.bf16)
    # What the model keeps for this batch size must be able to enter autograd in the step.
    plain = torch.inference_mode(False), torch.no_grad()
    with unchanged(module), global_seed(0), eager, scoring as own, plain[0], plain[1]:
        check = _Rescoring(context, batch, own)
        reason = check.reason(small, rows, proxy)
    if reason is None:
        return check.tells
    warnings.warn(f"Selector: the small batch cannot be checked: {reason}; {_OFF}", stacklevel=4)
    return True


class _Rescoring:
    """Losses of a large batch, and how far those of parts of it are from them."""

    def __init__(self, context: ScoringContext, batch: Any, module: nn.Module) -> None:
        self.context, self.batch, self.module = context, batch, module
        self.sharded = sharded(module.modules())
        # Losses of training mode are no losses of eval mode.
        self.losses = self.score(batch) if context.options.train_mode else context.losses
        root = rounding_of(module) ** 0.5
        usual = self.losses[self.losses.isfinite()].abs()
        typical = max(1.0, float(usual.median())) if len(usual) else 1.0
        self.tolerance = root * self.losses.abs().clamp_min(typical)
        # Before a model has learnt, all examples can have one loss, whatever was cut. All ranks of
        # a sharded model must check the same selections.
        spread = float(usual.std()) if len(usual) > 1 else 0.0
        self.tells = self.sharded or spread > 4 * root * typical

    def score(self, batch: Any) -> Tensor:
        """Return the losses of a batch, float32 (n,)."""
        fields = split(batch, needs_ids=False, needs_labels=self.context.loss_fn is None)
        one = self.context.of(self.module, batch, fields)
        if self.sharded:  # as many passes on all ranks, whatever their k
            one.options = replace(one.options, micro_batch=None)
        return one.losses

    def gap(self, batch: Any, rows: Tensor) -> float:
        """Return how far the losses of a batch are from those of `rows`, 0 within rounding."""
        found, wanted = self.score(batch), self.losses[rows]
        same = (found == wanted) | (found.isnan() & wanted.isnan())
        gaps = (found - wanted).abs().nan_to_num(torch.inf)
        return float(gaps.masked_fill(same | (gaps <= self.tolerance[rows]), 0.0).max())

    def reason(self, small: Any, rows: Tensor, proxy: bool) -> str | None:
        """Return why the small batch cannot be checked, None if it is right, else raise."""
        n, k, error = len(self.context.ids), len(rows), None
        try:
            gap = self.gap(small, rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as caught:
            error, gap = caught, torch.inf
            what = f"the model fails on them: {type(error).__name__}: {error}"
            if proxy:  # which need not take small batches
                return what
        else:
            what = f"their losses differ by up to {gap:.3g} nats from those that selected them"
        if gap == 0.0:
            return None
        fields = {
            name: one
            for name, one in leaves(self.batch, n)
            if isinstance(one, (Tensor, np.ndarray, list)) and getattr(one, "ndim", True)
        }
        cut = [name for name, value in fields.items() if len(value) == n]
        whole = [name for name in fields if name not in cut]
        every = torch.arange(n, dtype=torch.int64, device=rows.device)
        if error is None:
            if self.sharded:  # all ranks would have to make the same passes
                return f"{what}, and why is not known of a sharded model"
            if self.gap(gather(self.batch, n, every), every):
                return (
                    "scored twice, the same examples have other losses, so the model draws random "
                    "numbers or keeps a state"
                )
        for name in () if self.sharded else cut:
            if self._equal(rows, whole=fields[name]):
                what += f", but not if the field {name} stays whole: all examples share it"
                break
        else:
            if error is None and (not whole or self._equal(every.flip(0))):
                return (
                    f"the loss of an example depends on the others of its batch (that of the "
                    f"{k} selected ones by up to {gap:.3g} nats)"
                )

        def listed(names: list[str]) -> str:
            return ", ".join(f"{name} ({describe(fields[name])})" for name in names) or "nothing"

        raise ValueError(
            f"Selector: the {k} selected examples of {n} are not cut right from the batch: {what}. "
            f"Cut as one row an example: {listed(cut)}; left whole: {listed(whole)}. Give every "
            "field one row an example in its first dimension, and keep out of the batch what all "
            f"share; {_OFF}"
        ) from error

    def _equal(self, rows: Tensor, whole: object = None) -> bool:
        batch = gather(self.batch, len(self.context.ids), rows, whole=whole)
        try:
            return self.gap(batch, rows) == 0.0
        except Exception:  # a model may raise anything on a batch that is cut another way
            return False
