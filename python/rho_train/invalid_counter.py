"""Points without a usable score: counted, said once, and never returned."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from rho_train.methods.context import Selected
from rho_train.selector_checks import nothing_left, some_invalid

_EVERY_ON_CUDA = 50


class InvalidCounter:
    """Cuts what a method chose to the points that there are, and counts the invalid ones.

    Args:
        every: selections after which the host reads what the device has counted; None: 1 on the
            CPU and 50 on CUDA.
    """

    def __init__(self, every: int | None) -> None:
        self.invalid = 0
        self._every = every
        # What the device has counted and the host has not read.
        self._unread: Tensor | int = 0
        self._empty: Tensor | int = 0
        self._warned = False

    def rows(self, chosen: Selected, step: int, n: int) -> Selected:
        """Return a choice without padding, and count it.

        Raises:
            FloatingPointError: no point of a large batch of n was usable.
        """
        every = self._every or (_EVERY_ON_CUDA if chosen.indices.is_cuda else 1)
        # Reading is one call of torch, adding on the device and reading two.
        self._unread = self._unread + (int(chosen.invalid) if every == 1 else chosen.invalid)
        if every == 1 or len(chosen.indices) == 0:
            chosen = cut(chosen, step, n)
        else:
            # No shape may depend on what the device has found: the best point fills up.
            padding = chosen.indices < 0
            self._empty = self._empty + padding[0]
            best = torch.arange(len(padding), device=padding.device).masked_fill(padding, 0)
            chosen = _at(chosen, best)
            chosen = chosen._replace(indices=chosen.indices.clamp_min(0))
        if (step + 1) % every == 0:
            self._read(chosen, n)
        return chosen

    def _read(self, chosen: Selected, n: int) -> None:
        # A batch that had no point may be any of those since the last time, so not this one.
        invalid = self.flush()
        if invalid and not self._warned:
            self._warned = True
            warnings.warn(some_invalid(invalid, n, chosen.losses), stacklevel=4)

    def restore(self, invalid: int) -> None:
        """Go back to a count, and forget what the device has counted since."""
        self.invalid, self._unread, self._empty = invalid, 0, 0

    def flush(self) -> int:
        """Add what the host has not read to `invalid`, and return it.

        Raises:
            FloatingPointError: a large batch since had no usable point.
        """
        unread, empty = int(self._unread), int(self._empty)
        self._empty = 0
        if empty:
            raise FloatingPointError(
                f"Selector: {empty} large batches since the host looked last had no point that can "
                "be selected; Selector(check_every=1) says at which step and why"
            )
        self.invalid, self._unread = self.invalid + unread, 0
        return unread


def cut(chosen: Selected, step: int, n: int) -> Selected:
    """Cut a choice to the rows that there are; the padding stands at the end.

    Raises:
        FloatingPointError: there is none.
    """
    if len(chosen.indices) and int(chosen.indices[-1]) >= 0:
        return chosen
    found = int((chosen.indices >= 0).sum())
    if found == 0:
        raise nothing_left(step, n, int(chosen.invalid), chosen.losses)
    return _at(chosen, slice(found))


def _at(chosen: Selected, positions: slice | Tensor) -> Selected:
    return chosen._replace(
        indices=chosen.indices[positions],
        values=chosen.values[positions],
        weights=None if chosen.weights is None else chosen.weights[positions],
    )
