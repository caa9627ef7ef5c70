"""Checks of settings, ids and labels before anything is computed with them."""

from __future__ import annotations

import inspect
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from rho_train.batch import describe

MakeModel: TypeAlias = Callable[[int], nn.Module]
"""Builds a fresh model from a seed."""


def check_counts(config: object, *names: str, least: int = 1) -> None:
    """Refuse fields of a configuration that are no integers of at least `least`."""
    where = type(config).__name__
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{where}: {name} must be an int, got {value!r}")
        if value < least:
            raise ValueError(f"{where}: {name} must be at least {least}, got {value}")


def check_ids(where: str, name: str, ids: Any, n: int) -> None:
    """Refuse ids that are no int64 tensor (m,), m > 0, of different values in [0, n)."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        fix = "mask.nonzero().flatten()" if "bool" in got else "torch.as_tensor(ids)"
        raise TypeError(f"{where}: {name} must be an int64 tensor (m,), got {got}; pass {fix}")
    if len(ids) == 0:
        raise ValueError(f"{where}: {name} must have at least one id, got none")
    bad = outside(ids, n)
    if bad is not None:
        raise IndexError(f"{where}: {name} must lie in [0, {n}), got {bad}")
    seen = torch.zeros(n, dtype=torch.bool, device=ids.device).index_fill_(0, ids, True)
    repeats = len(ids) - int(seen.sum())
    if repeats:
        fix = f"pass {name}.unique()"
        raise ValueError(f"{where}: {name} must not repeat, got {repeats} repeats; {fix}")


def check_rows(where: str, ids: Tensor, rows: int, fix: str) -> None:
    """Refuse ids of a batch that a table has no row for; not on CUDA, which would be a sync."""
    bad = None if ids.is_cuda else outside(ids, rows)
    if bad is not None:
        raise IndexError(f"{where}: ids must lie in [0, {rows}), got {bad}; {fix}")


def outside(values: Tensor, end: int) -> int | None:
    """Return a value outside [0, end), None if there is none."""
    if values.numel() == 0:
        return None
    low, high = (int(bound) for bound in values.aminmax())
    return low if low < 0 else high if high >= end else None


def check_labels(
    where: str, labels: Tensor, ids: Tensor, classes: int, ignore_index: int = -100
) -> None:
    """Refuse labels (m,) of `ids` outside [0, classes) that are not, or all, `ignore_index`."""
    used = labels != ignore_index
    bad = (used & ((labels < 0) | (labels >= classes))).nonzero().flatten()
    if len(bad):
        raise IndexError(
            f"{where}: labels must lie in [0, {classes}), the classes, or be {ignore_index}; got "
            f"{len(bad)} others, the first is {int(labels[bad[0]])} of id {int(ids[bad[0]])}"
        )
    if not used.any():
        raise ValueError(f"{where}: all {len(labels)} labels are ignore_index = {ignore_index}")


def check_flags(where: str, flags: Mapping[str, Tensor], n: int) -> None:
    """Refuse flags of the examples of a data set of n that are no bool (n,)."""
    taken = {"event", "method", "seed", "step", "loss", "selected", "correct", "invalid", "seconds"}
    if bad := ", ".join(sorted(taken & set(flags))):
        raise ValueError(f"{where}: flags named {bad} are fields of every record; rename")
    for name, flag in flags.items():
        if not isinstance(flag, Tensor) or flag.dtype != torch.bool or flag.shape != (n,):
            raise ValueError(
                f"{where}: flags must be bool ({n},), by id, got {name!r}: {describe(flag)}"
            )


def check_test(where: str, test: int, rows: int) -> None:
    """Refuse a number of test rows that leaves no row for either part."""
    if not 1 <= test < rows:
        raise ValueError(f"{where}: test must lie in [1, {rows}), the number of rows, got {test}")


def check_factory(where: str, make_model: Any) -> None:
    """Refuse what is no function of a seed, such as a model."""
    got = f"a {type(make_model).__name__}"
    if not isinstance(make_model, nn.Module):
        try:
            inspect.signature(make_model).bind(0)
            return
        except ValueError:
            return  # a function of C, whose arguments are not known
        except TypeError as error:
            got = f"{got} ({error})"
    wanted = "make_model must be a function that builds a model from a seed"
    raise ValueError(f"{where}: {wanted}, got {got}; pass lambda seed: Model(...)")


def build_model(where: str, make_model: Any, seed: int) -> nn.Module:
    """Build a model from a seed, which torch draws from too; refuse what else is returned."""
    check_factory(where, make_model)
    # All devices. A function that ignores its seed must build the same model when work goes on.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = make_model(seed)
    if not isinstance(model, nn.Module):
        got = f"{type(model).__name__}; return the model"
        raise ValueError(f"{where}: make_model must return an nn.Module, got {got}")
    return model


def warn_of_classes(where: str, labels: Tensor, test_labels: Tensor, names: Sequence[str]) -> None:
    """Warn of classes without training examples; negative labels are of none."""
    train, test = (set(np.unique(part[part >= 0]).tolist()) for part in (labels, test_labels))
    largest = max(train | test, default=-1)
    count = len(names) or largest + 1
    if largest >= count:
        raise ValueError(f"{where}: there are {count} names of classes, the labels go to {largest}")
    only = test - train
    first = int((test_labels == min(only, default=0)).int().argmax())
    # Enough numbers for the first seven that are missing.
    some = range(min(count, len(train | test) + 7))
    for found, problem in (
        (only, f"only in the test set, first in its example {first}; shuffle before the split"),
        (set(some) - train - test, "without an example; add some, or number classes 0, 1, 2, ..."),
        (train if len(train) == 1 else (), "all that is trained on; there is nothing to learn"),
    ):
        if found:
            shown = reprlib.repr([names[c] if names else c for c in sorted(found)])
            warnings.warn(f"{where}: the classes {shown} are {problem}", stacklevel=4)
