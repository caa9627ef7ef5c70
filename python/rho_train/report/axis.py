"""Axes with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`: `percent` shows fractions as percentages, `root` (from 0)
    spaces values by their square root, `whole` has no ticks between whole numbers."""

    title: str
    low: float
    high: float
    percent: bool = False
    root: bool = False
    whole: bool = False

    def fraction(self, value: float) -> float:
        """Place of a value along the axis, 0 at `low` and 1 at `high`."""
        if self.root:
            return math.sqrt(max(value, 0.0) / self.high)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round positions within the axis and their texts."""
        if self.root:
            top = 10.0 ** math.ceil(math.log10(self.high))
            round_values = [top / d for d in (1, 2, 5, 10, 20, 50, 100)]
            return [
                (v, f"{v:g}")
                for v in (0.0, *round_values)
                if self.high / 60 < v <= self.high or not v
            ]
        scale, unit = (100, "%") if self.percent else (1, "")
        low, high = self.low * scale, self.high * scale
        step = nice_step((high - low) / 7)
        step = max(1.0, step) if self.whole else step
        digits = max(0, -math.floor(math.log10(step)))
        steps = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        return [(n * step / scale, f"{n * step:,.{digits}f}{unit}") for n in steps]


def nice_step(rough: float) -> float:
    """Smallest of 1, 2, 5 times a power of ten that is no less than `rough` > 0.

    Example:
        >>> nice_step(0.03), nice_step(80)
        (0.05, 100.0)
    """
    power = 10.0 ** math.floor(math.log10(rough))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
