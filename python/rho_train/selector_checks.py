"""What can be wrong with a Selector or its batches, said with the way out."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from rho_train.batch import Fields
from rho_train.history import History
from rho_train.il.shards import ILShards
from rho_train.il.store import ILStore
from rho_train.schedules import Schedule, UniformPhases, values_of
from rho_train.scoring import ForwardFunction, LossFunction


def check_size(ratio: float | Schedule | None, k: int | None) -> None:
    """Refuse anything but one of a share in (0, 1] and a positive integer."""
    if (ratio is None) == (k is None):
        raise ValueError(f"Selector: give either ratio or k, got ratio={ratio} and k={k}")
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float, Schedule)):
            raise TypeError(f"Selector: ratio must be a number or a Schedule, got {ratio!r}")
        if not all(0.0 < value <= 1.0 for value in values_of(ratio)):
            raise ValueError(
                f"Selector: ratio must lie in (0, 1], the share of the large batch that is kept, "
                f"got {ratio}; for a number of points use k="
            )
    if k is not None:
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"Selector: k must be an int, got {k!r}; for a share use ratio=")
        if k < 1:
            raise ValueError(f"Selector: k must be at least 1, got {k}")


def check_options(
    label_smoothing: float, phases: UniformPhases | None, seed: int, check_every: int | None
) -> None:
    """Refuse what would fail at the first batch only."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"Selector: label_smoothing must lie in [0, 1], got {label_smoothing}")
    if phases is not None and not isinstance(phases, UniformPhases):
        raise TypeError(f"Selector: phases must be UniformPhases, got {type(phases).__name__}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"Selector: seed must be an int, got {seed!r}")
    if check_every is not None and (
        isinstance(check_every, bool) or not isinstance(check_every, int) or check_every < 1
    ):
        raise ValueError(f"Selector: check_every must be a positive int, got {check_every!r}")


def check_refresh(
    refresh: float, method: object, needs: Collection[str], history: History | None
) -> None:
    """Refuse old losses where there are none, or where a method looks at more than losses."""
    if history is not None and not isinstance(history, History):
        raise TypeError(f"Selector: history must be a History, got {type(history).__name__}")
    if refresh == 1.0:
        return
    if history is None:
        raise ValueError(
            f"Selector: Scoring(refresh={refresh}) needs the last losses; pass "
            "history=History(len(dataset))"
        )
    if {"logits", "dropout"} & set(needs):
        raise ValueError(
            f"Selector: Scoring(refresh={refresh}) knows losses alone, and method {method!r} needs "
            "the logits of all points; choose another method, or refresh=1"
        )


def check_losses(
    loss_fn: LossFunction | None,
    method: object,
    needs: Collection[str],
    forward: ForwardFunction | None,
    label_smoothing: float,
) -> None:
    """Refuse what a function that returns losses leaves without a meaning."""
    if loss_fn is None:
        return
    if not callable(loss_fn):
        raise TypeError(
            "Selector: loss_fn must be a function of the model and a batch that returns the loss of "
            f"each example, got {type(loss_fn).__name__}"
        )
    if forward is not None or label_smoothing:
        raise ValueError(
            "Selector: loss_fn= calls the model itself and gives the losses as they are; leave "
            f"{'label_smoothing' if forward is None else 'forward'} out, and do there what it does"
        )
    if missing := {"logits", "dropout", "classes"} & set(needs):
        raise ValueError(
            f"Selector: loss_fn= gives the loss of a point alone, and method {method!r} needs "
            f"{' and '.join(sorted(missing))}; choose a method of losses, as rho or loss"
        )


def check_smoothing(label_smoothing: float, needs: Collection[str], il: object) -> None:
    """Refuse to subtract a loss without label smoothing from one with it.

    Points that are learnt as well as smoothing lets them be would come before others.
    """
    if label_smoothing and "il" in needs and isinstance(il, (ILStore, ILShards)):
        raise ValueError(
            f"Selector: label_smoothing = {label_smoothing}, and the losses in the store are "
            "without; leave it out, or give a smoothed loss as loss_fn= to the store's function "
            "and to the Selector"
        )


def check_batch(batch: object, fields: Fields, *, classes: bool, first: bool) -> None:
    """Refuse labels that are no `classes`, and ids that are something else.

    The third element of a plain tuple may be lengths or weights, from a collate_fn that pads, which
    would silently name other points; only the `first` batch is looked at.
    """
    if classes and fields.labels.ndim != 1:
        raise ValueError(
            f"Selector: labels must have shape (n,), one class a point, got "
            f"{tuple(fields.labels.shape)}; for sequences and other points that are no "
            "classification give loss_fn=, which returns the loss of each"
        )
    plain = first and isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields")
    if plain and len(fields.ids.unique()) < len(fields.ids):  # type: ignore[no-untyped-call]
        raise ValueError(
            f"Selector: the third element of a {type(batch).__name__} repeats, so it holds no ids: "
            "keep the ids of IndexedDataset there; points that are drawn more than once belong "
            "into a rho_train.Batch(x, y, ids)"
        )


def _cause(n: int, invalid: int, losses: Tensor | None) -> str:
    bad = 0 if losses is None else int((~losses.isfinite()).sum())
    if bad:
        return (
            f"{bad} of {n} losses are NaN or infinite: the model has diverged, then go back to a "
            "checkpoint and lower the learning rate or clip the gradients; or these points have no "
            "loss, as with labels out of range on CUDA and sequences without a label"
        )
    if invalid:
        return (
            f"the irreducible loss of {invalid} of {n} points is unknown (NaN); train on points "
            "that the store covers, for a holdout store those that are not held out"
        )
    return (
        f"all {n} points are left out: their labels are ignore_index, or their scores -inf, as by "
        "a mask or an infinite irreducible loss"
    )


def some_invalid(invalid: int, n: int, losses: Tensor | None) -> str:
    """Say once why points are left out."""
    return (
        f"Selector: points without a usable score are never selected: {_cause(n, invalid, losses)} "
        "(said once; Selector.invalid counts them)"
    )


def nothing_left(step: int, n: int, invalid: int, losses: Tensor | None) -> FloatingPointError:
    """Return the error of a batch of which nothing can be trained on."""
    cause = _cause(n, invalid, losses)
    return FloatingPointError(f"Selector: step {step}: no point can be selected: {cause}")
