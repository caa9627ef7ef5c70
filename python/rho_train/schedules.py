"""Numbers that change over a run, such as the ratio, and steps with uniform selection."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A number that goes from `start` to `end` in `stages` equal parts of the first `steps` steps.

    It is constant within a stage, so that compiled graphs are rebuilt `stages - 1` times at most
    when the size of the small batch changes.
    """

    start: float
    end: float
    steps: int
    stages: int = 10

    def __post_init__(self) -> None:
        name, most = type(self).__name__, self.steps
        if not 2 <= self.stages <= most:
            raise ValueError(f"{name}: stages must lie in [2, steps = {most}], got {self.stages}")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"{name}: start and end must be finite, got {self.start}, {self.end}")

    @property
    def begins(self) -> tuple[int, ...]:
        """The first step of each stage."""
        return tuple(-(-stage * self.steps // self.stages) for stage in range(self.stages))

    def __call__(self, step: int) -> float:
        """Return the number at a step, counted from 0."""
        stage = min(step * self.stages // self.steps, self.stages - 1)
        return self.between(stage / (self.stages - 1))

    def between(self, done: float) -> float:
        """Return the number when a share `done` of the stages is over, exact at both ends."""
        raise NotImplementedError


class Linear(Schedule):
    """`start + (end - start) * done`.

    Example:
        >>> [Linear(1.0, 0.2, steps=6, stages=3)(step) for step in (0, 1, 2, 4, 99)]
        [1.0, 1.0, 0.6, 0.2, 0.2]
    """

    def between(self, done: float) -> float:
        """Return the weighted mean of both ends."""
        return self.start * (1.0 - done) + self.end * done


class Geometric(Schedule):
    """`start * (end / start) ** done`; both must be positive.

    Example:
        >>> [Geometric(4.0, 1.0, steps=6, stages=3)(step) for step in (0, 2, 5)]
        [4.0, 2.0, 1.0]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        start, end = self.start, self.end
        if not (start > 0.0 and end > 0.0):
            raise ValueError(f"Geometric: start and end must be positive, got {start}, {end}")

    def between(self, done: float) -> float:
        """Return the weighted geometric mean of both ends."""
        return math.pow(self.start, 1.0 - done) * math.pow(self.end, done)


def value_at(number: float | Schedule, step: int) -> float:
    """Return a number that may be a schedule at a step."""
    return number(step) if isinstance(number, Schedule) else number


def values_of(number: float | Schedule) -> tuple[float, ...]:
    """Return all values that a number takes."""
    return tuple(map(number, number.begins)) if isinstance(number, Schedule) else (number,)


@dataclass(frozen=True)
class UniformPhases:
    """Steps at the start and the end of a run in which selection is uniform, at the same k.

    At the start the losses say little; at the end uniform steps undo the bias of the selection, as
    InfoBatch (Qin et al., ICLR 2024) does in the last 12.5 % of a run.

    Args:
        steps: of the whole run.
        warmup: steps at the start.
        anneal: share of the run at its end, in [0, 1]; selection is uniform after it as well.

    Example:
        >>> phases = UniformPhases(steps=10, warmup=2, anneal=0.3)
        >>> [step for step in range(10) if phases.uniform(step)]
        [0, 1, 7, 8, 9]
    """

    steps: int
    warmup: int = 0
    anneal: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 0 or not 0.0 <= self.anneal <= 1.0:
            raise ValueError(
                "UniformPhases: steps must be at least 1, warmup at least 0 and anneal in [0, 1], "
                f"got {self.steps}, {self.warmup}, {self.anneal}"
            )
        if self.warmup > self._anneal_begin:
            raise ValueError(
                f"UniformPhases: the first {self.warmup} and the last {self.anneal:.0%} of "
                f"{self.steps} steps overlap; shorten one"
            )

    @property
    def _anneal_begin(self) -> int:
        return self.steps - math.floor(self.anneal * self.steps + 0.5)

    def uniform(self, step: int) -> bool:
        """Return whether selection is uniform at a step, counted from 0."""
        return step < self.warmup or (self.anneal > 0.0 and step >= self._anneal_begin)
