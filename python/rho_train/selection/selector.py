"""The Selector: three changed lines turn a training loop into RHO-LOSS."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.data.batch import split, take
from rho_train.il.store import ILStore
from rho_train.scoring import logits_of, scoring

T = TypeVar("T")

METHODS = ("rho", "loss", "neg_il", "grad_norm", "entropy")
_NEED_IL = ("rho", "neg_il")
_SETTINGS = ("method", "ratio", "k", "bf16", "ignore_index", "label_smoothing")
_COUNTERS = ("steps", "scored", "selected", "invalid")


@dataclass(frozen=True)
class LastSelection:
    """What the Selector did with the last large batch of n points, k of which were kept.

    `ids` int64 (n,); `losses` float32 (n,) in nats; `indices` int64 (k,), rows of the batch, and
    `values` float32 (k,), their scores, the highest first.
    """

    ids: Tensor
    losses: Tensor
    indices: Tensor
    values: Tensor


@dataclass
class Selector:
    """Keep the points of a large batch that are worth a training step.

    Scores every point by training loss minus irreducible loss (Mindermann et al., ICML 2022,
    Algorithm 1, line 7) and returns the best ones as a batch of the same structure. Scoring
    leaves the model, its BatchNorm statistics and the random state as they were.

    Args:
        il: irreducible losses by id, an ILStore or a tensor (N,); only `rho` and `neg_il` need it.
        ratio: share of the large batch that is kept, in (0, 1]; k = max(1, round(ratio * n)).
        k: number of points that are kept; give either `ratio` or `k`.
        method: `rho`, `loss`, `neg_il`, `grad_norm` or `entropy`, see `rho_ext.select`.
        bf16: score under bfloat16 autocast, or without; None: as it is outside.
        ignore_index: points with this label are never selected.
        label_smoothing: as in the training loss.
        forward: called as `forward(model, batch)`, returns logits (n, C); by default the model is
            called on the inputs of the batch.

    Raises:
        TypeError, ValueError: an argument is not as described; at the first batch: the batch has
            no ids, or does not fit the table.

    Example:
        >>> from rho_train import Batch
        >>> selector = Selector(il=torch.zeros(4), k=1)
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
        >>> selector(nn.Identity(), Batch(x, y, torch.tensor([3, 1]))).ids
        tensor([1])
    """

    il: ILStore | Tensor | None = None
    ratio: float | None = None
    k: int | None = None
    method: str = "rho"
    bf16: bool | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    forward: Callable[[nn.Module, Any], Tensor] | None = None
    last: LastSelection | None = field(default=None, init=False, repr=False)
    steps: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    selected: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.k is None):
            raise ValueError(
                f"Selector: give either ratio or k, got ratio={self.ratio} and k={self.k}"
            )
        if self.ratio is not None and not 0.0 < self.ratio <= 1.0:
            raise ValueError(
                f"Selector: ratio must lie in (0, 1], the share of the large batch that is kept, "
                f"got {self.ratio}; for a number of points use k="
            )
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int)):
            raise TypeError(f"Selector: k must be an int, got {self.k!r}; for a share use ratio=")
        if self.k is not None and self.k < 1:
            raise ValueError(f"Selector: k must be at least 1, got {self.k}")
        if self.method not in METHODS:
            raise ValueError(
                f"Selector: method must be one of {', '.join(METHODS)}, got {self.method!r}"
            )
        if self.method in _NEED_IL and self.il is None:
            raise ValueError(
                f"Selector: method '{self.method}' needs irreducible losses; pass il=, an ILStore "
                "(rho_train.holdout_il or rho_train.crossfit_il make one) or a tensor by id"
            )
        self._table = self.il.il if isinstance(self.il, ILStore) else self.il
        if self._table is not None and not isinstance(self._table, Tensor):
            raise TypeError(
                f"Selector: il must be an ILStore or a tensor (N,), got {type(self.il).__name__}; "
                "a file is read with ILStore.load(path, dataset)"
            )
        self._warned = False

    @property
    def table(self) -> Tensor | None:
        """The irreducible losses by id, (N,), on the device that scored last."""
        return self._table

    def size(self, n: int) -> int:
        """Return how many points are kept of a large batch of n.

        Raises:
            ValueError: k is larger than the batch.
        """
        if self.ratio is not None:
            # Rounding, not int(): 0.29 * 100 is 28.999... in floating point.
            return max(1, math.floor(self.ratio * n + 0.5))
        assert self.k is not None
        if self.k > n:
            raise ValueError(
                f"Selector: k = {self.k} is larger than the batch of {n}; load larger batches, or "
                "give the DataLoader drop_last=True if only the last one is short"
            )
        return self.k

    def __call__(self, model: nn.Module, batch: T) -> T:
        """Return the selected points of a large batch, in its structure.

        Raises:
            ValueError: the batch has no ids, or is smaller than k.
            IndexError: a label or an id is out of range.
            FloatingPointError: no point has a finite score, as after a divergence.
        """
        started = time.perf_counter()
        fields = split(batch)
        k = self.size(len(fields.ids))
        with scoring(model, bf16=self.bf16) as scorer:
            if self.forward is None:
                logits = logits_of(scorer, fields.inputs)
            else:
                logits = self.forward(scorer, batch)
            self._table = _on_device(self._table, logits.device)
            chosen = rho_ext.select(
                logits,
                fields.labels,
                fields.ids,
                k,
                il=self._table,
                method=self.method,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
            )
        invalid = int(chosen.invalid)
        indices, values = chosen.indices, chosen.values
        if indices[-1] < 0:
            # Fewer than k points remain; the padding stands at the end.
            found = int((indices >= 0).sum())
            indices, values = indices[:found], values[:found]
        if len(indices) == 0:
            raise _nothing_left(self.steps, len(fields.ids), invalid, chosen.losses)
        if invalid and not self._warned:
            self._warned = True
            warnings.warn(_some_invalid(invalid, len(fields.ids), chosen.losses), stacklevel=2)
        self.last = LastSelection(fields.ids, chosen.losses, indices, values)
        self.steps += 1
        self.scored += len(fields.ids)
        self.selected += len(indices)
        self.invalid += invalid
        # In the order of the large batch, so that ratio = 1 is plain training to the bit.
        small = take(batch, indices.sort().values)
        self.seconds += time.perf_counter() - started
        return small

    def identity(self) -> dict[str, Any]:
        """Return everything that decides what is selected, the table as its SHA-256."""
        table = self._table
        return {
            **{name: getattr(self, name) for name in _SETTINGS},
            "il": table if table is None else hashlib.sha256(_bytes(table)).hexdigest(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and the seconds spent, for a checkpoint."""
        return {name: getattr(self, name) for name in (*_COUNTERS, "seconds")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the counters of `state_dict`."""
        for name in (*_COUNTERS, "seconds"):
            setattr(self, name, state[name])


def _on_device(table: Tensor | None, device: torch.device) -> Tensor | None:
    return table if table is None or table.device == device else table.to(device)


def _bytes(table: Tensor) -> memoryview:
    return table.cpu().contiguous().view(torch.uint8).numpy().data


def _cause(n: int, invalid: int, losses: Tensor) -> str:
    bad = int((~losses.isfinite()).sum())
    if bad:
        return (
            f"{bad} of {n} losses are NaN or infinite: the model has diverged; go back to a "
            "checkpoint and lower the learning rate or clip the gradients"
        )
    if invalid:
        return (
            f"the irreducible loss of {invalid} of {n} points is unknown (NaN); train on points "
            "that the store covers, for a holdout store those that are not held out"
        )
    return f"all {n} labels are ignore_index"


def _some_invalid(invalid: int, n: int, losses: Tensor) -> str:
    return (
        f"Selector: points without a usable score are never selected: {_cause(n, invalid, losses)} "
        "(said once; Selector.invalid counts them)"
    )


def _nothing_left(step: int, n: int, invalid: int, losses: Tensor) -> FloatingPointError:
    cause = _cause(n, invalid, losses)
    return FloatingPointError(f"Selector: step {step}: no point can be selected: {cause}")
