"""The figures of the report, as SVG that takes its colours from the style sheet."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rho_train.report.experiment import Experiment, Run

# In the SVG each colour becomes the variable of the style sheet with its name.
_NAMES = [*(f"c{style}" for style in range(8)), "soft", "grid", "paper", "ink"]
_COLOURS = {name: f"#0000{0xC0 + index:02x}" for index, name in enumerate(_NAMES)}
_MARKERS = "os^DvPX*"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rho_ext",
    "text.color": _COLOURS["ink"],
    "grid.color": _COLOURS["grid"],
    "lines.markeredgecolor": _COLOURS["paper"],
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "axes.titlelocation": "left",
    "axes.grid.axis": "y",
    "ytick.major.size": 0,
    "legend.borderpad": 0,
    "legend.labelspacing": 0.25,
    "legend.handlelength": 1.6,
    **dict.fromkeys(("axes.labelcolor", "axes.edgecolor", "axes.titlecolor"), _COLOURS["soft"]),
    **dict.fromkeys(("xtick.color", "ytick.color"), _COLOURS["soft"]),
    **dict.fromkeys(("font.size", "axes.titlesize"), 11.5),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("text.parse_math", "legend.frameon"), False),
}
# Inches of 72 units. 4.8 are about the pixels of a phone: fonts keep their size there.
_WIDTH, _HEIGHT, _LEFT = 4.8, 1.9, 0.55
# The scale of errors, finite for an accuracy of 1, and its ticks.
_OF_ERRORS: Any = (lambda accuracy: -np.log(1.01 - accuracy), lambda y: 1.01 - np.exp(-y))
_TICKS = (0.0, 0.5, 0.75, 0.85, 0.9, 0.95, 0.98, 1.0)

Curves = dict[str, tuple[Any, Any]]
"""By method x (n,) and y (n, seeds)."""


def styles(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """Return the marker and the colour of each method: first the baseline, then the others."""
    others = [name for name in experiment.labels if name != experiment.baseline]
    names = enumerate([experiment.baseline, *others])
    return {name: ((style + style // 8) % 8, style % 8) for style, name in names}


def figures_of(experiment: Experiment) -> dict[str, tuple[str, str, str]]:
    """Return title, caption and SVG of all figures with data, by name, in reading order."""

    def curves(of_run: Callable[[Run], Mapping[Any, float]]) -> Curves:
        """Return the values of `of_run` by method, at the places that all its runs have."""
        found = {}
        for method, runs in experiment.runs.items():
            values = [of_run(run) for run in runs]
            if places := sorted(set.intersection(*map(set, values))):
                numbers = [[of[place] for of in values] for place in places]
                found[method] = np.array(places), np.array(numbers)
        return found

    def shares(run: Run) -> dict[int, float]:
        known = (one for one in run.train if one["noisy"] is not None and one["selected"])
        return {one["step"]: one["noisy"] / one["selected"] for one in known}

    accuracies = curves(lambda run: {e["step"]: e["accuracy"] for e in run.eval})
    costs = curves(lambda run: {e["step"]: sum(e["cost"].values()) for e in run.eval})
    by_cost = {m: (costs[m][1].mean(1), values) for m, (_, values) in accuracies.items()}
    of_errors = any(values.max() > 0.5 for _, values in accuracies.values())
    best = None if math.isnan(experiment.target) else ("baseline's best", experiment.target)
    caption = "Lines: mean over the seeds; bands: from the lowest to the highest."
    if best:
        of = f"the best of “{experiment.labels[experiment.baseline]}” (mean over the seeds)"
        caption += f" The dashed line is {of}: a method that crosses it earlier is cheaper."
    caption += " On this axis halved errors are equal steps." if of_errors else ""
    y = f"{experiment.watched.capitalize()} accuracy"
    known = not math.isnan(experiment.noisy)
    noise = (f"all examples: {experiment.noisy:.1%}", experiment.noisy) if known else None
    found = {}

    def add(name: str, title: str, caption: str, curves: Curves, **axes: Any) -> None:
        if curves:
            found[name] = title, caption, _draw(name, experiment, curves, **axes)

    errors: dict[str, Any] = {"y": y, "reference": best, "of_errors": of_errors}
    text = f"{caption} A curve starts when its irreducible losses are computed."
    x = "Cost in uniform steps, IL included"
    add("accuracy-cost", f"{y} against cost", text, by_cost, x=x, **errors)
    text = "The same against steps, which leave out what scoring and irreducible losses cost."
    add("accuracy-steps", f"{y} against steps", text, accuracies, x="Steps", **errors)
    text = "Above the dashed line a method seeks wrong labels out."
    axes = {"x": "Steps", "y": "Share of the selected examples", "reference": noise}
    add("noisy", "Wrong labels among the selected", text, curves(shares), **axes)
    return found


def _draw(
    name: str,
    experiment: Experiment,
    curves: Curves,
    *,
    x: str,
    y: str,
    reference: tuple[str, float] | None,
    of_errors: bool = False,
) -> str:
    """Return an SVG element, whose ids begin with `name`: means, and bands over the seeds.

    `reference` is a dashed line with its label. With `of_errors`, y has a scale on which halved
    errors are equal steps.
    """
    # Our style, whatever a matplotlibrc says; the browser has a font with the glyphs.
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        rows = len(curves) + (reference is not None)  # of the legend, above all
        total = _HEIGHT + 0.85 + 0.21 * rows
        box = _LEFT / _WIDTH, 0.5 / total, 1 - (_LEFT + 0.28) / _WIDTH, _HEIGHT / total
        axes = Drawing(figsize=(_WIDTH, total)).add_axes(box)
        for method, (at, values) in curves.items():
            marker, colour = styles(experiment)[method]
            form = _MARKERS[marker] + "-"
            (line,) = axes.plot(at, values.mean(1), form, color=_COLOURS[f"c{colour}"])
            line.set(markevery=(0.05 * (colour % 4), 0.2), label=_plain(experiment.labels[method]))
            band = values.min(1), values.max(1)
            axes.fill_between(at, *band, color=line.get_color(), alpha=0.16, linewidth=0)
        top = max(values.max() for _, values in curves.values())
        if reference is not None:
            label, at = reference
            axes.axhline(at, color=_COLOURS["soft"], ls="--", lw=1.3, label=label)
            top = max(top, at)
        end = max(1e-3, *(at[-1] for at, _ in curves.values()))
        axes.set(xlabel=x, title=y, xlim=(0.0, end))
        high = max(0.01, 1.05 * top)
        if of_errors:
            axes.set_yscale("function", functions=_OF_ERRORS)
            high = top + 0.1 * (1.01 - top)
            axes.set_yticks([tick for tick in _TICKS if tick <= high])
        axes.set_ylim(0.0, high)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0 if high > 0.05 else 1))
        whole: Any = {"bbox_to_anchor": (0, 1), "bbox_transform": axes.figure.transFigure}
        axes.legend(loc="upper left", borderaxespad=0.2, **whole)
        last = (f"{experiment.labels[m]} {v[-1].mean():.1%}" for m, (_, v) in curves.items())
        return _to_svg(axes, name, f"{y}. Last values: {'; '.join(last)}.")


def _to_svg(axes: Axes, name: str, words: str) -> str:
    """Return the figure as an SVG element whose ids begin with `name`; `words` describe it."""
    file, drawing = io.StringIO(), axes.get_figure(root=True)
    assert drawing is not None
    drawing.savefig(file, format="svg", metadata={"Date": None})
    body = re.sub(r"<(metadata|style).*?</\1>", "", file.getvalue(), flags=re.DOTALL)

    def in_page(match: re.Match[str]) -> str:
        # Ids are unique in the page; the style sheet has size, font and colours.
        tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", match[0])
        tag = re.sub(r"#0000(c\w)", lambda c: f"var(--{_NAMES[int(c[1], 16) - 0xC0]})", tag)
        tag = re.sub(r"font-family: [^;\"]*; ?", "", tag)
        return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)

    body = body[body.index("<svg") :].replace("xlink:href", "href")
    head, _, rest = re.sub(r"<[^>]+>", in_page, body).partition(">")
    head = re.sub(r' (width|height|xmlns:xlink)="[^"]*"', "", head)
    return f'{head} class="chart" role="img" aria-label="{escape(words)}">{rest}'


def _plain(label: str) -> str:
    """Return a label that matplotlib draws as it is, cut to its room."""
    text = "".join(letter if letter.isprintable() else " " for letter in label)
    # matplotlib leaves labels with a leading underscore out.
    text = f"\u200b{text}" if text.startswith("_") else text
    return text if len(text) <= 42 else f"{text[:41]}…"
