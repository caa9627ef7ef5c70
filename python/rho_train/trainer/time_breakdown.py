"""The ledger of a run: what its seconds were spent on."""

from __future__ import annotations

import time
from collections.abc import Mapping

STEP_PARTS = ("loading", "scoring", "selecting", "training")
PARTS = (*STEP_PARTS, "evaluation", "other")


class TimeBreakdown:
    """Seconds of a run by part, taken in laps of one clock.

    Each lap gives all time since the previous one to a part, so the parts add up to the wall-clock
    between `start` and the last lap, and nothing is counted twice:

    - `loading`: waiting for the large batch and moving it to the device,
    - `scoring`: the forward passes of the Selector's scorer and of an online IL model; with `AsyncSelector`
      the wait for them,
    - `selecting`: everything else of the Selector,
    - `training`: forward and backward pass on the small batch, optimizer, running sums,
    - `evaluation`: on the test set, and looks at sampled points; not charged to the method,
    - `other`: records, checkpoints, callbacks.

    It is a clock of the host. On CUDA the host hands out work and goes on, so a part there holds
    the time in which the host was busy or waited, not the time that the device worked on it; what
    the device still has to do is charged where the host waits next. The sum is as meaningful as on
    the CPU: the host waits for the device at every training record and every evaluation.

    Example:
        >>> ledger = TimeBreakdown()
        >>> ledger.start()
        >>> ledger.lap("loading")
        >>> ledger.lap("selecting", scoring=0.0)
        >>> sorted(ledger.seconds) == sorted(PARTS)
        True
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = 0.0

    @property
    def charged(self) -> float:
        """Seconds of the steps alone: loading, scoring, selecting and training."""
        return sum(self.seconds[part] for part in STEP_PARTS)

    def start(self) -> None:
        """Begin the first lap now; what passed since the last one belongs to nobody."""
        self._last = time.perf_counter()

    def lap(self, part: str, *, scoring: float = 0.0) -> None:
        """Give the time since the last lap to a part, `scoring` seconds of it to scoring."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last - scoring
        self.seconds["scoring"] += scoring
        self._last = now

    def state_dict(self) -> dict[str, float]:
        """Return the seconds by part."""
        return dict(self.seconds)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` returned."""
        self.seconds = {part: state[part] for part in PARTS}
