"""What was selected over time: the shares of Figure 3 of the paper, and the overlap of epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from rho_train.report.axis import Axis, nice_step
from rho_train.report.chart import Reference, line_chart
from rho_train.report.curves import Figure, ends, finished, over_seeds, rounded
from rho_train.report.read import Experiment
from rho_train.report.runs import Run, Train

_BINS = 25


def share(
    experiment: Experiment,
    *,
    name: str,
    title: str,
    count: Callable[[Train], int | None],
    base_rate: float | None,
    reading: str,
) -> Figure | None:
    """The share of the selected points that `count` counts, over the steps; None without data."""
    methods = list(finished(experiment))
    # A window holds whole records.
    spacing = max((_spacing(run) for _, runs in methods for run in runs), default=1)
    window = spacing * math.ceil(nice_step(experiment.steps / _BINS) / spacing)
    curves = []
    for method, runs in methods:
        binned = [_binned(run, window, count) for run in runs]
        bins = sorted(set.intersection(*(set(of) for of in binned)))
        bins = [index for index in bins if index * window < experiment.steps]
        middles = [min((index + 0.5) * window, experiment.steps) for index in bins]
        values = [[of[index] for of in binned] for index in bins]
        if bins:
            curves.append(over_seeds(experiment, method, middles, values))
    if not curves:
        return None
    tops = [
        high for curve in curves for _, high in curve.band or zip(curve.y, curve.y, strict=True)
    ]
    _, high = rounded(0.0, max([*tops, base_rate or 0.0]))
    references = [] if base_rate is None else [Reference(base_rate, f"all points: {base_rate:.1%}")]
    return Figure(
        name=name,
        title=title,
        caption=f"{reading} Each point is the mean of {window:,} steps.",
        svg=line_chart(
            curves,
            name=name,
            title=title,
            desc=ends(curves),
            x=Axis("Steps", 0, experiment.steps),
            y=Axis("Share of the selected points", 0, high, percent=True),
            references=references,
        ),
    )


def _spacing(run: Run) -> int:
    """The steps between two records."""
    steps = [0, *(record.step for record in run.train)]
    return max((after - before for before, after in itertools.pairwise(steps)), default=1)


def _binned(run: Run, window: int, count: Callable[[Train], int | None]) -> dict[int, float]:
    hits: dict[int, int] = {}
    selected: dict[int, int] = {}
    for record in run.train:
        index, hit = max(0, record.step - 1) // window, count(record)
        if hit is not None and record.selected:
            hits[index] = hits.get(index, 0) + hit
            selected[index] = selected.get(index, 0) + record.selected
    return {index: hits[index] / selected[index] for index in hits}


def overlap(experiment: Experiment) -> Figure | None:
    """How many of the points chosen in an epoch were chosen in the one before; None without data.

    The line to compare with is what a selection has that looks at no point: it chooses the share
    k / n_B of the epoch before again.
    """
    curves = []
    rates: set[float | None] = set()
    for method, runs in finished(experiment):
        again = [
            {e.number: e.again / e.chosen for e in run.epochs if e.again is not None and e.chosen}
            for run in runs
        ]
        numbers = sorted(set.intersection(*(set(of) for of in again)))
        if len(numbers) < 2:
            continue
        values = [[of[number] for of in again] for number in numbers]
        curves.append(over_seeds(experiment, method, [float(n) for n in numbers], values))
        rates |= {run.kept for run in runs}
    if not curves:
        return None
    tops = [max(high for _, high in curve.band or [(0.0, max(curve.y))]) for curve in curves]
    rate = rates.pop() if len(rates) == 1 else None
    _, high = rounded(0.0, max([*tops, rate or 0.0]))
    title = "Selected again in the next epoch"
    return Figure(
        name="overlap",
        title=title,
        caption="Of the points chosen in one pass of large batches, the share that was chosen in "
        "the pass before as well. "
        + ("" if rate is None else "The dashed line is what a choice at random has. ")
        + "A falling curve means that points are put aside once they are learnt.",
        svg=line_chart(
            curves,
            name="overlap",
            title=title,
            desc=ends(curves),
            x=Axis("Epochs (passes of large batches)", 0, max(c.x[-1] for c in curves), whole=True),
            y=Axis("Share chosen again", 0, high, percent=True),
            references=[] if rate is None else [Reference(rate, f"at random: {rate:.0%}")],
        ),
    )
