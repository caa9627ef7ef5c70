"""Checks of the settings of a Selector and of its first batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor, nn

from rho_train.batch import Fields
from rho_train.global_scope import Scope
from rho_train.history import History
from rho_train.il.shards import ILShards
from rho_train.il.store import ILStore
from rho_train.online import OnlineModel
from rho_train.schedules import Schedule, UniformPhases, values_of

if TYPE_CHECKING:
    from rho_train.selector import Selector


def check_options(selector: Selector) -> None:
    """Refuse values that would fail at the first batch only."""
    ratio, k, every = selector.ratio, selector.k, selector.check_every
    if (ratio is None) == (k is None):
        raise ValueError(f"Selector: give either ratio or k, got ratio={ratio} and k={k}")
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float, Schedule)):
            raise TypeError(f"Selector: ratio must be a number or a Schedule, got {ratio!r}")
        if not all(0.0 < value <= 1.0 for value in values_of(ratio)):
            raise ValueError(
                "Selector: ratio must lie in (0, 1], the share of the large batch that is "
                f"selected, got {ratio}; for a number of examples use k="
            )
    if k is not None:
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"Selector: k must be an int, got {k!r}; for a share use ratio=")
        if k < 1:
            raise ValueError(f"Selector: k must be at least 1, got {k}")
    smoothing, phases, history = selector.label_smoothing, selector.phases, selector.history
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"Selector: label_smoothing must lie in [0, 1], got {smoothing}")
    if phases is not None and not isinstance(phases, UniformPhases):
        raise TypeError(f"Selector: phases must be UniformPhases, got {type(phases).__name__}")
    if isinstance(selector.seed, bool) or not isinstance(selector.seed, int):
        raise TypeError(f"Selector: seed must be an int, got {selector.seed!r}")
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"Selector: check_every must be a positive int, got {every!r}")
    if history is not None and not isinstance(history, History):
        raise TypeError(f"Selector: history must be a History, got {type(history).__name__}")
    scorer = selector.scorer
    if scorer is not None and not isinstance(scorer, (nn.Module, OnlineModel)):
        raise TypeError(
            f"Selector: scorer must be a module or an OnlineModel, got {type(scorer).__name__}"
        )


def check_method(selector: Selector, found: object) -> None:
    """Refuse settings that lack the needs of the method that was found."""
    needs = selector.needs
    method, il, refresh = selector.method, selector.il, selector.scoring.refresh
    loss_fn, forward, smoothing = selector.loss_fn, selector.forward, selector.label_smoothing
    if "il" in needs and il is None:
        raise ValueError(
            f"Selector: method {method!r} needs irreducible losses; pass il=, an ILStore "
            "(rho_train.holdout_il or rho_train.crossfit_il make one) or a tensor by id"
        )
    if refresh < 1.0 and selector.history is None:
        raise ValueError(
            f"Selector: Scoring(refresh={refresh}) needs the last losses; pass "
            "history=History(len(dataset))"
        )
    if refresh < 1.0 and {"logits", "dropout"} & needs:
        raise ValueError(
            f"Selector: Scoring(refresh={refresh}) knows losses alone, and method {method!r} needs "
            "the logits of all examples; choose another method, or refresh=1"
        )
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(
            "Selector: loss_fn must be a function of the model and a batch that returns the loss "
            f"of each example, got {type(loss_fn).__name__}"
        )
    if loss_fn is not None and (forward is not None or smoothing):
        raise ValueError(
            "Selector: loss_fn= calls the model itself and gives the losses as they are; leave "
            f"{'label_smoothing' if forward is None else 'forward'} out, and do there what it does"
        )
    missing = {"logits", "dropout", "classes"} & needs
    if loss_fn is not None and missing:
        raise ValueError(
            f"Selector: loss_fn= gives the loss of an example alone, and method {method!r} needs "
            f"{' and '.join(sorted(missing))}; choose a method of losses, as rho or loss"
        )
    if smoothing and "il" in needs and isinstance(il, (ILStore, ILShards)):
        # Examples learnt as well as smoothing lets them be would come before others.
        raise ValueError(
            f"Selector: label_smoothing = {smoothing}, and the losses in the store are "
            "without; leave it out, or give a smoothed loss as loss_fn= to the store's function "
            "and to the Selector"
        )
    _check_scope(selector, pointwise=getattr(found, "pointwise", False))


def _check_scope(selector: Selector, pointwise: bool) -> None:
    """Refuse settings with which several ranks would not select as one process does."""
    if selector.scope not in get_args(Scope):
        raise ValueError(f"Selector: scope must be 'local' or 'global', got {selector.scope!r}")
    if selector.scope == "local":
        return
    if not pointwise:
        raise ValueError(
            "Selector: scope='global' needs a method that scores each example for itself, and "
            f"{selector.method!r} does not say so; choose rho or loss, for example, or "
            "scope='local'. For a method of your own that does: register(name, pointwise=True)"
        )
    if selector.scoring.refresh < 1.0 or selector.scoring.train_mode:
        raise ValueError(
            "Selector: scope='global' needs scores that do not depend on the rank; leave "
            "Scoring(refresh=..., train_mode=...) at their defaults, or choose scope='local'"
        )
    for name in ("il", "scorer", "phases"):
        part = getattr(selector, name)
        # Every rank would train its own model, or draw its own uniform selection.
        if isinstance(part, (OnlineModel, UniformPhases)):
            raise ValueError(
                f"Selector: scope='global' does not go with {name}={type(part).__name__}(...), "
                "which is of one rank; leave it out, or choose scope='local'"
            )


def il_table(il: object) -> Tensor | None:
    """Return the table by id of `Selector(il=...)`, (N,); None where there is none."""
    if il is None or isinstance(il, (ILShards, OnlineModel)):
        return None
    table = il.il if isinstance(il, ILStore) else il
    if not isinstance(table, Tensor):
        raise TypeError(
            "Selector: il must be an ILStore, ILShards, a tensor (N,) or an OnlineModel, got "
            f"{type(il).__name__}; a file is read with ILStore.load(path, dataset)"
        )
    if table.ndim != 1 or table.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            "Selector: il must be a float32, float16 or bfloat16 tensor (N,), got "
            f"{str(table.dtype).removeprefix('torch.')} {tuple(table.shape)}"
        )
    return table


def check_batch(batch: object, fields: Fields, *, classes: bool, first: bool) -> None:
    """Refuse labels that are no `classes`, and in the `first` batch ids that are something else.

    The third element of a plain tuple may be lengths or weights, from a collate_fn that pads, which
    would silently name other examples.
    """
    if classes and fields.labels.ndim != 1:
        raise ValueError(
            f"Selector: labels must have shape (n,), one class an example, got "
            f"{tuple(fields.labels.shape)}; for sequences and other examples without one class "
            "give loss_fn=, which returns the loss of each"
        )
    plain = first and isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields")
    if plain and len(fields.ids.unique()) < len(fields.ids):  # type: ignore[no-untyped-call]
        raise ValueError(
            f"Selector: the third element of a {type(batch).__name__} repeats, so it holds no ids: "
            "keep the ids of IndexedDataset there; examples that are drawn more than once belong "
            "into a rho_train.Batch(x, y, ids)"
        )
