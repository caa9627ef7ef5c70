"""The figures of the report; each is left out where a comparison has no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np

from rho_train.report.drawing import (
    COLOURS,
    SOFT,
    Curves,
    Figure,
    add_legend,
    line_figure,
    make_axes,
    our_style,
    plain,
    rounded,
    styles,
    to_svg,
)
from rho_train.report.read import Experiment, Record, Run
from rho_train.report.summary import Summary

_WARMUP = 0.4  # share of the training in which the curves rise; the axis shows the rest
_IN_MINUTES = 600.0  # seconds from which an axis has minutes
_WINDOWS = 25  # means that a curve of shares has
# Parts of the time of a run in the order of the bars; evaluation is not counted.
_PARTS = {"IL": 7, "training": 0, "scoring": 2, "selecting": 3, "loading": 6, "other": 5}
# Flags of the selected examples that training records count.
_FLAGS = {
    "noisy": ("Wrong labels", "Above the dashed line a method seeks wrong labels out."),
    "correct": ("Already correct", "The model classified these correctly before the step."),
    "less_relevant": ("Less relevant examples", "Of classes that are rare in the test set too."),
    "redundant": ("Copies of other examples", "The model could learn the same from another one."),
    "unsure": ("Doubtful labels", "Annotators had a confidence below 70%: these may be wrong."),
}


def draw_figures(experiment: Experiment, summary: Summary) -> dict[str, Figure]:
    """Return all figures that the comparison has data for, by name, in reading order."""
    with our_style():
        figures = [
            *_accuracies(experiment, summary),
            *(_share(experiment, summary, flag) for flag in _FLAGS),
            _overlap(experiment),
            *_quadrants(experiment),
            _times(summary),
            _classes(experiment, summary),
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
    """Return the curves of accuracy against steps, and against seconds with IL cost included."""
    curves = _curves(experiment, lambda run: {e["step"]: e["accuracy"] for e in run.eval})
    timed = _curves(
        experiment,
        lambda run: {e["step"]: e["seconds"] + run.end["il_seconds"] for e in run.eval},
    )
    longest = max((seconds[-1].mean() for _, seconds in timed.values()), default=0.0)
    unit, units = (60.0, "Minutes") if longest > _IN_MINUTES else (1.0, "Seconds")
    by_time = {m: (s.mean(1) / unit, curves[m][1]) for m, (_, s) in timed.items()}
    late = [v[steps >= _WARMUP * steps[-1]] for steps, v in curves.values()]
    best = None if math.isnan(summary.target) else ("baseline's best", summary.target)
    highest = max([*(v.max() for v in late), best[1] if best else 0.0])
    ylim = rounded(min((v.min() for v in late), default=0.0), highest)
    bands = any(values.shape[1] > 1 for _, values in curves.values())
    caption = "Lines: mean over the seeds; bands: from the lowest to the highest seed."
    caption = caption if bands else "One seed."
    if best:
        of = f"the best of “{summary.baseline.label}” (mean over the seeds)"
        caption += f" The dashed line is {of}: a method that crosses it early needs fewer steps."
    # A baseline with the same minutes goes on to the right of the steps of the others.
    longer = {m: steps for m, steps in summary.other_steps.items() if steps > experiment.steps}
    if longer:
        names = ", ".join(f"“{experiment.labels[method]}”" for method in longer)
        caption += f" {names} goes on to step {max(longer.values()):,}."
    y, il = f"{experiment.watched.capitalize()} accuracy", f"{units}, IL cost included"
    return [
        line_figure(
            *(experiment, "accuracy-steps", curves, f"{y} against steps", caption, "Steps", y),
            reference=best,
            xlim=(0, experiment.steps),
            ylim=ylim,
        ),
        line_figure(
            *(experiment, "accuracy-seconds", by_time, f"{y} against {il[0].lower()}{il[1:]}"),
            f"{units} of wall-clock without evaluation, mean over the seeds. A curve starts when "
            "its irreducible losses are computed.",
            *(il, y),
            reference=best,
            ylim=ylim,
        ),
    ]


def _share(experiment: Experiment, summary: Summary, flag: str) -> Figure | None:
    """Return the share of the selected examples with a flag over the steps."""
    runs = chain(*experiment.runs.values())
    steps = ([0, *(record["step"] for record in run.train)] for run in runs)
    spacing = max(int(np.diff(found).max(initial=1)) for found in steps)
    # A window holds whole records.
    window = spacing * math.ceil(experiment.steps / _WINDOWS / spacing)

    def shares(run: Run) -> dict[float, float]:
        known = [one for one in run.train if one.get(flag) is not None]
        index = np.array([(one["step"] - 1) // window for one in known], dtype=int)
        hits, selected = (np.bincount(index, [o[k] for o in known]) for k in (flag, "selected"))
        return {(i + 0.5) * window: hits[i] / selected[i] for i in np.flatnonzero(selected)}

    title, meaning = _FLAGS[flag]
    known = flag == "noisy" and not math.isnan(summary.noisy)
    return line_figure(
        *(experiment, flag, _curves(experiment, shares), f"{title} among the selected examples"),
        f"{meaning} Each value is the mean of {window:,} steps.",
        *("Steps", "Share of the selected examples"),
        reference=(f"all examples: {summary.noisy:.1%}", summary.noisy) if known else None,
        xlim=(0, experiment.steps),
    )


def _overlap(experiment: Experiment) -> Figure | None:
    """Return the share selected again in the next epoch, k / n_B of it in a random selection."""

    def shares(run: Run) -> dict[int, float]:
        known = (one for one in run.epoch if one["again"] is not None)
        return {one["epoch"]: one["again"] / max(1, one["selected"]) for one in known}

    curves = {m: curve for m, curve in _curves(experiment, shares).items() if len(curve[0]) > 1}
    ends = (run.end for method in curves for run in experiment.runs[method])
    rates = {end["batch"] / end["large_batch"] for end in ends}
    rate = rates.pop() if len(rates) == 1 else None
    return line_figure(
        *(experiment, "overlap", curves, "Selected again in the next epoch"),
        "Of the examples selected in one pass of large batches, the share that was selected in the "
        f"pass before as well. {'The dashed line is what a random selection has. ' if rate else ''}"
        "A falling curve: examples are left aside once they are learnt.",
        *("Epochs (passes of large batches)", "Share selected again"),
        reference=None if rate is None else (f"at random: {rate:.0%}", rate),
    )


def _quadrants(experiment: Experiment) -> list[Figure]:
    """Return loss against IL for each method with IL, from the middle of the training."""
    found: list[tuple[str, int, Record]] = []
    for method, (run, *_) in experiment.runs.items():
        if samples := [sample for sample in run.sample if sample["il"] is not None]:
            middle = min(samples, key=lambda sample: abs(sample["step"] - experiment.steps / 2))
            found.append((method, run.seed, middle))
    values = [value for *_, sample in found for value in (*sample["loss"], *sample["il"])]
    high = rounded(0.0, max(values, default=0.0))[1]
    return [_quadrant(experiment, *one, high) for one in found] if values else []


def _quadrant(
    experiment: Experiment, method: str, seed: int, sample: Record, high: float
) -> Figure:
    loss, il, selected = (np.array(sample[key]) for key in ("loss", "il", "selected"))
    noisy = np.array(sample["noisy"] or [False] * len(loss))
    axes = make_axes(3 if noisy.any() else 2, height=3.0)
    for wrong, marker, label in ((False, "o", ""), (True, "X", ", wrong label")):
        for rows, name, size, colour, alpha in (
            (~selected, "not selected", 3.0, SOFT, 0.5),
            (selected, "selected", 5.5, COLOURS[2], 1.0),
        ):
            rows = rows & (noisy == wrong)
            if rows.any():
                (dots,) = axes.plot(il[rows], loss[rows], marker, ms=size + wrong, mew=0.4)
                dots.set(color=colour, alpha=alpha, label=f"{name}{label}")
    axes.plot([0, high], [0, high], "--", color=SOFT, linewidth=1.3, label="loss = IL")
    # Square-root axes give the many small losses room.
    roots = (lambda v: np.sqrt(np.maximum(v, 0)), np.square)
    axes.set_xscale("function", functions=roots)
    axes.set_yscale("function", functions=roots)
    top = 10.0 ** math.ceil(math.log10(high))
    ticks = [0.0, *(top / d for d in (1, 2, 5, 10, 20, 50, 100) if high / 60 < top / d <= high)]
    axes.set(xticks=ticks, yticks=ticks, xlim=(0, high), ylim=(0, high))
    axes.set(xlabel="Irreducible loss (IL), nats", title="Training loss, nats")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    # Where an example lies says what it is.
    for x, y, text in (
        (0.02, 0.93, "learnable"),
        (0.38, 0.93, "noisy or not learnable"),
        (0.02, 0.03, "learnt"),
        (0.46, 0.03, "forgotten by the IL model"),
    ):
        axes.text(x, y, text, transform=axes.transAxes, style="italic", zorder=4)
    add_legend(axes, columns=2)
    name = f"quadrant-{styles(experiment)[method]}"
    title = f"{experiment.labels[method]}: loss against IL at step {sample['step']:,}"
    count = f"{selected.sum():,} of {len(loss):,} examples in large batches of seed {seed}"
    caption = (
        f"{count} are selected. The height above the diagonal is the training loss in excess of "
        "the irreducible loss. Both axes have square-root steps."
    )
    if sample["noisy"] and selected.any():
        share, of_all = noisy[selected].mean(), noisy.mean()
        caption += f" Of the selected ones {share:.0%} have a wrong label, of all {of_all:.0%}."
    svg = to_svg(axes, name, f"{title}. {count} are selected.")
    return Figure(name, svg, title, caption)


def _times(summary: Summary) -> Figure:
    """Return the seconds by part as a stacked bar for each method."""
    rows = [row for row in summary.methods if row.times]
    axes = make_axes(3, height=0.5 * len(rows), left=0.15)
    places, reached = np.arange(len(rows))[::-1], np.zeros(len(rows))
    bars = [(part, part, COLOURS[style], 1.0) for part, style in _PARTS.items()]
    bars.append(("evaluation", "evaluation, not counted", SOFT, 0.45))
    for part, label, colour, alpha in bars:
        sizes = np.array([row.times[part] for row in rows])
        axes.barh(places, sizes, 0.4, reached, color=colour, alpha=alpha, label=label)
        reached = reached + sizes
    totals = [f"{row.times['sum']:,.1f} s" for row in rows]
    for place, row, total in zip(places, rows, totals, strict=True):
        axes.text(0, place + 0.3, plain(row.label, 38))
        axes.text(reached.max(), place + 0.3, total, ha="right")
    axes.set(xlim=(0, max(1e-3, reached.max())), ylim=(-0.3, len(rows) - 0.2), yticks=[])
    axes.set_xlabel("Seconds")
    axes.grid(axis="x")
    add_legend(axes, columns=3)
    words = "; ".join(f"{row.label}: {total}" for row, total in zip(rows, totals, strict=True))
    caption = (
        "Wall-clock of a whole run, mean over the seeds. IL is the time to compute the irreducible "
        "losses; with precomputed IL a bar begins behind it. The number at the right is the sum "
        "without evaluation. “other”, records and checkpoints, is not part of the seconds in the "
        "table and the curves."
    )
    return Figure("time", to_svg(axes, "time", words), "Where the seconds went", caption)


def _classes(experiment: Experiment, summary: Summary) -> Figure | None:
    """Return the accuracy of the worst, the second worst, ... class of each method; for two classes
    the table tells more."""
    curves = {}
    for row in summary.methods:
        values = np.sort([value for value in row.accuracies if not math.isnan(value)])
        if len(values) > 2:
            curves[row.method] = np.arange(1, len(values) + 1), values[:, None]
    low = rounded(min((values.min() for _, values in curves.values()), default=0.0), 1.0)[0]
    return line_figure(
        *(experiment, "classes", curves, "Test accuracy by class, from the worst to the best"),
        "Each method has its classes in its own order, so the left end is its worst class. Means "
        "over the seeds after the last step.",
        *("Classes, the worst first", "Test accuracy of the class"),
        xlim=(1.0, None),
        ylim=(low, 1.0),
    )
