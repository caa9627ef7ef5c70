"""The table of a summary: its columns, for the page, and its lines, for a console."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rho_train.report.summary import MethodSummary, Summary

WIDTH = 110


@dataclass(frozen=True)
class Column:
    """One column of the table: its head, what it means, and the text of a row's cell."""

    head: str
    meaning: str
    cell: Callable[[MethodSummary], str]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def percent_of(mean: float | None, error: float | None) -> str:
    """A mean with its standard error, in percent.

    Example:
        >>> percent_of(0.8125, 0.004), percent_of(0.8125, None)
        ('81.2 ± 0.4', '81.2')
    """
    return _percent(mean) + ("" if error is None else f" ± {_percent(error)}")


def _watched(row: MethodSummary) -> str:
    sd = row.accuracy_sd
    return percent_of(row.accuracy, None if sd is None else sd / math.sqrt(row.finished))


def columns(summary: Summary) -> list[Column]:
    """The columns of the table; one in which no method has a value is left out."""
    validated = summary.watched == "validation"
    mean = "mean ± standard error over the finished seeds"
    once = ", which is read once," if validated else ""
    curve = Column(
        "Validation accuracy, %",
        "accuracy after the last step on points that were set aside before training, wrong labels "
        f"included: {mean}",
        _watched,
    )
    found = [
        Column(
            "Test accuracy, %",
            f"accuracy on the test set{once} after the last step: {mean}",
            lambda row: percent_of(row.test, row.test_error),
        ),
        *([curve] if validated else []),
        Column(
            "Steps to target",
            f"steps until the {summary.watched} accuracy first meets the target: median over the "
            "seeds, where a seed that never meets it counts as later than all others (- when that "
            "is the median)",
            lambda row: "-" if row.steps is None else f"{row.steps:,.0f}",
        ),
        Column(
            "Target reached",
            "in how many of the seeds the target is met at all",
            lambda row: f"{row.reached} of {row.paired}" if row.paired else "-",
        ),
        Column(
            "Noisy, %",
            "share of the selected points that carry a wrong label, over the whole run",
            lambda row: _percent(row.noisy),
        ),
        Column(
            "Already correct, %",
            "share of the selected points that the model already classified correctly before the "
            "step",
            lambda row: _percent(row.correct),
        ),
        Column(
            "Training seconds",
            "wall-clock seconds of training with the scoring of the large batches, without "
            "evaluation: mean over the seeds",
            lambda row: _seconds(row.seconds),
        ),
        Column(
            "Seconds with IL",
            "the same plus the seconds that the irreducible losses cost",
            lambda row: _seconds(row.charged_seconds),
        ),
        Column(
            "Seconds to target",
            "seconds, irreducible losses charged, until the target is met (median as for the "
            "steps)",
            lambda row: _seconds(row.target_seconds),
        ),
    ]
    return [column for column in found if {column.cell(row) for row in summary.methods} != {"-"}]


def target_meaning(summary: Summary) -> str:
    """What the target is, in words."""
    mean = "" if summary.target is None else f" ({_percent(summary.target)}% on average)"
    best = f"the best {summary.watched} accuracy of “{summary.baseline.label}”"
    return f"{best} with the same seed{mean}"


def left_out_lines(summary: Summary) -> list[str]:
    """One line for each run that is not part of the numbers."""
    labels = {row.method.name: row.method.label for row in summary.methods}
    return [f"{labels[run.method]}, seed {run.seed}: {run.reason}" for run in summary.left_out]


def format_table(summary: Summary) -> str:
    """The table for a console, at most 110 columns wide; the report shows the same numbers."""
    shown = columns(summary)
    rows = [[column.cell(row) for column in shown] for row in summary.methods]
    widths = [
        max(7, *(len(row[index]) for row in rows), *map(len, column.head.split()))
        for index, column in enumerate(shown)
    ]
    room = WIDTH - sum(width + 2 for width in widths)
    labels = [row.method.label for row in summary.methods]
    names = [label if len(label) <= room else f"{label[: room - 1]}…" for label in labels]
    first = max(map(len, ["Method", *names]))
    heads = [textwrap.wrap(c.head, width) for c, width in zip(shown, widths, strict=True)]
    depth = max(map(len, heads))
    heads = [[""] * (depth - len(head)) + head for head in heads]

    def line(name: str, values: Iterable[str]) -> str:
        right = (f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))
        return f"{name:<{first}}{''.join(right)}"

    lines = [
        line("Method" if row == depth - 1 else "", (head[row] for head in heads))
        for row in range(depth)
    ]
    lines.append("-" * len(lines[-1]))
    lines += [line(name, values) for name, values in zip(names, rows, strict=True)]
    notes = [f"Target: {target_meaning(summary)}."]
    notes += [f"Left out: {text}." for text in left_out_lines(summary)]
    return "\n".join([*lines, *(part for note in notes for part in textwrap.wrap(note, WIDTH))])
