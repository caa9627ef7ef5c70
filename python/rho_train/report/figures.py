"""The figures of the report; each is left out where a comparison has no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

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
from rho_train.report.read import FLAGS, Experiment, Record, Run
from rho_train.report.summary import Classes, Summary

_WARMUP = 0.4  # share of the training in which the curves rise; the axis shows the rest
_IN_MINUTES = 600.0  # seconds from which an axis has minutes
_WINDOWS = 25  # means that a curve of shares has


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


def _curves(experiment: Experiment, of_run: Callable[[Run], Mapping[int, float]]) -> Curves:
    """Return the values of `of_run` by method, at the places that all its runs have."""
    curves = {}
    for method, runs in experiment.finished():
        found = [of_run(run) for run in runs]
        if places := sorted(set.intersection(*map(set, found))):
            values = [[of[place] for of in found] for place in places]
            curves[method] = np.array(places), np.array(values)
    return curves


def _accuracy(experiment: Experiment, summary: Summary, *, timed: bool) -> Figure | None:
    """Return the curves of accuracy against steps, or against seconds with IL cost included."""
    longest = max(run.end["il_seconds"] + run.end["seconds"] for run in experiment.runs)
    unit, units = (60.0, "Minutes") if longest > _IN_MINUTES else (1.0, "Seconds")
    curves = _curves(experiment, lambda run: {one["step"]: one["accuracy"] for one in run.eval})
    several = len(experiment.labels) > 1 and summary.target is not None
    best = ("baseline's best", summary.target or 0.0) if several else None
    late = [v[steps >= _WARMUP * steps[-1]] for steps, v in curves.values()]
    settled = np.concatenate([[summary.target or 0.0] * several, *(v.ravel() for v in late)])
    low, high = rounded(min((v.min() for v in late), default=0.0), settled.max(initial=0.0))
    if timed:
        seconds = _curves(experiment, lambda run: {one["step"]: one["seconds"] for one in run.eval})
        for method, (_, values) in curves.items():
            il = np.mean([run.end["il_seconds"] for run in experiment.of(method).values()])
            curves[method] = (il + seconds[method][1].mean(1)) / unit, values
    else:
        # A baseline with the same minutes goes on to the right of the steps of the others.
        inside = ((m, x <= experiment.steps, x, v) for m, (x, v) in curves.items())
        curves = {m: (x[rows], v[rows]) for m, rows, x, v in inside if rows.any()}
    return line_figure(
        experiment,
        curves,
        best,
        name="accuracy-seconds" if timed else "accuracy-steps",
        x=f"{units}, IL cost included" if timed else "Steps",
        y=f"{experiment.watched.capitalize()} accuracy",
        end=None if timed else experiment.steps,
        low=low,
        high=high,
        units=units,
        best=several,
        bands=any(values.shape[1] > 1 for _, values in curves.values()),
    )


def _share(experiment: Experiment, summary: Summary, flag: str) -> Figure | None:
    """Return the share of the selected examples with a flag over the steps."""
    steps = ([0, *(record["step"] for record in run.train)] for run in experiment.runs)
    spacing = max(int(np.diff(found).max(initial=1)) for found in steps)
    # A window holds whole records.
    window = spacing * math.ceil(experiment.steps / _WINDOWS / spacing)

    def shares(run: Run) -> dict[int, float]:
        sums: dict[int, list[int]] = {}
        for record in run.train:
            index = max(0, record["step"] - 1) // window
            if record[flag] is not None and record["selected"] and index * window < summary.steps:
                hits, selected = sums.get(index, (0, 0))
                sums[index] = [hits + record[flag], selected + record["selected"]]
        return {index: hits / selected for index, (hits, selected) in sums.items()}

    found = _curves(experiment, shares)
    rate = summary.noisy if flag == "noisy" else None
    return line_figure(
        experiment,
        {m: (np.minimum((x + 0.5) * window, summary.steps), v) for m, (x, v) in found.items()},
        None if rate is None else (f"all examples: {rate:.1%}", rate),
        name=flag,
        x="Steps",
        y="Share of the selected examples",
        end=experiment.steps,
        window=window,
    )


def _overlap(experiment: Experiment) -> Figure | None:
    """Return the share selected again in the next epoch, k / n_B of it in a random selection."""

    def shares(run: Run) -> dict[int, float]:
        known = (one for one in run.epoch if one["again"] is not None)
        return {one["epoch"]: one["again"] / max(1, one["selected"]) for one in known}

    curves = {m: curve for m, curve in _curves(experiment, shares).items() if len(curve[0]) > 1}
    ends = (run.end for run in experiment.runs if run.method in curves)
    rates = {(end["batch"] or 0) / (end["large_batch"] or 1) for end in ends}
    rate = rates.pop() if len(rates) == 1 else 0.0
    return line_figure(
        experiment,
        curves,
        (f"at random: {rate:.0%}", rate) if rate else None,
        name="overlap",
        x="Epochs (passes of large batches)",
        y="Share selected again",
        rate=rate,
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
    known = sample["noisy"] is not None and selected.any()
    facts = {
        "title": f"{experiment.labels[method]}: loss against IL at step {sample['step']:,}",
        "selected": f"{selected.sum():,} of {len(loss):,} examples in large batches of seed {seed}",
        "noisy": (noisy[selected].mean(), noisy.mean()) if known else None,
    }
    name = f"quadrant-{styles(experiment)[method]}"
    svg = to_svg(axes, name, f"{facts['title']}. {facts['selected']} are selected.")
    return Figure(name, svg, facts)


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
        label = f"{part}, not counted" if style is None else part
        axes.barh(places, sizes, 0.4, reached, color=colour, alpha=alpha, label=label)
        reached = reached + sizes
    totals = [(experiment.labels[method], f"{row['sum']:,.1f} s") for method, row in times.items()]
    for place, (label, total) in zip(places, totals, strict=True):
        axes.text(0, place + 0.3, plain(label, 38))
        axes.text(reached.max(), place + 0.3, total, ha="right")
    axes.set(xlim=(0, max(1e-3, reached.max())), ylim=(-0.3, len(times) - 0.2), yticks=[])
    axes.set_xlabel("Seconds")
    axes.grid(axis="x")
    add_legend(axes, columns=3)
    words = "; ".join(f"{label}: {total}" for label, total in totals)
    return Figure("time", to_svg(axes, "time", words), {})


def _classes(
    experiment: Experiment, classes: Mapping[str, tuple[Classes, Classes]]
) -> Figure | None:
    """Return the accuracy of the worst, the second worst, ... class of each method; for two classes
    the table tells more."""
    ordered = {m: np.sort([v for v in found if v is not None]) for m, (found, _) in classes.items()}
    curves = {
        m: (np.arange(1, len(values) + 1), values[:, None])
        for m, values in ordered.items()
        if len(values) > 2
    }
    low = rounded(min((values.min() for _, values in curves.values()), default=0.0), 1.0)[0]
    return line_figure(
        experiment,
        curves,
        name="classes",
        x="Classes, the worst first",
        y="Test accuracy of the class",
        begin=1.0,
        low=low,
        high=1.0,
    )
