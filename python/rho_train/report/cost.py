"""What the methods cost: the ledger of their seconds, and what would pay for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median

from rho_train.report.axis import Axis
from rho_train.report.bars import Bar, Part, stacked_bars
from rho_train.report.curves import Figure, finished
from rho_train.report.read import Experiment, Method
from rho_train.report.runs import PARTS, Run
from rho_train.report.summary import best_accuracy, first_at

# The colour of each part; evaluation is not charged, so it stays without one.
_STYLES = {"training": 0, "scoring": 2, "selecting": 3, "loading": 6, "other": 5}
_ORDER = ("training", "scoring", "selecting", "loading", "other")


@dataclass(frozen=True)
class LedgerRow:
    """Means over the finished runs of a method: seconds by part, for the IL and in all without
    evaluation; epochs, and examples scored and trained."""

    method: Method
    parts: dict[str, float]
    il_seconds: float
    epochs: float
    scored: float
    trained: float

    @property
    def charged(self) -> float:
        """Seconds with the IL, without evaluation."""
        return self.il_seconds + sum(self.parts[part] for part in _ORDER)


@dataclass(frozen=True)
class BreakEven:
    """How many times fewer steps than the baseline a method needs to be as fast, medians over the
    seeds that both have finished.

    `cost` is the time of a step in steps of the baseline, and so what is needed when the IL is at
    hand; `charged` is what is needed when this run alone pays for it, infinite if the IL takes
    longer than the baseline does to its target; `had` is what the method had, 0 if it never met
    the target.
    """

    method: Method
    step_seconds: float
    cost: float
    charged: float
    had: float


def ledger_rows(experiment: Experiment) -> list[LedgerRow]:
    """One row for each method whose runs wrote a ledger."""
    rows = []
    for method, runs in finished(experiment):
        totals = [run.totals for run in runs if run.totals is not None]
        if totals:
            rows.append(
                LedgerRow(
                    method,
                    {part: fmean(total.parts[part] for total in totals) for part in PARTS},
                    fmean(run.il_seconds for run in runs),
                    fmean(total.epochs for total in totals),
                    fmean(total.scored for total in totals),
                    fmean(total.trained for total in totals),
                )
            )
    return rows


def ledger_figure(rows: list[LedgerRow]) -> Figure | None:
    """The ledger as a bar for each method; None without data."""
    if not rows:
        return None
    parts = [Part("IL", 7), *(Part(part, _STYLES[part]) for part in _ORDER)]
    parts.append(Part("evaluation, not charged", None))
    bars = [
        Bar(
            row.method.label,
            [row.il_seconds, *(row.parts[part] for part in (*_ORDER, "evaluation"))],
            f"{row.charged:,.1f} s",
        )
        for row in rows
    ]
    title = "Where the seconds went"
    return Figure(
        name="ledger",
        title=title,
        caption="Wall-clock of a whole run, mean over the seeds. IL is what computing the "
        "irreducible losses took; with IL at hand, a bar begins behind it. The number at the right "
        "is the sum without evaluation; “other”, records and checkpoints, is no part of the "
        "seconds in the table and the curves.",
        svg=stacked_bars(
            bars,
            parts,
            name="ledger",
            title=title,
            desc="; ".join(f"{bar.label}: {bar.total}" for bar in bars),
            x=Axis("Seconds", 0, max(1e-3, *(sum(bar.sizes) for bar in bars))),
        ),
    )


def break_even(experiment: Experiment) -> list[BreakEven]:
    """One row for each method but the baseline that shares a finished seed with it."""
    baseline = experiment.of(experiment.baseline)
    rows = []
    for method, runs in finished(experiment):
        pairs = [(run, baseline[run.seed]) for run in runs if run.seed in baseline]
        if method.name == experiment.baseline or not pairs:
            continue
        rows.append(
            BreakEven(
                method,
                median(_step(run) for run, _ in pairs),
                median(_step(run) / _step(base) for run, base in pairs),
                median(_charged(run, base) for run, base in pairs),
                median(_had(run, base) for run, base in pairs),
            )
        )
    return rows


def _step(run: Run) -> float:
    # A clock may not have moved in a run of a few steps.
    return max(run.seconds, 1e-9) / run.steps


def _charged(run: Run, base: Run) -> float:
    """Steps of the baseline to its target, over those that the method can make meanwhile."""
    hit = first_at(base, best_accuracy(base))
    assert hit is not None, "a run meets its own best accuracy"
    left = hit.seconds - run.il_seconds
    return max(1, hit.step) / (left / _step(run)) if left > 0 else math.inf


def _had(run: Run, base: Run) -> float:
    target = best_accuracy(base)
    mine, theirs = first_at(run, target), first_at(base, target)
    assert theirs is not None, "a run meets its own best accuracy"
    return 0.0 if mine is None else max(1, theirs.step) / max(1, mine.step)
