"""The figures of the report; each is left out where a comparison has no data for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rho_train.report.drawing import (
    COLOURS,
    PAPER,
    SOFT,
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
from rho_train.report.read import FLAGS, Experiment, Record, Run
from rho_train.report.summary import Classes, Summary

_WARMUP = 0.4  # share of the training in which the curves rise; the axis shows the rest
_IN_MINUTES = 600.0  # seconds from which an axis has minutes
_WINDOWS = 25  # means that a curve of shares has

# What is counted, and how to read it.
_SHARES = {
    "noisy": ("Wrong labels", "Above the dashed line a method seeks wrong labels out."),
    "correct": ("Already correct", "The model classified these correctly before the step."),
    "less_relevant": ("Less relevant examples", "Of classes that are rare in the test set too."),
    "redundant": ("Copies of other examples", "The model could learn the same from another one."),
    "unsure": ("Doubtful labels", "Annotators had a confidence below 70%: these may be wrong."),
}


def draw_figures(
    experiment: Experiment,
    summary: Summary,
    times: Mapping[str, Mapping[str, float]],
    classes: Mapping[str, tuple[Classes, Classes]],
) -> dict[str, Figure]:
    """Return all figures that the comparison has data for, by name, in reading order."""
    with our_style():
        figures = [
            _accuracy(experiment, summary, timed=False),
            _accuracy(experiment, summary, timed=True),
            *(_share(experiment, summary, flag) for flag in FLAGS),
            _overlap(experiment),
            *_quadrants(experiment),
            _times(experiment, times),
            _classes(experiment, classes),
        ]
    return {figure.name: figure for figure in figures if figure is not None}


def histogram(edges: Sequence[float], counts: Sequence[int], x: str, words: str) -> str:
    """Return a histogram as an SVG element: `counts[i]` from `edges[i]` to `edges[i + 1]`."""
    with our_style():
        axes = make_axes(0, left=0.9)
        axes.stairs(counts, edges, fill=True, facecolor=COLOURS[1], edgecolor=PAPER)
        axes.set(xlabel=x, title="Examples", xlim=(edges[0], edges[-1]))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        return to_svg(axes, "histogram", words)


def _accuracy(experiment: Experiment, summary: Summary, *, timed: bool) -> Figure | None:
    """Return the curves of accuracy against steps, or against seconds with IL cost included."""
    longest = max(run.end["il_seconds"] + run.end["seconds"] for run in experiment.runs)
    unit, units = (60.0, "Minutes") if longest > _IN_MINUTES else (1.0, "Seconds")
    curves, settled = {}, []
    for method, runs in experiment.finished():
        by_step = [{record["step"]: record for record in run.eval} for run in runs]
        steps = sorted(set.intersection(*map(set, by_step)))
        late = [step for step in steps if step >= _WARMUP * steps[-1]]
        settled += [records[step]["accuracy"] for records in by_step for step in late]
        # A baseline with the same minutes goes on to the right of the steps of the others.
        x = steps = [step for step in steps if timed or step <= experiment.steps]
        if timed:
            il = np.mean([run.end["il_seconds"] for run in runs])
            x = [(il + np.mean([r[s]["seconds"] for r in by_step])) / unit for s in steps]
        if steps:
            values = np.array([[r[step]["accuracy"] for r in by_step] for step in steps])
            curves[method] = x, values
    if not curves:
        return None
    best = None
    if len(experiment.labels) > 1 and summary.target is not None:
        best = "baseline's best", summary.target
    low, high = rounded(min(settled), max(*settled, best[1] if best else 0.0))
    if timed:
        against, x_label = f"{units.lower()}, IL cost included", f"{units}, IL cost included"
        caption = f"{units} of wall-clock without evaluation, mean over the seeds. A curve starts "
        caption += "when its irreducible losses are computed."
    else:
        against, x_label, caption = "steps", "Steps", "One seed."
        if max(values.shape[1] for _, values in curves.values()) > 1:
            caption = "Lines: mean over the seeds; bands: from the lowest to the highest seed."
        if best:
            caption += f" The dashed line is the best of “{summary.baseline.label}” (mean over the "
            caption += "seeds): a method that crosses it early needs fewer steps."
        longer = {name: n for name, n in summary.other_steps.items() if n > experiment.steps}
        if longer:
            labels = ", ".join(f"“{experiment.labels[name]}”" for name in longer)
            caption += f" {labels} goes on to step {max(longer.values()):,}."
    accuracy = f"{experiment.watched.capitalize()} accuracy"
    return line_figure(
        experiment,
        curves,
        best,
        name="accuracy-seconds" if timed else "accuracy-steps",
        title=f"{accuracy} against {against}",
        caption=f"{caption} The axis begins at {100 * low:g}%.",
        x=x_label,
        y=accuracy,
        end=None if timed else experiment.steps,
        low=low,
        high=high,
    )


def _share(experiment: Experiment, summary: Summary, flag: str) -> Figure | None:
    """Return the share of the selected examples with a flag over the steps; None without data."""
    counted, reading = _SHARES[flag]
    steps = ([0, *(record["step"] for record in run.train)] for run in experiment.runs)
    spacing = max(int(np.diff(found).max(initial=1)) for found in steps)
    # A window holds whole records.
    window = spacing * math.ceil(experiment.steps / _WINDOWS / spacing)
    curves = {}
    for method, runs in experiment.finished():
        binned = [_binned(run, window, flag) for run in runs]
        bins = sorted(set.intersection(*map(set, binned)))
        bins = [index for index in bins if index * window < experiment.steps]
        if bins:
            middles = [min((index + 0.5) * window, experiment.steps) for index in bins]
            curves[method] = middles, np.array([[of[index] for of in binned] for index in bins])
    if not curves:
        return None
    rate = summary.noisy if flag == "noisy" else None
    return line_figure(
        experiment,
        curves,
        None if rate is None else (f"all examples: {rate:.1%}", rate),
        name=flag,
        title=f"{counted} among the selected examples",
        caption=f"{reading} Each value is the mean of {window:,} steps.",
        x="Steps",
        y="Share of the selected examples",
        end=experiment.steps,
    )


def _binned(run: Run, window: int, flag: str) -> dict[int, float]:
    sums: dict[int, list[int]] = {}
    for record in run.train:
        if record[flag] is not None and record["selected"]:
            both = sums.setdefault(max(0, record["step"] - 1) // window, [0, 0])
            both[0] += record[flag]
            both[1] += record["selected"]
    return {index: hits / selected for index, (hits, selected) in sums.items()}


def _overlap(experiment: Experiment) -> Figure | None:
    """Return the share selected again in the next epoch; None without data.

    A random selection selects the share k / n_B of the epoch before again.
    """
    curves, rates = {}, set()
    for method, runs in experiment.finished():
        known = [[record for record in run.epoch if record["again"] is not None] for run in runs]
        shares = [{r["epoch"]: r["again"] / max(1, r["chosen"]) for r in of} for of in known]
        numbers = sorted(set.intersection(*map(set, shares)))
        if len(numbers) > 1:
            curves[method] = numbers, np.array([[of[n] for of in shares] for n in numbers])
            rates |= {(run.end["batch"] or 0) / (run.end["large_batch"] or 1) for run in runs}
    if not curves:
        return None
    rate = rates.pop() if len(rates) == 1 else 0.0
    caption = "Of the examples selected in one pass of large batches, the share that was selected "
    caption += "in the pass before as well. "
    caption += "The dashed line is what a random selection has. " if rate else ""
    return line_figure(
        experiment,
        curves,
        (f"at random: {rate:.0%}", rate) if rate else None,
        name="overlap",
        title="Selected again in the next epoch",
        caption=f"{caption}A falling curve: examples are left aside once they are learnt.",
        x="Epochs (passes of large batches)",
        y="Share selected again",
    )


def _quadrants(experiment: Experiment) -> list[Figure]:
    """Return loss against IL for each method with IL, from the middle of the training."""
    found: list[tuple[str, int, Record]] = []
    for method, runs in experiment.finished():
        if samples := [sample for sample in runs[0].sample if sample["il"] is not None]:
            middle = min(samples, key=lambda sample: abs(sample["step"] - experiment.steps / 2))
            found.append((method, runs[0].seed, middle))
    values = np.array([v for *_, s in found for v in (*s["loss"], *s["il"])], dtype=float)
    values = values[np.isfinite(values)]
    high = rounded(0.0, values.max(initial=0.0))[1]
    return [_quadrant(experiment, *one, high) for one in found] if len(values) else []


def _quadrant(
    experiment: Experiment, method: str, seed: int, sample: Record, high: float
) -> Figure:
    loss, il = (np.array(sample[key], dtype=float) for key in ("loss", "il"))
    selected = np.array(sample["selected"], dtype=bool)
    noisy = np.array(sample["noisy"] or [False] * len(loss), dtype=bool)
    axes = make_axes(3 if noisy.any() else 2, height=3.0)
    for wrong, marker, label in ((False, "o", ""), (True, "X", ", wrong label")):
        for rows, name, size, colour, alpha in (
            (~selected, "not selected", 3.0, SOFT, 0.5),
            (selected, "selected", 5.5, COLOURS[2], 1.0),
        ):
            rows = rows & (noisy == wrong)
            if rows.any():
                look: dict[str, Any] = {"color": colour, "alpha": alpha, "mew": 0.4}
                look |= {"markersize": size + wrong, "label": f"{name}{label}"}
                axes.plot(il[rows], loss[rows], marker, **look)
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
    caption = (
        f"{selected.sum():,} of {len(loss):,} examples in large batches of seed {seed} are "
        "selected. The height above the diagonal is the training loss in excess of the irreducible "
        "loss. Both axes have square-root steps."
    )
    if sample["noisy"] is not None and selected.any():
        caption += f" Of the selected ones {noisy[selected].mean():.0%} have a wrong label, of all "
        caption += f"{noisy.mean():.0%}."
    title = f"{experiment.labels[method]}: loss against IL at step {sample['step']:,}"
    name = f"quadrant-{styles(experiment)[method]}"
    return Figure(name, title, caption, to_svg(axes, name, f"{title}. {caption}"))


def _times(experiment: Experiment, times: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """Return the seconds by part as a stacked bar for each method; None without data."""
    if not times:
        return None
    axes = make_axes(3, height=0.5 * len(times), left=0.15)
    places, reached = np.arange(len(times))[::-1], np.zeros(len(times))
    parts = ("IL", "training", "scoring", "selecting", "loading", "other", "evaluation")
    for part, style in zip(parts, (7, 0, 2, 3, 6, 5, None), strict=True):
        sizes = np.array([row[part] for row in times.values()])
        colour, alpha = (SOFT, 0.45) if style is None else (COLOURS[style], 1.0)
        label = "evaluation, not counted" if style is None else part
        axes.barh(places, sizes, 0.4, reached, color=colour, alpha=alpha, label=label)
        reached = reached + sizes
    totals = {method: f"{row['sum']:,.1f} s" for method, row in times.items()}
    for place, (method, total) in zip(places, totals.items(), strict=True):
        axes.text(0, place + 0.3, plain(experiment.labels[method], 38))
        axes.text(reached.max(), place + 0.3, total, ha="right")
    axes.set(xlim=(0, max(1e-3, reached.max())), ylim=(-0.3, len(times) - 0.2), yticks=[])
    axes.grid(axis="x")
    axes.set_xlabel("Seconds")
    add_legend(axes, columns=3)
    caption = (
        "Wall-clock of a whole run, mean over the seeds. IL is the time to compute the irreducible "
        "losses; with precomputed IL a bar begins behind it. The number at the right is the sum "
        "without evaluation. “other”, records and checkpoints, is not part of the seconds in the "
        "table and the curves."
    )
    words = "; ".join(f"{experiment.labels[method]}: {total}" for method, total in totals.items())
    return Figure("time", "Where the seconds went", caption, to_svg(axes, "time", words))


def _classes(
    experiment: Experiment, classes: Mapping[str, tuple[Classes, Classes]]
) -> Figure | None:
    """Return the accuracy of the worst, the second worst, ... class of each method; None without
    data and for two classes, where the table tells more."""
    curves = {}
    for method, (accuracy, _) in classes.items():
        values = np.sort([value for value in accuracy if value is not None])
        if len(values) > 2:
            curves[method] = range(1, len(values) + 1), values[:, None]
    if not curves:
        return None
    low = rounded(min(values.min() for _, values in curves.values()), 1.0)[0]
    return line_figure(
        experiment,
        curves,
        name="classes",
        title="Test accuracy by class, from the worst to the best",
        caption="Each method has its classes in its own order, so the left end is its worst class. "
        f"Means over the seeds after the last step. The axis begins at {100 * low:g}%.",
        x="Classes, the worst first",
        y="Test accuracy of the class",
        begin=1.0,
        low=low,
        high=1.0,
    )
