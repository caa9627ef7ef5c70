"""The table of a summary, for the page and for a console."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from rho_train.report.summary import MethodSummary, Summary

_WIDTH = 110


class Column(NamedTuple):
    """One column of the table: its head, what it means, and the text of a row's cell."""

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


def _number(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits if value < 100 else 0}f}" if math.isfinite(value) else "-"


def columns(summary: Summary) -> list[Column]:
    """Return the columns in which a method has a value; one method has no target."""
    validated = summary.watched == "validation"
    mean = "after the last step: mean ± standard error over the finished seeds."
    found = {
        "Test accuracy, %": (
            f"Accuracy on the test set{', which is read once,' * validated} {mean}",
            lambda row: percent(row.test, row.test_error),
        ),
        "Validation accuracy, %": (
            f"Accuracy on examples set aside before training, wrong labels included, {mean}",
            lambda row: percent(row.accuracy, row.accuracy_error) if validated else "-",
        ),
        "Steps to target": (
            f"Steps until the {summary.watched} accuracy first meets the target: median over the "
            "seeds, where a seed that never meets it is the latest (-: the median seed).",
            lambda row: _number(row.against.steps, 0),
        ),
        "Target reached": (
            "Seeds in which the target is met at all.",
            lambda row: f"{row.reached} of {row.paired}" if row.paired else "-",
        ),
        "Wrong labels, %": (
            "Share of the selected examples that carry a wrong label, over the whole run.",
            lambda row: percent(row.noisy),
        ),
        "Already correct, %": (
            "Share of the selected examples that the model classified correctly before the step.",
            lambda row: percent(row.correct),
        ),
        "Training seconds": (
            "Wall-clock of training with scoring, without evaluation: mean over the seeds.",
            lambda row: _number(row.seconds),
        ),
        "Seconds with IL": (
            "The same, IL cost included.",
            lambda row: _number(row.seconds_with_il),
        ),
        "Seconds to target": (
            "Seconds until the target is met, IL cost included; median as for the steps.",
            lambda row: _number(row.against.target_seconds),
        ),
    }
    shown = [Column(head, *rest) for head, rest in found.items()]
    return [column for column in shown if {column.cell(row) for row in summary.methods} != {"-"}]


def target_meaning(summary: Summary) -> str:
    """Return what the target is, in words; empty for one method."""
    if math.isnan(summary.target):
        return ""
    best = f"the best {summary.watched} accuracy of “{summary.baseline.label}”"
    return f"{best} with the same seed ({percent(summary.target)}% on average)"


def format_table(summary: Summary) -> str:
    """Return the table for a console, at most 110 columns wide, with the numbers of the page."""
    shown = columns(summary)
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
    notes = [f"Target: {target}."] if (target := target_meaning(summary)) else []
    notes += [f"Left out: {text}." for text in summary.left_out]
    return "\n".join([*lines, *(part for note in notes for part in textwrap.wrap(note, _WIDTH))])
