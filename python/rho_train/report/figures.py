"""The figures of the report; each is left out where a comparison has no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rho_train.report.drawing import (
    COLOURS,
    Curves,
    Figure,
    add_legend,
    line_figure,
    make_axes,
    our_style,
    plain,
    rounded,
    to_svg,
)
from rho_train.report.read import Experiment, Run
from rho_train.report.summary import Summary

_WARMUP = 0.4  # share of the training in which the curves rise; the axis shows the rest
_PARTS = {"il": ("IL", 7), "training": ("training", 0), "scoring": ("scoring", 2)}


def draw_figures(experiment: Experiment, summary: Summary) -> dict[str, Figure]:
    """Return all figures that the comparison has data for, by name, in reading order."""
    with our_style():
        figures = [
            *_accuracies(experiment, summary),
            _costs(summary),
            _wrong_labels(experiment, summary),
        ]
    return {figure.name: figure for figure in figures if figure is not None}


def _curves(experiment: Experiment, of_run: Callable[[Run], Mapping[Any, float]]) -> Curves:
    """Return the values of `of_run` by method, at the places that all its runs have."""
    curves = {}
    for method, runs in experiment.runs.items():
        found = [of_run(run) for run in runs]
        if places := sorted(set.intersection(*map(set, found))):
            values = [[of[place] for of in found] for place in places]
            curves[method] = np.array(places), np.array(values)
    return curves


def _accuracies(experiment: Experiment, summary: Summary) -> list[Figure | None]:
    """Return the curves of accuracy against cost, IL included, and against steps."""
    curves = _curves(experiment, lambda run: {e["step"]: e["accuracy"] for e in run.eval})
    costs = _curves(
        experiment, lambda run: {e["step"]: sum(run.costs(e).values()) for e in run.eval}
    )
    by_cost = {m: (costs[m][1].mean(1), values) for m, (_, values) in curves.items()}
    late = [v[steps >= _WARMUP * steps[-1]] for steps, v in curves.values()]
    best = None if math.isnan(summary.target) else ("baseline's best", summary.target)
    highest = max([*(v.max() for v in late), best[1] if best else 0.0])
    ylim = rounded(min((v.min() for v in late), default=0.0), highest)
    bands = any(values.shape[1] > 1 for _, values in curves.values())
    spread = "Lines: mean over the seeds; bands: from the lowest to the highest seed."
    caption = spread if bands else "One seed."
    if best:
        of = f"the best of “{summary.baseline.label}” (mean over the seeds)"
        caption += f" The dashed line is {of}: a method that crosses it earlier is cheaper."
    y = f"{experiment.watched.capitalize()} accuracy"
    return [
        line_figure(
            *(experiment, "accuracy-cost", by_cost, f"{y} against cost"),
            f"{caption} A curve starts when its irreducible losses are computed.",
            *("Cost in uniform steps, IL included", y),
            reference=best,
            ylim=ylim,
        ),
        line_figure(
            *(experiment, "accuracy-steps", curves, f"{y} against steps"),
            "The same against steps, which leave out what scoring and irreducible losses cost.",
            *("Steps", y),
            reference=best,
            ylim=ylim,
        ),
    ]


def _wrong_labels(experiment: Experiment, summary: Summary) -> Figure | None:
    """Return the share of wrong labels among the selected examples over the steps."""

    def shares(run: Run) -> dict[int, float]:
        known = (one for one in run.train if one["noisy"] is not None and one["selected"])
        return {one["step"]: one["noisy"] / one["selected"] for one in known}

    reference = f"all examples: {summary.noisy:.1%}", summary.noisy
    return line_figure(
        *(experiment, "noisy", _curves(experiment, shares), "Wrong labels among the selected"),
        "Above the dashed line a method seeks wrong labels out.",
        *("Steps", "Share of the selected examples"),
        reference=None if math.isnan(summary.noisy) else reference,
    )


def _costs(summary: Summary) -> Figure:
    """Return the cost by part as a stacked bar for each method."""
    rows = [row for row in summary.methods if row.cost]
    axes = make_axes(1, height=0.5 * len(rows), left=0.15)
    places, reached = np.arange(len(rows))[::-1], np.zeros(len(rows))
    for part, (label, style) in _PARTS.items():
        sizes = np.array([row.cost[part] for row in rows])
        axes.barh(places, sizes, 0.4, reached, color=COLOURS[style], label=label)
        reached = reached + sizes
    totals = [f"{row.total:,.0f}, {row.seconds:,.1f} s" for row in rows]
    for place, row, total in zip(places, rows, totals, strict=True):
        axes.text(0, place + 0.3, plain(row.label, 38))
        axes.text(reached.max(), place + 0.3, total, ha="right")
    axes.set(xlim=(0, max(1e-3, reached.max())), ylim=(-0.3, len(rows) - 0.2), yticks=[])
    axes.set_xlabel("Cost in uniform steps")
    axes.grid(axis="x")
    add_legend(axes, columns=3)
    words = "; ".join(f"{row.label}: {total}" for row, total in zip(rows, totals, strict=True))
    caption = (
        "Cost of a whole run by part, and beside it the seconds that it took, without evaluation; "
        "means over the seeds. With precomputed IL a bar begins behind them."
    )
    return Figure("cost", to_svg(axes, "cost", words), "Where the cost went", caption)
