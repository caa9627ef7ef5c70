"""Counts and the last loss of every example in selection, 16 bytes an id."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rho_train.checks import check_counts


class History:
    """Counts and the last loss of all n ids of a data set, which a Selector updates.

    `seen` int32 (n,), times in a large batch; `selected` int32 (n,), times selected; `loss` float32
    (n,) in nats, of the last scoring, NaN before it; `step` int32 (n,), the selection of that
    scoring, -1 before it.

    Examples:
        >>> from rho_train import Batch, Selector
        >>> selector = Selector(k=1, method="loss", history=History(9))
        >>> batch = Batch(torch.eye(2), torch.zeros(2).long(), torch.tensor([7, 5]))
        >>> small = selector(torch.nn.Identity(), batch)
        >>> selector.history.selected[5:8], selector.history.loss[5]
        (tensor([1, 0, 0], dtype=torch.int32), tensor(1.3133))
    """

    def __init__(self, n: int) -> None:
        self.n = n
        check_counts(self, "n")
        self.seen = torch.zeros(n, dtype=torch.int32, device="cpu")
        self.selected = torch.zeros_like(self.seen)
        self.loss = torch.full((n,), torch.nan, dtype=torch.float32, device="cpu")
        self.step = torch.full_like(self.seen, -1)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"History({len(self)} ids, {int((self.seen > 0).sum())} seen)"

    def to(self, device: torch.device) -> None:
        """Move to a device, if it is not there."""
        if self.seen.device != device:
            for name, value in self.state_dict().items():
                setattr(self, name, value.to(device))

    def add(self, step: int, ids: Tensor, selected: Tensor, losses: Tensor | None) -> None:
        """Count a selection from ids, with their `losses` if scored."""
        one = self.seen.new_ones(())
        self.seen.index_add_(0, ids, one.expand(len(ids)))
        self.selected.index_add_(0, selected, one.expand(len(selected)))
        if losses is not None:
            self.loss[ids] = losses.float()
            self.step[ids] = step

    def state_dict(self) -> dict[str, Any]:
        """Return the four columns, for a checkpoint."""
        return {name: getattr(self, name) for name in ("seen", "selected", "loss", "step")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the columns of `state_dict`; ValueError if they have another number of ids."""
        if len(state["seen"]) != len(self):
            got = f"the state has {len(state['seen'])} ids, this history {len(self)}"
            raise ValueError(f"History: {got}; they must be of one data set")
        for name, value in state.items():
            getattr(self, name).copy_(value)
