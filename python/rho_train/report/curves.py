"""What the figures share: the look of a method, curves over seeds, round axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rho_train.report.axis import nice_step
from rho_train.report.chart import Series
from rho_train.report.read import Experiment, Method
from rho_train.report.runs import Run


@dataclass(frozen=True)
class Figure:
    """A drawing with the words that belong to it."""

    name: str
    title: str
    caption: str
    svg: str


def styles(experiment: Experiment) -> dict[str, int]:
    """Colour and marker of each method: the baseline 0 (ink), the others in order."""
    others = [m.name for m in experiment.methods if m.name != experiment.baseline]
    return {experiment.baseline: 0} | {name: index for index, name in enumerate(others, 1)}


def finished(experiment: Experiment) -> Iterable[tuple[Method, list[Run]]]:
    """Methods with their finished runs, where there is one."""
    for method in experiment.methods:
        if runs := list(experiment.of(method.name).values()):
            yield method, runs


def over_seeds(
    experiment: Experiment, method: Method, x: Sequence[float], values: Sequence[Sequence[float]]
) -> Series:
    """A curve of the mean over the seeds; `values` has one row a point and one column a seed."""
    several = len(values[0]) > 1
    return Series(
        label=method.label,
        style=styles(experiment)[method.name],
        x=x,
        y=[fmean(of) for of in values],
        band=[(min(of), max(of)) for of in values] if several else None,
    )


def band(experiment: Experiment) -> str:
    """What lines and bands show."""
    if all(len(runs) == 1 for _, runs in finished(experiment)):
        return "One seed."
    return "Lines: mean over the seeds; bands: from the lowest to the highest seed."


def ends(curves: Sequence[Series]) -> str:
    """The last values, for people who cannot see the drawing."""
    return "Last values: " + "; ".join(f"{curve.label} {curve.y[-1]:.1%}" for curve in curves) + "."


def rounded(low: float, high: float) -> tuple[float, float]:
    """Round ends of an axis that holds [low, high]."""
    low = max(0.0, min(low, high - 0.01))
    high = max(high, low + 0.01)
    step = nice_step((high - low) / 20)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
