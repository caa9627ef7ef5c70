"""How much of what is chosen in one epoch was chosen in the epoch before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Overlap:
    """The distinct points chosen in this epoch and in the one before, one bit each by id.

    An epoch is one pass of large batches, as in the paper. A selection that does not care for the
    point chooses the share k / n_B of it again.

    Args:
        n: number of ids.
        device: of the ids that are chosen.

    Example:
        >>> overlap = Overlap(4)
        >>> overlap.add(torch.tensor([0, 2]))
        >>> overlap.turn()
        (2, None)
        >>> overlap.add(torch.tensor([2, 3, 2]))
        >>> overlap.turn()
        (2, 1)
    """

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        self._now = torch.zeros(n, dtype=torch.bool, device=device)
        self._before: Tensor | None = None

    def add(self, ids: Tensor) -> None:
        """Note the ids chosen in a step, integers (k,)."""
        self._now.index_fill_(0, ids.long(), True)

    def turn(self) -> tuple[int, int | None]:
        """End an epoch: the distinct points chosen in it, and how many of them in the one before.

        Waits for the device, once an epoch.
        """
        distinct = int(self._now.sum())
        again = None if self._before is None else int((self._now & self._before).sum())
        self._before, self._now = self._now, torch.zeros_like(self._now)
        return distinct, again

    def state_dict(self) -> dict[str, Tensor | None]:
        """Return both epochs' points."""
        return {"now": self._now, "before": self._before}

    def load_state_dict(self, state: Mapping[str, Tensor | None]) -> None:
        """Go on from what `state_dict` returned."""
        now, before = state["now"], state["before"]
        assert now is not None
        self._now = now.to(self._now.device)
        self._before = None if before is None else before.to(self._now.device)
