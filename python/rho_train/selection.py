"""Records of a selection: pending until it is applied, then the last one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from torch import Tensor

from rho_train.methods.context import Method, ScoringContext, Selected

T = TypeVar("T")


@dataclass(eq=False)
class PendingSelection(Generic[T]):
    """A selection before it is counted; a stand-in is that of `select_globally`."""

    batch: T
    context: ScoringContext
    selected: Selected
    method: Method
    score_seconds: float
    stand_in: bool


@dataclass(frozen=True, eq=False)
class LastSelection:
    """The selection of k examples of the last large batch of n.

    `ids` int64 (n,); `losses` float32 (n,) in nats, None where nothing was scored, as by `uniform`;
    `indices` int64 (k,), rows of the batch, and `values` float32 (k,), their scores, the highest
    first; `weights` float32 (k,), factors of the losses of the returned batch, in its order, before
    they are averaged; None: 1. With `scope="global"` k is the number of examples of this rank; one
    without any has a stand-in of weight 0 and value -inf. `selected` is the result of the method
    without padding, in inference mode; all others can enter a loss.
    """

    ids: Tensor
    selected: Selected
    weights: Tensor | None = None

    # Copied on first access, to keep steps cheap.
    @cached_property
    def losses(self) -> Tensor | None:
        """Losses of the large batch, float32 (n,)."""
        return None if self.selected.losses is None else _for_autograd(self.selected.losses)

    @cached_property
    def indices(self) -> Tensor:
        """Selected rows of the large batch, int64 (k,)."""
        return _for_autograd(self.selected.indices)

    @cached_property
    def values(self) -> Tensor:
        """Their scores, float32 (k,)."""
        return _for_autograd(self.selected.values)


def _for_autograd(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
