"""Summarise a table of irreducible losses for a console and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rho_train.files import atomic_write
from rho_train.il.store import ILStore
from rho_train.report.page import render

_BARS = 30
_SHOWN = 0.995  # the share of the examples that the bars show one by one; the last takes the rest
_WIDTH = 40
_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class ILExample:
    """An example by its id, its irreducible loss in nats, and the fold that left it out."""

    id: int
    il: float
    fold: int | None


@dataclass(frozen=True)
class LossesSummary:
    """The distribution of a store in nats: `counts[i]` examples lie in [edges[i], edges[i + 1]), or
    higher for the last."""

    n: int
    known: int
    mean: float
    quantiles: Mapping[float, float]
    edges: Sequence[float]
    counts: Sequence[int]
    highest: Sequence[ILExample]
    lowest: Sequence[ILExample]
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
    known, count = len(ordered), len(store.input_checksums)
    checked = f"{count} examples, whose inputs a data set must have"
    info = {**store.info, "inputs": checked if count else "none, inputs are not compared"}
    if not known:
        return LossesSummary(len(il), 0, float("nan"), {}, (), (), (), (), info)
    low, top = float(ordered[0]), float(ordered[int(_SHOWN * (known - 1))])
    # Bars that are no wider than the spacing of float32 there would have the same edges.
    rough = max((top - low) / _BARS, 1e-6 * abs(top), 1e-6)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first = np.floor(low / step)
    bars = int(np.floor(top / step) - first) + 1
    # In the type of the table: otherwise the search would copy the table.
    edges = (step * (first + np.arange(bars + 1))).astype(np.float32)
    below = np.searchsorted(ordered, edges[1:-1])
    counts = np.diff(np.concatenate([[0], below, [known]]))

    def examples(found: Any, sign: int) -> list[ILExample]:
        ids = np.flatnonzero(found)
        ids = ids[np.argsort(sign * il[ids], kind="stable")][:extremes]
        folds = [None] * len(ids) if store.fold is None else store.fold[ids].tolist()
        return [ILExample(*one) for one in zip(ids.tolist(), il[ids].tolist(), folds, strict=True)]

    k = min(extremes, known)
    return LossesSummary(
        n=len(il),
        known=known,
        mean=float(ordered.mean(dtype=np.float64)),
        quantiles={q: float(ordered[round(q * (known - 1))]) for q in _QUANTILES},
        edges=edges.tolist(),
        counts=counts.tolist(),
        highest=examples(il >= ordered[known - k], -1) if k else (),
        lowest=examples(il <= ordered[k - 1], 1) if k else (),
        info=info,
    )


def numbers(summary: LossesSummary) -> str:
    """Return how many are known, their mean and quantiles, in two lines."""
    share = summary.known / summary.n if summary.n else 0.0
    known = f"{summary.known:,} of {summary.n:,} examples have an irreducible loss ({share:.1%})"
    if not summary.known:
        return known
    quantiles = ", ".join(f"{q:.0%} {value:.4f}" for q, value in summary.quantiles.items())
    return f"{known}\nmean {summary.mean:.4f} nats; quantiles: {quantiles}"


def format_losses(summary: LossesSummary) -> str:
    """Return the summary for a console, with a histogram."""
    lines = [numbers(summary)]
    if summary.known:
        digits = max(0, -int(np.floor(np.log10(summary.edges[1] - summary.edges[0]))))
        labels = [f"{edge:.{digits}f}" for edge in summary.edges[:-1]]
        labels[-1] = f"≥ {labels[-1]}"
        width, most = max(map(len, labels)), max(summary.counts)
        lines.append("")
        lines += [
            f"{label:>{width}}  {'█' * round(_WIDTH * count / most):<{_WIDTH}} {count:,}"
            for label, count in zip(labels, summary.counts, strict=True)
        ]
        for title, examples in (("highest", summary.highest), ("lowest", summary.lowest)):
            lines += ["", title]
            for one in examples:
                fold = "" if one.fold is None else f"  fold {one.fold}"
                lines.append(f"  id {one.id:<12} {one.il:10.4f}{fold}")
    lines += ["", *(f"{key}: {text}" for key, text in sorted(summary.info.items()))]
    return "\n".join(lines)


def write_losses_page(summary: LossesSummary, name: str, path: Path) -> None:
    """Write one self-contained HTML page: numbers, distribution, extreme examples, origin.

    Raises:
        OSError: the file cannot be written.
    """
    from rho_train.report.figures import histogram

    found, drawing = numbers(summary), ""
    if summary.known:
        words = f"Distribution of the irreducible losses: {found}"
        drawing = histogram(summary.edges, summary.counts, "Irreducible loss, nats", words)
    known = found.split("\n")[0]
    atomic_write(path, render("il.html", name=name, known=known, summary=summary, drawing=drawing))
