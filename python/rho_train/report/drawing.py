"""SVG text of matplotlib that takes its colours from the style sheet."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rho_train.report.read import Experiment

# Placeholder colours: in the SVG each becomes the variable of the style sheet.
COLOURS = [f"#0000c{style}" for style in range(8)]
_NAMED = {"#0000e0": "soft", "#0000e1": "grid", "#0000e2": "paper", "#0000e3": "ink"}
_SOFT, _GRID, _PAPER, _INK = _NAMED
_VARIABLES = {**_NAMED, **{colour: f"c{style}" for style, colour in enumerate(COLOURS)}}
_MARKERS = "os^DvPX*"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rho_ext",
    "text.color": _INK,
    "grid.color": _GRID,
    "lines.markeredgecolor": _PAPER,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "axes.titlelocation": "left",
    "axes.grid.axis": "y",
    "ytick.major.size": 0,
    "legend.borderpad": 0,
    "legend.labelspacing": 0.25,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    **dict.fromkeys(("axes.labelcolor", "axes.edgecolor", "axes.titlecolor"), _SOFT),
    **dict.fromkeys(("xtick.color", "ytick.color"), _SOFT),
    **dict.fromkeys(("font.size", "axes.titlesize"), 11.5),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("text.parse_math", "legend.frameon"), False),
}
_WIDTH = 4.8  # inches of 72 units, about the pixels of a phone: fonts keep their size there


@dataclass(frozen=True)
class Figure:
    """A drawing, an SVG element, with what stands above and below it."""

    name: str
    svg: str
    title: str
    caption: str


def styles(experiment: Experiment) -> dict[str, int]:
    """Return the colour and marker of each method: 0 for the baseline, then the others in order."""
    others = [name for name in experiment.labels if name != experiment.baseline]
    return {name: style for style, name in enumerate([experiment.baseline, *others])}


@contextmanager
def our_style() -> Iterator[None]:
    """Draw in our style, whatever a matplotlibrc says."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The browser has a font with the glyphs.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def make_axes(legend: int, height: float = 1.9, left: float = 0.55) -> Axes:
    """Return axes with room for so many rows of a legend above; sizes in inches."""
    total = height + 0.85 + 0.21 * legend
    box = left / _WIDTH, 0.5 / total, 1 - (left + 0.28) / _WIDTH, height / total
    return Drawing(figsize=(_WIDTH, total)).add_axes(box)


def add_legend(axes: Axes, columns: int = 1) -> None:
    """Add the legend at the upper left of the whole figure."""
    whole = {"bbox_to_anchor": (0, 1), "bbox_transform": axes.figure.transFigure}
    axes.legend(loc="upper left", ncols=columns, borderaxespad=0.2, **whole)


def to_svg(axes: Axes, name: str, words: str) -> str:
    """Return the figure as an SVG element whose ids begin with `name`; `words` describe it."""
    file = io.StringIO()
    drawing = axes.get_figure(root=True)
    assert drawing is not None
    drawing.savefig(file, format="svg", metadata={"Date": None})
    body = re.sub(r"<(metadata|style).*?</\1>", "", file.getvalue(), flags=re.DOTALL)

    def in_page(match: re.Match[str]) -> str:
        # Ids are unique in the page; the style sheet has size, font and colours.
        tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", match[0])
        tag = re.sub(r"#0000[ce]\d", lambda colour: f"var(--{_VARIABLES[colour[0]]})", tag)
        tag = re.sub(r"font-family: [^;\"]*; ?", "", tag)
        return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)

    body = body[body.index("<svg") :].replace("xlink:href", "href")
    body = re.sub(r"<[^>]+>", in_page, body)
    # A style for all markers of a group makes the file half as large.
    uses = r'<g([^>]*)>(\s*(?:<use [^>]*style="([^"]*)"/>\s*)+)</g>'
    style = r' style="[^"]*"'
    body = re.sub(uses, lambda m: f'<g{m[1]} style="{m[3]}">{re.sub(style, "", m[2])}</g>', body)
    head, _, rest = body.partition(">")
    head = re.sub(r' (width|height|xmlns:xlink)="[^"]*"', "", head)
    return f'{head} class="chart" role="img" aria-label="{escape(words)}">{rest}'


def plain(label: str, most: int = 42) -> str:
    """Return a label that matplotlib draws as it is, cut to its room."""
    text = "".join(letter if letter.isprintable() else " " for letter in label)
    # matplotlib leaves labels with a leading underscore out.
    text = f"\u200b{text}" if text.startswith("_") else text
    return text if len(text) <= most else f"{text[: most - 1]}…"


Curves = dict[str, tuple[Any, Any]]
"""By method x (n,) and y (n, seeds)."""


def line_figure(
    experiment: Experiment,
    name: str,
    curves: Curves,
    title: str,
    caption: str,
    x: str,
    y: str,
    *,
    reference: tuple[str, float] | None = None,
    ylim: tuple[float, float] | None = None,
) -> Figure | None:
    """Return curves of means with bands from the lowest to the highest seed, None without curves;
    `reference` is a dashed line with its label, `ylim` None from 0 to above all values."""
    if not curves:
        return None
    axes = make_axes(len(curves) + (reference is not None))
    for method, (at, values) in curves.items():
        style = styles(experiment)[method]
        (line,) = axes.plot(at, values.mean(1), _MARKERS[(style + style // 8) % 8] + "-", zorder=3)
        line.set(color=COLOURS[style % 8], markevery=(0.05 * (style % 4), 0.2))
        line.set_label(plain(experiment.labels[method]))
        if values.shape[1] > 1:
            band = values.min(1), values.max(1)
            axes.fill_between(at, *band, color=line.get_color(), alpha=0.16, linewidth=0)
    tops = [values.max() for _, values in curves.values()]
    if reference is not None:
        axes.axhline(reference[1], color=_SOFT, ls="--", lw=1.3, label=reference[0])
        tops.append(reference[1])
    end = max(1e-3, *(at[-1] for at, _ in curves.values()))
    low, high = ylim or (0.0, rounded(0.0, max(tops))[1])
    axes.set(xlabel=x, title=y, xlim=(0.0, end), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0 if high - low > 0.05 else 1))
    add_legend(axes)
    ends = (f"{experiment.labels[m]} {v[-1].mean():.1%}" for m, (_, v) in curves.items())
    svg = to_svg(axes, name, f"{y}. Last values: {'; '.join(ends)}.")
    caption += f" The axis begins at {100 * low:g}%." if low else ""
    return Figure(name, svg, title, caption)


def rounded(low: float, high: float) -> tuple[float, float]:
    """Return round ends of an axis that holds [low, high]."""
    high = max(high, low + 0.01)
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    return max(0.0, math.floor(low / step + 1e-9) * step), math.ceil(high / step - 1e-9) * step
