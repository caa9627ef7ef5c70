"""The tables of a summary, for the page and for a console."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from rho_train.report.summary import MethodSummary, Summary

_WIDTH = 110


Cell = Callable[[MethodSummary], str]


class Column(NamedTuple):
    """One column of a table: its head, what it means, and the text of a row's cell."""

    head: str
    meaning: str
    cell: Cell


def percent(mean: float, error: float = math.nan) -> str:
    """Return a mean with its standard error, in percent.

    Example:
        >>> percent(0.8125, 0.004), percent(0.8125), percent(math.nan)
        ('81.2 ± 0.4', '81.2', '-')
    """
    spread = "" if math.isnan(error) else f" ± {100 * error:.1f}"
    return "-" if math.isnan(mean) else f"{100 * mean:.1f}{spread}"


def number(value: float, digits: int = 0) -> str:
    """Return a number for a cell, a dash for none."""
    return f"{value:,.{digits if value < 100 else 0}f}" if math.isfinite(value) else "-"


def _earned(row: MethodSummary) -> str:
    return "never" if row.against.models == math.inf else number(row.against.models, 1)


def tables(summary: Summary) -> dict[str, list[Column]]:
    """Return the columns in which a method has a value, by table; one method has no target."""
    base = summary.baseline
    after = "after the last step: mean ± standard error over the finished seeds."
    set_aside = f"Accuracy on examples set aside before training, wrong labels included, {after}"
    cost = (
        "Counted cost of the whole run, IL included, in uniform steps: the multiply-adds of all "
        "forward passes, a backward pass as two, over those of a training step of "
        f"“{base.label}”. Evaluations count nothing. It is the same on every machine."
    )
    steps = (
        f"Steps until the {summary.watched} accuracy first meets the target: median over the "
        "seeds, where a seed that never meets it is the latest (-: the median seed)."
    )
    times = "The baseline's cost to the target over this cost, seed by seed: below 1 it is dearer."

    def compared(cell: Callable[[MethodSummary], str], il: bool = False) -> Cell:
        # Of precomputed IL only a method with IL has something to say.
        return lambda row: cell(row) if row.paired and (row.cost["il"] or not il) else "-"

    numbers: list[tuple[str, str, Cell]] = [
        (
            "Test accuracy, %",
            f"Accuracy on the test set {after}",
            lambda row: percent(row.test, row.test_error),
        ),
        (
            "Balanced, %",
            "The same, the mean of the accuracies of all classes.",
            lambda row: percent(row.balanced),
        ),
        (
            "Worst class, %",
            "The same of the class with the lowest.",
            lambda row: percent(row.worst),
        ),
        (
            "Wrong labels, %",
            "Share of wrong labels among the selected examples.",
            lambda row: percent(row.noisy),
        ),
        (
            "Already correct, %",
            "Share of the selected examples that the model had right before the step.",
            lambda row: percent(row.correct),
        ),
        ("Steps", "Steps of the whole run, mean.", lambda row: number(row.steps)),
        ("Cost", cost, lambda row: number(row.total)),
        (
            "Seconds",
            "Wall-clock of the whole run without evaluation, IL included: mean.",
            lambda row: number(row.seconds, 1),
        ),
    ]
    if summary.watched != "test":
        numbers.insert(
            0,
            (
                "Validation accuracy, %",
                set_aside,
                lambda row: percent(row.accuracy, row.accuracy_error),
            ),
        )
    pays: list[tuple[str, str, Cell]] = [
        (
            "Target reached",
            "Seeds in which the target is met at all.",
            compared(lambda row: f"{row.reached} of {row.paired}"),
        ),
        ("Steps to target", steps, compared(lambda row: number(row.against.target_steps))),
        (
            "Cost to target",
            "Cost until then, IL included, in uniform steps.",
            compared(lambda row: number(row.against.target_cost)),
        ),
        ("Times cheaper", times, compared(lambda row: f"{row.against.factor:.2f}x")),
        (
            "Times cheaper, precomputed IL",
            "The same without the cost of IL, as when many models share them.",
            compared(lambda row: f"{row.against.factor_precomputed:.2f}x", il=True),
        ),
        (
            "Pays after models",
            "So many models must train with the same IL to earn back what they cost.",
            compared(_earned, il=True),
        ),
    ]
    found = {
        "The numbers": [Column(*each) for each in numbers],
        "Does it pay?": [Column(*each) for each in pays],
    }
    kept = {
        t: [c for c in of if {c.cell(row) for row in summary.methods} != {"-"}]
        for t, of in found.items()
    }
    return {title: columns for title, columns in kept.items() if columns}


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
