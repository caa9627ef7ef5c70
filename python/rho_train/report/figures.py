"""Every figure, drawn by matplotlib as SVG text that takes its colours from the style sheet."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rho_train.report.read import FLAGS, Experiment, Record, Run
from rho_train.report.summary import Classes, Summary

# Placeholder colours: in the SVG each becomes the variable of the style sheet.
_COLOURS = [f"#0000c{style}" for style in range(8)]
_SOFT, _GRID, _PAPER, _INK = (f"#0000e{index}" for index in range(4))
_VARIABLES = {colour: f"var(--c{style})" for style, colour in enumerate(_COLOURS)}
_VARIABLES |= {_SOFT: "var(--soft)", _GRID: "var(--grid)"}
_VARIABLES |= {_PAPER: "var(--paper)", _INK: "var(--ink)"}
_MARKERS = "os^DvPX*"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rho_ext",
    "figure.facecolor": "none",
    "font.size": 11.5,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _SOFT,
    "axes.titlecolor": _SOFT,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "lines.markeredgecolor": _PAPER,
}
_WIDTH = 5.2  # inches of 72 units, about the pixels of a phone: fonts keep their size there
_WARMUP = 0.4  # share of the training in which the curves rise; the axis shows the rest
_IN_MINUTES = 600.0  # seconds from which an axis has minutes
_WINDOWS = 25  # means that a curve of shares has

_SHARES = {
    "noisy": (
        "Wrong labels among the selected examples",
        "Below the dashed line a method avoids wrong labels, above it, it seeks them out.",
    ),
    "correct": (
        "Already correct among the selected examples",
        "A high share: steps were spent on examples that the model classified correctly before.",
    ),
    "less_relevant": (
        "Less relevant examples among the selected ones",
        "Examples of classes that are rare in training and in the test set alike.",
    ),
    "redundant": (
        "Copies of other examples among the selected ones",
        "The model could learn the same from another example.",
    ),
    "unsure": (
        "Doubtful labels among the selected examples",
        "Labels in which the annotators' confidence was below 70%; they may be wrong.",
    ),
}


@dataclass(frozen=True)
class Figure:
    """A drawing, an SVG element, with the words that belong to it."""

    name: str
    title: str
    caption: str
    svg: str


def styles(experiment: Experiment) -> dict[str, int]:
    """Return the colour and marker of each method: 0 for the baseline, then the others in order."""
    others = [name for name in experiment.labels if name != experiment.baseline]
    return {name: style for style, name in enumerate([experiment.baseline, *others])}


def draw_figures(
    experiment: Experiment,
    summary: Summary,
    times: Mapping[str, Mapping[str, float]],
    classes: Mapping[str, tuple[Classes, Classes]],
) -> dict[str, Figure]:
    """Return all figures that the comparison has data for, by name, in reading order."""
    with _drawing():
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
    with _drawing():
        axes = _axes(0, left=0.9)
        axes.stairs(counts, edges, fill=True, facecolor=_COLOURS[1], edgecolor=_PAPER)
        axes.set(xlabel=x, title="Examples", xlim=(edges[0], edges[-1]))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        return _svg(axes, "histogram", words)


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw in our style, whatever a matplotlibrc says."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The browser has a font with the glyphs.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def _axes(legend: int, height: float = 1.9, left: float = 0.55) -> Axes:
    """Return axes with room for so many rows of a legend above; sizes in inches."""
    total = height + 0.85 + 0.21 * legend
    drawing = Drawing(figsize=(_WIDTH, total))
    return drawing.add_axes(
        (left / _WIDTH, 0.5 / total, 1 - (left + 0.28) / _WIDTH, height / total)
    )


def _legend(axes: Axes, columns: int = 1) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.figure.transFigure,
        ncols=columns,
        borderpad=0,
        borderaxespad=0.2,
        labelspacing=0.25,
        handlelength=1.6,
        columnspacing=1.2,
    )


def _svg(axes: Axes, name: str, words: str) -> str:
    file = io.StringIO()
    drawing = axes.get_figure(root=True)
    assert drawing is not None
    drawing.savefig(file, format="svg", metadata={"Date": None})
    body = re.sub(r"<(metadata|style).*?</\1>", "", file.getvalue(), flags=re.DOTALL)

    def in_page(match: re.Match[str]) -> str:
        # Ids are unique in the page; the style sheet has size, font and colours.
        tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", match[0])
        tag = re.sub(r"#0000[ce]\d", lambda colour: _VARIABLES[colour[0]], tag)
        tag = re.sub(r"font-family: [^;\"]*; ?", "", tag)
        return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)

    body = body[body.index("<svg") :].replace("xlink:href", "href")
    body = re.sub(r"<[^>]+>", in_page, body)
    # A style for all markers of a group makes the file half as large.
    uses = r'<g([^>]*)>(\s*(?:<use [^>]*style="([^"]*)"/>\s*)+)</g>'
    body = re.sub(uses, lambda m: f'<g{m[1]} style="{m[3]}">{_unstyled(m[2])}</g>', body)
    head, _, rest = body.partition(">")
    head = re.sub(r' (width|height|xmlns:xlink)="[^"]*"', "", head)
    return f'{head} class="chart" role="img" aria-label="{escape(words)}">{rest}'


def _unstyled(uses: str) -> str:
    return re.sub(r' style="[^"]*"', "", uses)


def _plain(label: str, most: int = 46) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in label)
    # matplotlib leaves labels with a leading underscore out.
    text = f"\u200b{text}" if text.startswith("_") else text
    return text if len(text) <= most else f"{text[: most - 1]}…"


_Curves = Mapping[str, tuple[Sequence[float], Any]]
"""By method x (n,) and y (n, seeds)."""


def _lines(
    experiment: Experiment,
    curves: _Curves,
    name: str,
    *,
    x: str,
    y: str,
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    reference: tuple[str, float] | None = None,
) -> str:
    """Return curves of means with bands from the lowest to the highest seed."""
    axes = _axes(len(curves) + (reference is not None))
    for method, (at, values) in curves.items():
        style = styles(experiment)[method]
        colour, marker = _COLOURS[style % 8], _MARKERS[(style + style // 8) % 8]
        label, marked = _plain(experiment.labels[method]), (0.05 * (style % 4), 0.2)
        axes.plot(
            at, values.mean(1), color=colour, marker=marker, markevery=marked, label=label, zorder=3
        )
        if values.shape[1] > 1:
            band = values.min(1), values.max(1)
            axes.fill_between(at, *band, color=colour, alpha=0.16, linewidth=0)
    if reference is not None:
        text, value = reference
        axes.axhline(value, color=_SOFT, linestyle="--", linewidth=1.3, label=text)
    axes.set(xlabel=x, title=y, xlim=xlim, ylim=ylim)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=not x.endswith("included")))
    axes.xaxis.set_major_formatter("{x:,g}" if xlim[1] < 1000 else "{x:,.0f}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if _span(ylim) > 0.05 else 1))
    _legend(axes)
    ends = (f"{experiment.labels[m]} {v[-1].mean():.1%}" for m, (_, v) in curves.items())
    return _svg(axes, name, f"{y}. Last values: {'; '.join(ends)}.")


def _span(limits: tuple[float, float]) -> float:
    return limits[1] - limits[0]


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Return round ends of an axis that holds [low, high]."""
    high = max(high, low + 0.01)
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    return max(0.0, math.floor(low / step + 1e-9) * step), math.ceil(high / step - 1e-9) * step


