"""The tables of a summary, for the page and for a console."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from rho_train.report.summary import MethodSummary, Summary

_WIDTH = 110
# By head: the name of the number, and what it means.
_TABLES = {
    "The numbers": {
        "Validation accuracy, %": ("accuracy", "On examples set aside, wrong labels included."),
        "Test accuracy, %": ("test", "After the last step; ±: standard error over the seeds."),
        "Balanced, %": ("balanced", "Test accuracy with all classes weighted alike."),
        "Worst class, %": ("worst", "Test accuracy of the class with the lowest."),
        "Wrong labels, %": ("noisy", "Share of wrong labels among the selected examples."),
        "Already correct, %": ("correct", "Share of these that the model had right before."),
        "Steps": ("steps", "Of the whole run, as cost and seconds."),
        "Cost": (
            "total",
            "Counted, IL included, in uniform steps: the multiply-adds of all forward passes, a "
            "backward pass as two, over those of a training step of “{base}”. Evaluations count "
            "nothing. It is the same on every machine.",
        ),
        "Seconds": ("seconds", "Wall-clock, IL included, without evaluation."),
    },
    "Does it pay?": {
        "Target reached": ("reached", "Seeds in which the target is met at all."),
        "Steps to target": (
            "target_steps",
            "Until the {watched} accuracy first meets the target: median over the seeds, where one "
            "that never meets it is the latest.",
        ),
        "Cost to target": ("target_cost", "Cost until then, IL included."),
        "Times cheaper": (
            "factor",
            "The baseline's cost to the target over this cost, seed by seed: below 1 it is dearer.",
        ),
        "Times cheaper, precomputed IL": (
            "factor_precomputed",
            "The same without the cost of IL, as when many models share them.",
        ),
        "Pays after models": ("models", "So many models with the same IL earn back their cost."),
    },
}


class Column(NamedTuple):
    """One column of a table: its head, what it means, and the text of a row's cell."""

    head: str
    meaning: str
    cell: Callable[[MethodSummary], str]


def percent(mean: float, error: float = math.nan) -> str:
    """Return a mean with its standard error, in percent.

    Example:
        >>> percent(0.8125, 0.004), percent(0.8125), percent(math.nan)
        ('81.2 ± 0.4', '81.2', '-')
    """
    spread = "" if math.isnan(error) else f" ± {100 * error:.1f}"
    return "-" if math.isnan(mean) else f"{100 * mean:.1f}{spread}"


def _text(head: str, name: str, row: MethodSummary) -> str:
    values = row.values()
    value = values[name]
    if head.endswith("%"):
        return percent(value, values.get(f"{name}_error", math.nan))
    if name == "reached":
        return f"{value} of {row.paired}" if row.paired else "-"
    if not math.isfinite(value) or (head.startswith("Times") and not value):
        return "-" if math.isnan(value) else "never"
    if head.startswith("Times"):
        return f"{value:.2f}x"
    return f"{value:,.{1 if name in ('seconds', 'models') and value < 100 else 0}f}"


def tables(summary: Summary) -> dict[str, list[Column]]:
    """Return the columns in which a method has a value, by table; one method has no target."""
    words = {"base": summary.baseline.label, "watched": summary.watched}
    shown = {}
    for title, columns in _TABLES.items():
        made = [
            Column(head, meaning.format(**words), partial(_text, head, name))
            for head, (name, meaning) in columns.items()
            if name != "accuracy" or summary.watched != "test"
        ]
        shown[title] = [one for one in made if {*map(one.cell, summary.methods)} != {"-"}]
    return {title: columns for title, columns in shown.items() if columns}


def target_meaning(summary: Summary) -> str:
    """Return what the target is, in words; empty for one method."""
    if math.isnan(summary.target):
        return ""
    best = f"the best {summary.watched} accuracy of “{summary.baseline.label}”"
    return f"{best} with the same seed ({percent(summary.target)}% on average)"


def format_table(summary: Summary) -> str:
    """Return the tables for a console, at most 110 columns wide, with the numbers of the page."""
    notes = [f"Target: {target}."] if (target := target_meaning(summary)) else []
    notes += [f"Left out: {text}." for text in summary.left_out]
    parts = [_format(summary, columns) for columns in tables(summary).values()]
    return "\n".join(["\n\n".join(parts), *(textwrap.fill(note, _WIDTH) for note in notes)])


def _format(summary: Summary, shown: list[Column]) -> str:
    cells = [[column.cell(row) for row in summary.methods] for column in shown]
    words = [[*column.head.split(), *texts] for column, texts in zip(shown, cells, strict=True)]
    widths = [max(7, *map(len, texts)) for texts in words]
    heads = [textwrap.wrap(c.head, width) for c, width in zip(shown, widths, strict=True)]
    height, room = max(map(len, heads)), _WIDTH - sum(widths) - 2 * len(widths)
    labels = [row.label for row in summary.methods]
    names = [label if len(label) <= room else f"{label[: room - 1]}…" for label in labels]
    first = max(map(len, ["Method", *names]))
    above = [[""] * (height - len(head)) + head for head in heads]
    table = zip(*(head + texts for head, texts in zip(above, cells, strict=True)), strict=True)
    lines = [
        "  ".join([name.ljust(first), *map(str.rjust, texts, widths)])
        for name, texts in zip([""] * (height - 1) + ["Method", *names], table, strict=True)
    ]
    lines.insert(height, "-" * len(lines[0]))
    return "\n".join(lines)
