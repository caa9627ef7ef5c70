"""The table of a summary, for the page and for a console."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest

from rho_train.report.summary import MethodSummary, Summary

_WIDTH = 110


@dataclass(frozen=True)
class Column:
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
    cells = [[column.cell(row) for column in shown] for row in summary.methods]
    widths = [
        max(7, *map(len, [*column.head.split(), *texts]))
        for column, texts in zip(shown, zip(*cells, strict=True), strict=True)
    ]
    room = _WIDTH - sum(width + 2 for width in widths)
    names = [row.label for row in summary.methods]
    names = [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
    first = max(map(len, ["Method", *names]))
    wrapped = [textwrap.wrap(c.head, width) for c, width in zip(shown, widths, strict=True)]
    heads = [*zip_longest(*(head[::-1] for head in wrapped), fillvalue="")][::-1]

    def line(name: str, values: Iterable[str]) -> str:
        right = (f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))
        return f"{name:<{first}}{''.join(right)}"

    lines = [line("", head) for head in heads]
    lines[-1] = f"{'Method':<{first}}{lines[-1][first:]}"
    lines.append("-" * len(lines[-1]))
    lines += map(line, names, cells)
    notes = [f"Target: {target}."] if (target := target_meaning(summary)) else []
    notes += [f"Left out: {text}." for text in summary.left_out]
    return "\n".join([*lines, *(part for note in notes for part in textwrap.wrap(note, _WIDTH))])
