"""The measured result in plain words, good or bad, computed from the summary."""

from __future__ import annotations

import math

from rho_train.report.summary import MethodSummary, Summary
from rho_train.report.table import percent_of


def headline(summary: Summary) -> list[str]:
    """Sentences that state who ends highest, who is faster in steps and in seconds, and the noise.

    Example:
        >>> print(*headline(summarize(read_experiment(out))), sep="\\n")  # doctest: +SKIP
    """
    base = summary.baseline_summary
    if base.accuracy is None:
        return [f"The baseline {_named(base)} has no finished run: nothing to compare with."]
    others = [row for row in summary.methods if row is not base and row.paired]
    if not others:
        return [
            f"{_named(base)} ends at {base.accuracy:.1%} {summary.watched} accuracy.",
            *_test(summary, base),
        ]
    best = max(others, key=lambda row: row.gain or 0.0)
    return [
        *_final(summary, base, others),
        *_test(summary, best, base),
        *_speed(summary, base, others),
        *_noise(summary, others),
    ]


def _final(summary: Summary, base: MethodSummary, others: list[MethodSummary]) -> list[str]:
    best, *rest = sorted(others, key=lambda row: row.gain or 0.0, reverse=True)
    start = "At the end of the runs" if summary.other_steps else f"After {summary.steps:,} steps"
    if (best.gain or 0.0) > 0:
        text = (
            f"{start}, {_named(best)} has the highest {summary.watched} accuracy, "
            f"{best.accuracy:.1%}, against {base.accuracy:.1%} for {_named(base)}: it is ahead in "
            f"{_of_seeds(best.ahead, best)}."
        )
    else:
        text = (
            f"{start}, no method has a higher {summary.watched} accuracy than {_named(base)}, "
            f"{base.accuracy:.1%}; the closest is {_named(best)} with {best.accuracy:.1%}."
        )
    below = [f"{_named(row)} ({row.accuracy:.1%})" for row in rest if (row.gain or 0.0) < 0]
    return [text, f"Lower than the baseline: {', '.join(below)}."] if below else [text]


def _test(summary: Summary, *rows: MethodSummary) -> list[str]:
    """What chose the best method has no part in these numbers."""
    if summary.watched == "test" or any(row.test is None for row in rows):
        return []
    ends = " and ".join(
        f"{_named(row)} has {percent_of(row.test, row.test_error)}%" for row in rows
    )
    return [f"On the test set, read once after the last step, {ends}."]


def _speed(summary: Summary, base: MethodSummary, others: list[MethodSummary]) -> list[str]:
    watched = f"{summary.watched} accuracy"
    there = [row for row in others if row.steps is not None]
    if not there:
        return [f"No other method meets the baseline's best {watched} in the median seed."]
    first = min(there, key=lambda row: row.steps or 0.0)
    soonest = min(there, key=lambda row: row.target_seconds or 0.0)
    earlier = (first.steps or 0.0) < (base.steps or math.inf)
    sooner = (soonest.target_seconds or 0.0) < (base.target_seconds or math.inf)
    reused = f" ({soonest.reused_seconds:.1f} s where they exist)" if soonest.il_seconds else ""
    return [
        f"The baseline meets its own best {watched} at step {base.steps:,.0f} of {summary.steps:,} "
        f"(median over the seeds); {'' if earlier else 'no method is earlier, '}"
        f"{_named(first)} meets it at step {first.steps:,.0f}, in "
        f"{_of_seeds(first.reached, first)}.",
        "In seconds, with the irreducible losses charged, "
        + ("" if sooner else "no method is faster than the baseline: ")
        + f"{_named(soonest)} needs {soonest.target_seconds:.1f} s for this{reused}, the baseline "
        f"{base.target_seconds:.1f} s.",
    ]


def _noise(summary: Summary, others: list[MethodSummary]) -> list[str]:
    known = sorted((row for row in others if row.noisy is not None), key=lambda row: row.noisy or 0)
    if not known:
        return []
    rate = "" if summary.base_rate is None else f" (of all points, {summary.base_rate:.1%} do)"
    text = (
        f"Of the points that {_named(known[0])} selects, {known[0].noisy:.1%} carry a wrong label"
    )
    if len(known) > 1:
        text += f", of those of {_named(known[-1])} {known[-1].noisy:.1%}"
    return [f"{text}{rate}."]


def _named(row: MethodSummary) -> str:
    return f"“{row.method.label}”"


def _of_seeds(count: int, row: MethodSummary) -> str:
    return f"{count} of {row.paired} seed{'s' * (row.paired != 1)}"