def _top(curves: _Curves, reference: tuple[str, float] | None = None) -> tuple[float, float]:
    highest = max(values.max() for _, values in curves.values())
    return 0.0, _rounded(0.0, max(highest, reference[1] if reference else 0.0))[1]


def _accuracy(experiment: Experiment, summary: Summary, *, timed: bool) -> Figure:
    """Return the curves of accuracy against steps, or against seconds with IL cost included."""
    longest = max(run.end["il_seconds"] + run.end["seconds"] for run in experiment.runs)
    unit, units = (60.0, "Minutes") if longest > _IN_MINUTES else (1.0, "Seconds")
    curves, settled = {}, []
    for method, runs in experiment.finished():
        by_step = [{record["step"]: record for record in run.evals} for run in runs]
        steps = sorted(set.intersection(*map(set, by_step)))
        late = [step for step in steps if step >= _WARMUP * steps[-1]]
        settled += [records[step]["accuracy"] for records in by_step for step in late]
        # A baseline with the same minutes goes on to the right of the steps of the others.
        steps = [step for step in steps if timed or step <= experiment.steps]
        x: Sequence[float] = steps
        if timed:
            il = np.mean([run.end["il_seconds"] for run in runs])
            x = [(il + np.mean([r[s]["seconds"] for r in by_step])) / unit for s in steps]
        curves[method] = x, np.array([[r[step]["accuracy"] for r in by_step] for step in steps])
    several = len(experiment.labels) > 1
    best = ("baseline's best", summary.target) if several and summary.target is not None else None
    low, high = _rounded(min(settled), max(*settled, best[1] if best else 0.0))
    accuracy = f"{experiment.watched.capitalize()} accuracy"
    name = f"accuracy-{'seconds' if timed else 'steps'}"
    if timed:
        against = f"{units.lower()}, IL cost included"
        caption = f"{units} of wall-clock without evaluation, mean over the seeds. A curve starts "
        caption += "when its irreducible losses are computed."
        x_label = f"{units} of training, IL cost included"
        end = max(1e-3, *(x[-1] for x, _ in curves.values()))
    else:
        against, x_label, end = "steps", "Steps", experiment.steps
        caption = "One seed."
        if max(values.shape[1] for _, values in curves.values()) > 1:
            caption = "Lines: mean over the seeds; bands: from the lowest to the highest seed."
        if best:
            caption += f" The dashed line is the best of “{summary.baseline.label}” (mean over the "
            caption += "seeds): a method that crosses it early needs fewer steps."
        longer = {name: n for name, n in summary.other_steps.items() if n > experiment.steps}
        if longer:
            labels = ", ".join(f"“{experiment.labels[name]}”" for name in longer)
            caption += f" {labels} goes on to step {max(longer.values()):,}."
    caption += f" The axis begins at {100 * low:g}%."
    limits = {"xlim": (0.0, end), "ylim": (low, high)}
    drawn = _lines(experiment, curves, name, x=x_label, y=accuracy, **limits, reference=best)
    return Figure(name, f"{accuracy} against {against}", caption, drawn)


