"""The figures of the suites, from their CSV files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite import VARIANTS, Cell, Suite, load, names, slug
from tables import Tables, in_cell, read_tables

# Okabe and Ito's colours, which the colour-blind can tell apart; each with a marker of its own.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
_MARKERS = "osD^vP*X"
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    # The same rows give the same file.
    "svg.hashsalt": "rho_ext",
}
_ACROSS = 3
_LOWEST = -16.0  # points of accuracy that a difference is drawn to scale to
_LETTER = 0.065  # inches, of the names of rows
_MOST_CELLS = 12
_SHARES = {
    "noisy": "noisy",
    "unsure": "doubted by annotators",
    "correct": "already correct",
    "less_relevant": "less relevant",
    "redundant": "copies",
}


def draw(suites: Path, folder: Path) -> None:
    """Draw the figures that each suite asks for, from `folder/results` into `folder/figures`."""
    for name in names(suites):
        for variant in VARIANTS:
            place = f"{name}-{variant}"
            if not (folder / "results" / place).is_dir():
                continue
            suite, tables = load(name, variant, suites), read_tables(folder / "results" / place)
            (folder / "figures").mkdir(exist_ok=True)
            for part, some in _parts(suite):
                for kind in suite.figures:
                    table, make = _KINDS[kind]
                    rows = getattr(tables, table)
                    cells = tuple(cell for cell in some.cells if in_cell(rows, cell.name))
                    if not cells:
                        # The suite has other cells now, or these were not run.
                        continue
                    with matplotlib.rc_context(_STYLE):
                        figure = make(replace(some, cells=cells), tables)
                        path = folder / "figures" / f"{place}-{kind}{part}.svg"
                        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
                        plt.close(figure)


def _parts(suite: Suite) -> list[tuple[str, Suite]]:
    """The suite in parts whose figures fit a page: by the first axis, if there are many cells."""
    if len(suite.cells) <= _MOST_CELLS:
        return [("", suite)]
    parts: dict[str, list[Cell]] = {}
    for cell in suite.cells:
        parts.setdefault(next(iter(cell.labels.values())), []).append(cell)
    return [
        (f"-{slug(label)}", replace(suite, cells=tuple(cells))) for label, cells in parts.items()
    ]


def _curves(suite: Suite, tables: Tables, *, charged: bool) -> Figure:
    methods = suite.curves or tuple(dict.fromkeys(row["method"] for row in tables.curves))
    figure, axes = _grid(len(suite.cells), 2.6)
    for axis, cell in zip(axes, suite.cells, strict=False):
        rows = in_cell(tables.curves, cell.name)
        tops: list[float] = []
        for index, method in enumerate(methods):
            ours = [row for row in rows if row["method"] == method]
            if not ours:
                continue
            y = [100 * float(row["accuracy"]) for row in ours]
            x = [float(row["step"]) for row in ours]
            if charged:
                x = [float(row["seconds"]) + float(row["il_seconds"]) for row in ours]
            low, high = ([100 * float(row[k]) for row in ours] for k in ("lowest", "highest"))
            colour = _COLOURS[index % len(_COLOURS)]
            axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
            axis.plot(
                x,
                y,
                color=colour,
                linewidth=1.4,
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=4,
                markevery=max(1, len(x) // 6),
                label=ours[0]["label"],
            )
            tops += y[len(y) // 3 :]
        # The steep way up says little; the end is what is compared.
        span = max(tops) - min(tops)
        axis.set_ylim(min(tops) - 0.08 * span - 0.1, max(tops) + 0.12 * span + 0.1)
        if not charged:
            # Who has the minutes of another method may make many more steps.
            axis.set_xlim(0, 1.03 * cell.values["train"]["steps"])
        axis.set_title(cell.name, loc="left")
        axis.set_xlabel("seconds, IL charged" if charged else "steps")
        axis.set_ylabel("validation accuracy, %")
    _legend(figure, axes)
    return figure


def _differences(suite: Suite, tables: Tables, *, metric: str) -> Figure:
    against = suite.against[0]
    rows = [r for r in tables.paired if (r["metric"], r["against"]) == (metric, against)]
    labels = {row["method"]: row["label"] for row in tables.methods}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    height = 0.5 + 0.22 * len(methods)
    figure, axes = _grid(len(suite.cells), height, rows=[labels[m] for m in methods])
    for axis, cell in zip(axes, suite.cells, strict=False):
        of = {row["method"]: row for row in in_cell(rows, cell.name)}
        for place, method in enumerate(reversed(methods)):
            if method not in of:
                continue
            mean = 100 * float(of[method]["difference"])
            error = 100 * float(of[method]["standard_error"] or 0)
            colour = "#D55E00" if mean < -2 * error else "#0072B2" if mean > 2 * error else "#777"
            if mean < _LOWEST:
                # A number at the edge: drawn to scale it would press all others together.
                edge = axis.get_yaxis_transform()
                axis.plot(0.02, place, "<", color=colour, markersize=5, transform=edge)
                axis.text(*(0.04, place, f"{mean:.0f}"), color=colour, va="center", transform=edge)
            else:
                axis.errorbar(mean, place, xerr=2 * error, fmt="o", color=colour, markersize=4)
        axis.axvline(0, color="#000000", linewidth=0.8)
        axis.set_yticks(range(len(methods)), [labels[method] for method in reversed(methods)])
        axis.set_ylim(-0.6, len(methods) - 0.4)
        axis.set_title(cell.name, loc="left")
    what = "accuracy of the worst class" if metric == "worst_class" else "test accuracy"
    shown = [row for cell in suite.cells for row in in_cell(rows, cell.name)]
    means = [100 * float(row["difference"]) for row in shown]
    bars = "two standard errors"
    if min(means, default=0.0) < _LOWEST:
        bars += "; arrows: off the scale"
    figure.supxlabel(
        f"{what}: points above “{labels[against]}” with the same seed; bars: {bars}",
        fontsize=9,
    )
    return figure


def _factors(suite: Suite, tables: Tables) -> Figure:
    methods = list(dict.fromkeys(row["method"] for row in tables.methods))
    labels = {row["method"]: row["label"] for row in tables.methods}
    height = 0.5 + 0.22 * len(methods)
    figure, axes = _grid(len(suite.cells), height, rows=[labels[m] for m in methods])
    kinds = (
        ("factor", "steps", "o"),
        ("factor_reused", "seconds, IL reused", "s"),
        ("factor_charged", "seconds, IL charged", "^"),
    )
    for axis, cell in zip(axes, suite.cells, strict=False):
        of = {row["method"]: row for row in in_cell(tables.methods, cell.name)}
        for index, (column, label, marker) in enumerate(kinds):
            spots = [
                (float(of[m][column]), place)
                for place, m in enumerate(reversed(methods))
                if m in of
                and of[m][column]
                # Charged and reused are the same where there is no IL.
                and (column != "factor_charged" or float(of[m]["il_seconds"]) > 0)
            ]
            axis.plot(
                [x for x, _ in spots],
                [y for _, y in spots],
                marker,
                color=_COLOURS[index + 1],
                markersize=5,
                label=label,
            )
        axis.axvline(1, color="#000000", linewidth=0.8)
        axis.set_xscale("log", base=2)
        # Room for half and for twice, so that every panel has numbers to read it by.
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, 0.45), max(high, 2.2))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_yticks(range(len(methods)), [labels[method] for method in reversed(methods)])
        axis.set_ylim(-0.6, len(methods) - 0.4)
        axis.set_title(cell.name, loc="left")
    _legend(figure, axes)
    base = labels.get(suite.cells[0].values["baseline"], "the baseline")
    figure.supxlabel(
        f"how many times sooner than “{base}” the end of its curve is met (nothing: never)",
        fontsize=9,
    )
    return figure


def _shares(suite: Suite, tables: Tables) -> Figure:
    known = [k for k in _SHARES if any(row.get(k) for row in tables.methods)]
    methods = list(dict.fromkeys(row["method"] for row in tables.methods))
    labels = {row["method"]: row["label"] for row in tables.methods}
    height = 0.6 + 0.3 * len(methods)
    figure, axes = _grid(len(suite.cells), height, rows=[labels[m] for m in methods])
    for axis, cell in zip(axes, suite.cells, strict=False):
        of = {row["method"]: row for row in in_cell(tables.methods, cell.name)}
        thick = 0.8 / len(known)
        for index, name in enumerate(known):
            spots = [
                (place + 0.4 - (index + 0.5) * thick, 100 * float(of[m][name]))
                for place, m in enumerate(reversed(methods))
                if m in of and of[m][name]
            ]
            if not spots:
                continue
            axis.barh(
                [y for y, _ in spots],
                [x for _, x in spots],
                height=thick,
                color=_COLOURS[index + 1],
                label=_SHARES[name],
            )
        axis.set_yticks(range(len(methods)), [labels[method] for method in reversed(methods)])
        axis.set_title(cell.name, loc="left")
    _legend(figure, axes)
    figure.supxlabel("share of the points that are trained on, %", fontsize=9)
    return figure


def _grid(count: int, height: float, *, rows: Sequence[str] = ()) -> tuple[Figure, Sequence[Axes]]:
    """Make `count` panels, the first of each line with names of rows beside it if there are."""
    across = 2 if count == 4 else min(_ACROSS, count)
    down = math.ceil(count / across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(
            3.4 * across + 0.4 + _LETTER * max(map(len, rows), default=0),
            height * down + 0.9,
        ),
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


# The table that a kind of figure is drawn from, and what draws it.
_KINDS: dict[str, tuple[str, Callable[[Suite, Tables], Figure]]] = {
    "curves": ("curves", lambda suite, tables: _curves(suite, tables, charged=False)),
    "minutes": ("curves", lambda suite, tables: _curves(suite, tables, charged=True)),
    "differences": ("paired", lambda suite, tables: _differences(suite, tables, metric="test")),
    "worst_class": (
        "paired",
        lambda suite, tables: _differences(suite, tables, metric="worst_class"),
    ),
    "factors": ("methods", _factors),
    "shares": ("methods", _shares),
}
