"""Seconds of a run by part."""

from __future__ import annotations

import time

STEP_PARTS = ("loading", "scoring", "selecting", "training")
PARTS = (*STEP_PARTS, "evaluation", "other")


class TimeBreakdown:
    """Seconds of a run by part; each `add` gives all time since the previous one to a part.

    So the parts add up to the wall-clock time between `start` and the last `add`:

    - `loading`: waiting for the large batch and moving it to the device,
    - `scoring`: forward passes of the Selector and of an online IL model,
    - `selecting`: everything else of the Selector,
    - `training`: forward and backward pass on the small batch, optimizer, running sums,
    - `evaluation`: evaluations; no part of the step,
    - `other`: records, checkpoints, callbacks.

    On CUDA the host launches work and goes on, so a part holds the time in which the host was busy
    or waited. It waits for the device at every training record and evaluation, so sums are right.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = 0.0

    @property
    def step_seconds(self) -> float:
        """Seconds of the steps alone."""
        return sum(self.seconds[part] for part in STEP_PARTS)

    def start(self) -> None:
        """Start the clock; time before it counts nowhere."""
        self._last = time.perf_counter()

    def add(self, part: str, *, scoring: float = 0.0) -> None:
        """Give the time since the last call to a part, `scoring` seconds of it to scoring."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last - scoring
        self.seconds["scoring"] += scoring
        self._last = now