def _share(experiment: Experiment, summary: Summary, flag: str) -> Figure | None:
    """Return the share of the selected examples with a flag over the steps; None without data."""
    title, reading = _SHARES[flag]
    spacing = max(
        (int(np.diff([0, *(record["step"] for record in run.train)]).max(initial=1)))
        for run in experiment.runs
    )
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
    rate = None
    if flag == "noisy" and summary.noisy is not None:
        rate = (f"all examples: {summary.noisy:.1%}", summary.noisy)
    drawn = _lines(
        experiment,
        curves,
        flag,
        x="Steps",
        y="Share of the selected examples",
        xlim=(0.0, experiment.steps),
        ylim=_top(curves, rate),
        reference=rate,
    )
    caption = f"{reading} Each value is the mean of {window:,} steps."
    return Figure(flag, title, caption, drawn)


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
        again = [
            {e["epoch"]: e["again"] / e["chosen"] for e in run.epochs if e["again"] is not None}
            for run in runs
        ]
        numbers = sorted(set.intersection(*map(set, again)))
        if len(numbers) > 1:
            curves[method] = numbers, np.array([[of[n] for of in again] for n in numbers])
            rates |= {(run.end["batch"] or 0) / (run.end["large_batch"] or 1) for run in runs}
    if not curves:
        return None
    rate = rates.pop() if len(rates) == 1 else 0.0
    reference = (f"at random: {rate:.0%}", rate) if rate else None
    drawn = _lines(
        experiment,
        curves,
        "overlap",
        x="Epochs (passes of large batches)",
        y="Share selected again",
        xlim=(0.0, max(numbers[-1] for numbers, _ in curves.values())),
        ylim=_top(curves, reference),
        reference=reference,
    )
    caption = "Of the examples selected in one pass of large batches, the share that was selected "
    caption += "in the pass before as well. "
    caption += "The dashed line is what a random selection has. " if reference else ""
    caption += "A falling curve means that examples are left aside once they are learnt."
    return Figure("overlap", "Selected again in the next epoch", caption, drawn)


