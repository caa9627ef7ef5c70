"""Draw the figures of a suite from its rows, and from its curves where it was just run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import derive
from experiments.derive import Method, in_cell
from experiments.suite import Cell, Suite
from keep import Row
from plotting import STYLE, save  # before matplotlib: it sets the backend

# Okabe and Ito's colours, which the colour-blind can tell apart; each with a marker of its own.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
_MARKERS = "osD^vP*X"
_GRID: Any = {
    **STYLE,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
}
_LETTER = 0.065  # inches, of the names of rows
_SHARES = {
    "noisy": "wrong labels",
    "unsure": "doubted by annotators",
    "correct": "already correct",
    "less_relevant": "less relevant",
    "redundant": "copies",
}


def draw(suite: Suite, rows: Sequence[Row], curves: Sequence[Row], folder: Path) -> None:
    """Draw the figures that a suite asks for as `folder/NAME-KIND.png`.

    Args:
        suite: with names and kinds.
        rows: of its `runs.csv`.
        curves: one row a method and evaluation, as `run` leaves them; none: figures of curves stay
            as they are.
        folder: of the figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind in suite.figures:
        source = curves if kind == "curves" else rows
        cells = [cell for cell in suite.cells if in_cell(source, cell.name)]
        if cells:
            with matplotlib.rc_context(_GRID):
                save(_KINDS[kind](suite, cells, source), folder / f"{suite.name}-{kind}.png")


def _curves(suite: Suite, cells: Sequence[Cell], curves: Sequence[Row]) -> Figure:
    methods = dict.fromkeys(row["method"] for row in curves)
    figure, axes = _grid(len(cells), 2.6)
    for axis, cell in zip(axes, cells, strict=False):
        tops: list[float] = []
        for index, method in enumerate(methods):
            ours = [row for row in in_cell(curves, cell.name) if row["method"] == method]
            if not ours:
                continue
            y, low, high = (
                [100 * float(row[k]) for row in ours] for k in ("accuracy", "lowest", "highest")
            )
            x = [float(row["step"]) for row in ours]
            colour = _COLOURS[index % len(_COLOURS)]
            axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            marker = {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 4}
            every = max(1, len(x) // 6)
            axis.plot(x, y, color=colour, lw=1.4, markevery=every, label=ours[0]["label"], **marker)
            tops += y[len(y) // 3 :]
        # The steep start says little; the end is what is compared.
        span = max(tops) - min(tops)
        axis.set_ylim(min(tops) - 0.08 * span - 0.1, max(tops) + 0.12 * span + 0.1)
        axis.set_title(cell.name, loc="left")
        axis.set_xlabel("steps")
        axis.set_ylabel("validation accuracy, %")
    _legend(figure, axes)
    return figure


def _shares(suite: Suite, cells: Sequence[Cell], rows: Sequence[Row]) -> Figure:
    known = [name for name in _SHARES if any(row[name] for row in rows)]
    figure, panels = _by_method(suite, cells, rows, 0.3)
    thick = 0.8 / len(known)
    for axis, of in panels:
        for index, name in enumerate(known):
            found = [(method.share(name), y) for method, y in of]
            y = [y + 0.4 - (index + 0.5) * thick for x, y in found if x is not None]
            x = [100 * x for x, _ in found if x is not None]
            if not x:
                continue
            axis.barh(y, x, height=thick, color=_COLOURS[index + 1], label=_SHARES[name])
    _legend(figure, [axis for axis, _ in panels])
    figure.supxlabel("share of the examples that are trained on, %", fontsize=9)
    return figure


def _by_method(
    suite: Suite, cells: Sequence[Cell], rows: Sequence[Row], height: float
) -> tuple[Figure, list[tuple[Axes, list[tuple[Method, int]]]]]:
    """Make a panel a cell with a line a method, from the top; return the methods by their line."""
    labels = [str(method["label"]) for method in suite.methods]
    names = [method["name"] for method in suite.methods]
    figure, axes = _grid(len(cells), 0.6 + height * len(names), rows=labels)
    panels = []
    for axis, cell in zip(axes, cells, strict=False):
        of = derive.methods(in_cell(rows, cell.name))
        axis.set_yticks(range(len(names)), labels[::-1])
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_title(cell.name, loc="left")
        lines = [(of[name], y) for y, name in enumerate(reversed(names)) if name in of]
        panels.append((axis, lines))
    return figure, panels


def _grid(count: int, height: float, *, rows: Sequence[str] = ()) -> tuple[Figure, Sequence[Axes]]:
    """Make `count` panels, the first of each line with names of rows beside it if there are."""
    across = 2 if count % 2 == 0 and count % 3 else min(3, count)
    down = math.ceil(count / across)
    width = 3.4 * across + 0.4 + _LETTER * max(map(len, rows), default=0)
    figure, axes = plt.subplots(
        *(down, across),
        figsize=(width, height * down + 0.9),
        sharey=bool(rows),
        squeeze=False,
        layout="constrained",
    )
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend([*handles.values()], [*handles], loc="outside upper left", ncols=3, frameon=False)


_KINDS: dict[str, Any] = {
    "curves": _curves,
    "shares": _shares,
}
