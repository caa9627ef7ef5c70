"""What a table of irreducible losses looks like: its distribution and its extreme points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rho_train.files import atomic_write
from rho_train.il.store import ILStore
from rho_train.report.axis import Axis, nice_step
from rho_train.report.chart import bar_chart
from rho_train.report.svg import STYLE

_BARS = 30
_SHOWN = 0.995  # the share of the points that the bars show one by one; the last takes the rest
_WIDTH = 40
_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Point:
    """An example by its id, its irreducible loss in nats, and the fold that left it out."""

    id: int
    il: float
    fold: int | None


@dataclass(frozen=True)
class LossesSummary:
    """The distribution of a store: `counts[i]` points lie in [edges[i], edges[i + 1]), the last
    count takes all that is higher; losses in nats, NaN without a known point."""

    n: int
    known: int
    mean: float
    quantiles: Mapping[float, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    highest: tuple[Point, ...]
    lowest: tuple[Point, ...]
    info: Mapping[str, str]


def summarize_losses(store: ILStore, extremes: int = 10) -> LossesSummary:
    """Summarise a store; takes the memory of two more tables.

    Example:
        >>> import torch
        >>> store = ILStore(torch.tensor([0.1, 2.0, float("nan")]), {"n": "3", "labels": "",
        ...     "ids": "position"})
        >>> summary = summarize_losses(store, extremes=1)
        >>> summary.known, summary.highest[0].id, summary.lowest[0].id
        (2, 1, 0)
    """
    il = store.il.numpy()
    ordered = np.sort(il[~np.isnan(il)])
    known = len(ordered)
    if known == 0:
        return LossesSummary(len(il), 0, float("nan"), {}, (), (), (), (), _info(store))
    low, top = float(ordered[0]), float(ordered[int(_SHOWN * (known - 1))])
    # Bars that are no wider than the spacing of float32 there would have the same edges.
    step = nice_step(max((top - low) / _BARS, 1e-6 * abs(top), 1e-6))
    first = np.floor(low / step)
    bars = int(np.floor(top / step) - first) + 1
    # In the type of the table: otherwise the search would copy the table.
    edges = (step * (first + np.arange(bars + 1))).astype(np.float32)
    below = np.searchsorted(ordered, edges[1:-1])
    counts = np.diff(np.concatenate([[0], below, [known]]))

    def points(chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], sign: int) -> list[Point]:
        ids = np.flatnonzero(chosen)
        ids = ids[np.argsort(sign * il[ids], kind="stable")][:extremes]
        folds = [None if store.fold is None else int(store.fold[i]) for i in ids]
        return [Point(int(i), float(il[i]), f) for i, f in zip(ids, folds, strict=True)]

    k = min(extremes, known)
    return LossesSummary(
        n=len(il),
        known=known,
        mean=float(ordered.mean(dtype=np.float64)),
        quantiles={q: float(ordered[round(q * (known - 1))]) for q in _QUANTILES},
        edges=tuple(map(float, edges)),
        counts=tuple(map(int, counts)),
        highest=tuple(points(il >= ordered[known - k], -1)) if k else (),
        lowest=tuple(points(il <= ordered[k - 1], 1)) if k else (),
        info=_info(store),
    )


def format_losses(summary: LossesSummary) -> str:
    """The summary for a console, with a histogram."""
    lines = [numbers(summary)]
    if summary.known:
        most = max(summary.counts)
        labels = bar_labels(summary)
        width = max(map(len, labels))
        lines.append("")
        lines += [
            f"{label:>{width}}  {'█' * round(_WIDTH * count / most):<{_WIDTH}} {count:,}"
            for label, count in zip(labels, summary.counts, strict=True)
        ]
        for title, points in (("highest", summary.highest), ("lowest", summary.lowest)):
            lines += ["", title]
            lines += [f"  id {p.id:<12} {p.il:10.4f}{_fold(p)}" for p in points]
    lines += ["", *(f"{key}: {text}" for key, text in sorted(summary.info.items()))]
    return "\n".join(lines)


def numbers(summary: LossesSummary) -> str:
    """How many are known, their mean and quantiles, in two lines."""
    if not summary.known:
        return _known(summary)
    quantiles = ", ".join(f"{q:.0%} {value:.4f}" for q, value in summary.quantiles.items())
    return f"{_known(summary)}\nmean {summary.mean:.4f} nats; quantiles: {quantiles}"


def bar_labels(summary: LossesSummary) -> list[str]:
    """What the bars begin with; the last one has no end."""
    digits = max(0, -int(np.floor(np.log10(summary.edges[1] - summary.edges[0]))))
    labels = [f"{edge:.{digits}f}" for edge in summary.edges[:-1]]
    return [*labels[:-1], f"≥ {labels[-1]}"]


def write_losses_page(summary: LossesSummary, name: str, path: Path) -> None:
    """Write one self-contained HTML page: numbers, distribution, extreme points, origin.

    Raises:
        OSError: the file cannot be written.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("rho_train.report").joinpath("losses.html").read_text("utf-8")
    )
    page = template.render(
        name=name,
        known=_known(summary),
        summary=summary,
        quantiles=[(f"{q:.0%}", f"{value:.4f}") for q, value in summary.quantiles.items()],
        drawing=Markup(_drawing(summary)) if summary.known else "",
        extremes=[("Highest", summary.highest), ("Lowest", summary.lowest)],
        style=Markup(STYLE),
    )
    atomic_write(path, page.encode("utf-8", "replace"))


def _drawing(summary: LossesSummary) -> str:
    counts = summary.counts
    return bar_chart(
        summary.edges,
        counts,
        name="il",
        title="Distribution of the irreducible losses",
        desc=f"{counts[0]:,} examples in the lowest of {len(counts)} bars, {counts[-1]:,} in the "
        "highest, which takes all beyond it.",
        x=Axis("Irreducible loss, nats", summary.edges[0], summary.edges[-1]),
        y=Axis("Examples", 0, max(counts)),
    )


def _known(summary: LossesSummary) -> str:
    share = summary.known / summary.n if summary.n else 0.0
    return f"{summary.known:,} of {summary.n:,} examples have an irreducible loss ({share:.1%})"


def _info(store: ILStore) -> dict[str, str]:
    count = len(store.input_checksums)
    checked = f"{count} examples, whose inputs a data set must have"
    return {**store.info, "inputs": checked if count else "none, inputs are not compared"}


def _fold(point: Point) -> str:
    return "" if point.fold is None else f"  fold {point.fold}"