def _quadrants(experiment: Experiment) -> list[Figure]:
    """Return loss against IL for each method with IL, from the middle of the training."""
    found: list[tuple[str, int, Record]] = []
    for method, runs in experiment.finished():
        if samples := [sample for sample in runs[0].samples if sample["il"] is not None]:
            middle = min(samples, key=lambda sample: abs(sample["step"] - experiment.steps / 2))
            found.append((method, runs[0].seed, middle))
    values = np.array([v for *_, s in found for v in (*s["loss"], *s["il"])], dtype=float)
    values = values[np.isfinite(values)]
    high = _rounded(0.0, values.max(initial=0.0))[1]
    return [_quadrant(experiment, *one, high) for one in found] if len(values) else []


def _quadrant(
    experiment: Experiment, method: str, seed: int, sample: Record, high: float
) -> Figure:
    loss, il = (np.array(sample[key], dtype=float) for key in ("loss", "il"))
    selected = np.array(sample["selected"], dtype=bool)
    noisy = np.array(sample["noisy"] or [False] * len(loss), dtype=bool)
    axes = _axes(3 if noisy.any() else 2, height=3.0)
    for wrong, marker, label in ((False, "o", ""), (True, "X", ", wrong label")):
        for rows, name, size, colour, alpha in (
            (~selected, "not selected", 3.0, _SOFT, 0.5),
            (selected, "selected", 5.5, _COLOURS[2], 1.0),
        ):
            rows = rows & (noisy == wrong)
            if rows.any():
                look: dict[str, Any] = {"color": colour, "alpha": alpha, "mew": 0.4}
                look |= {"markersize": size + wrong, "label": f"{name}{label}"}
                axes.plot(il[rows], loss[rows], marker, **look)
    axes.plot([0, high], [0, high], "--", color=_SOFT, linewidth=1.3, label="loss = IL")
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
        (0.42, 0.93, "noisy or not learnable"),
        (0.02, 0.03, "learnt"),
        (0.5, 0.03, "forgotten by the IL model"),
    ):
        axes.text(x, y, text, transform=axes.transAxes, style="italic", zorder=4)
    _legend(axes, columns=2)
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
    return Figure(name, title, caption, _svg(axes, name, f"{title}. {caption}"))


def _times(experiment: Experiment, times: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """Return the seconds by part as a stacked bar for each method; None without data."""
    if not times:
        return None
    axes = _axes(3, height=0.5 * len(times), left=0.15)
    places, reached = np.arange(len(times))[::-1], np.zeros(len(times))
    parts = ("IL", "training", "scoring", "selecting", "loading", "other", "evaluation")
    for part, style in zip(parts, (7, 0, 2, 3, 6, 5, None), strict=True):
        sizes = np.array([row[part] for row in times.values()])
        colour, alpha = (_SOFT, 0.45) if style is None else (_COLOURS[style], 1.0)
        label = "evaluation, not counted" if style is None else part
        axes.barh(places, sizes, 0.4, reached, color=colour, alpha=alpha, label=label)
        reached = reached + sizes
    totals = {method: f"{row['sum']:,.1f} s" for method, row in times.items()}
    for place, (method, total) in zip(places, totals.items(), strict=True):
        axes.text(0, place + 0.3, _plain(experiment.labels[method], 40))
        axes.text(reached.max(), place + 0.3, total, ha="right")
    axes.set(xlim=(0, max(1e-3, reached.max())), ylim=(-0.3, len(times) - 0.2), yticks=[])
    axes.grid(axis="x")
    axes.set_xlabel("Seconds")
    _legend(axes, columns=3)
    caption = (
        "Wall-clock of a whole run, mean over the seeds. IL is the time to compute the irreducible "
        "losses; with precomputed IL a bar begins behind it. The number at the right is the sum "
        "without evaluation. “other”, records and checkpoints, is not part of the seconds in the "
        "table and the curves."
    )
    words = "; ".join(f"{experiment.labels[method]}: {total}" for method, total in totals.items())
    return Figure("time", "Where the seconds went", caption, _svg(axes, "time", words))


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
    low = _rounded(min(values.min() for _, values in curves.values()), 1.0)[0]
    drawn = _lines(
        experiment,
        curves,
        "classes",
        x="Classes, the worst first",
        y="Test accuracy of the class",
        xlim=(1.0, max(len(values) for _, values in curves.values())),
        ylim=(low, 1.0),
    )
    caption = "Each method has its classes in its own order, so the left end is its worst class. "
    caption += f"Means over the seeds after the last step. The axis begins at {100 * low:g}%."
    title = "Test accuracy by class, from the worst to the best"
    return Figure("classes", title, caption, drawn)
