"""What an experiment measured: the numbers of each method over its seeds, and their table."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import fmean, median, stdev

from rho_train.report.read import Experiment, LeftOut, Method
from rho_train.report.runs import Eval, Run

WIDTH = 110


@dataclass(frozen=True)
class MethodSummary:
    """One method over its finished seeds; None where there is nothing to measure.

    Accuracies and shares lie in [0, 1]. The target of a seed is the best accuracy that the baseline
    has with this seed; `paired` counts the seeds that both finished, `reached` those of them in
    which the method meets the target, `ahead` those in which it ends above the baseline. In the
    medians `steps`, `target_seconds` (irreducible losses charged) and `reused_seconds` (not
    charged, as when one table serves many runs) a seed that never meets the target is infinitely
    late.
    """

    method: Method
    finished: int
    accuracy: float | None
    accuracy_sd: float | None
    gain: float | None
    ahead: int
    paired: int
    reached: int
    steps: float | None
    noisy: float | None
    correct: float | None
    seconds: float | None
    il_seconds: float | None
    target_seconds: float | None
    reused_seconds: float | None

    @property
    def charged_seconds(self) -> float | None:
        """Training seconds plus the seconds spent on the irreducible losses."""
        if self.seconds is None or self.il_seconds is None:
            return None
        return self.seconds + self.il_seconds


@dataclass(frozen=True)
class Summary:
    """All methods in display order, and what they are compared with.

    `steps` are those of the experiment, `other_steps` by name those of methods with other ones, of
    their longest run. `watched` are the points of the curves, `test` or `validation`. `target` is
    the baseline's best accuracy (mean over seeds), `base_rate` the share of noisy points in the
    sampled large batches before any selection; None where unknown.
    """

    methods: tuple[MethodSummary, ...]
    baseline: Method
    steps: int
    other_steps: Mapping[str, int]
    seeds: int
    target: float | None
    base_rate: float | None
    left_out: tuple[LeftOut, ...]
    watched: str

    @property
    def baseline_summary(self) -> MethodSummary:
        """The row of the baseline."""
        return next(row for row in self.methods if row.method == self.baseline)


def summarize(experiment: Experiment) -> Summary:
    """Summarise the finished runs; every comparison with the baseline is made seed by seed.

    Example:
        >>> summary = summarize(read_experiment(out))  # doctest: +SKIP
        >>> print(format_table(summary))  # doctest: +SKIP
    """
    baseline = experiment.of(experiment.baseline)
    noisy = [
        point for run in experiment.runs for sample in run.samples for point in sample.noisy or ()
    ]
    return Summary(
        methods=tuple(_method(experiment, method, baseline) for method in experiment.methods),
        baseline=next(m for m in experiment.methods if m.name == experiment.baseline),
        steps=experiment.steps,
        other_steps={
            run.method: run.steps
            for run in sorted(experiment.runs, key=lambda run: run.steps)
            if run.steps != experiment.steps
        },
        seeds=len(experiment.seeds),
        target=_mean(best_accuracy(run) for run in baseline.values()),
        base_rate=_mean(noisy),
        left_out=experiment.left_out,
        watched=experiment.watched,
    )


def best_accuracy(run: Run) -> float:
    """Highest test accuracy of the run."""
    return max(record.accuracy for record in run.evals)


def _method(experiment: Experiment, method: Method, baseline: dict[int, Run]) -> MethodSummary:
    runs = experiment.of(method.name)
    final = {seed: run.evals[-1].accuracy for seed, run in runs.items()}
    pairs = [(run, baseline[seed]) for seed, run in runs.items() if seed in baseline]
    gains = [run.evals[-1].accuracy - other.evals[-1].accuracy for run, other in pairs]
    hits = [first_at(run, best_accuracy(other)) for run, other in pairs]
    return MethodSummary(
        method=method,
        finished=len(runs),
        accuracy=_mean(final.values()),
        accuracy_sd=stdev(final.values()) if len(final) > 1 else None,
        gain=_mean(gains),
        ahead=sum(gain > 0 for gain in gains),
        paired=len(pairs),
        reached=sum(hit is not None for hit in hits),
        steps=_median(math.inf if hit is None else hit.step for hit in hits),
        noisy=_mean_known(_noisy_share(run) for run in runs.values()),
        correct=_mean_known(_correct_share(run) for run in runs.values()),
        seconds=_mean(run.seconds for run in runs.values()),
        il_seconds=_mean(run.il_seconds for run in runs.values()),
        target_seconds=_median(
            math.inf if hit is None else run.il_seconds + hit.seconds
            for (run, _), hit in zip(pairs, hits, strict=True)
        ),
        reused_seconds=_median(math.inf if hit is None else hit.seconds for hit in hits),
    )


def first_at(run: Run, target: float) -> Eval | None:
    """The first record of the run that meets the target."""
    return next((record for record in run.evals if record.accuracy >= target), None)


def _noisy_share(run: Run) -> float | None:
    noisy = [record.noisy for record in run.train if record.noisy is not None]
    selected = sum(record.selected for record in run.train)
    return sum(noisy) / selected if selected and len(noisy) == len(run.train) else None


def _correct_share(run: Run) -> float | None:
    selected = sum(record.selected for record in run.train)
    return sum(record.correct for record in run.train) / selected if selected else None


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None


def _mean_known(values: Iterable[float | None]) -> float | None:
    return _mean(value for value in values if value is not None)


def _median(values: Iterable[float]) -> float | None:
    middle = median([*values] or [math.inf])
    return middle if math.isfinite(middle) else None


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


def _accuracy(row: MethodSummary) -> str:
    spread = "" if row.accuracy_sd is None else f" ± {_percent(row.accuracy_sd)}"
    return _percent(row.accuracy) + spread


COLUMNS = (
    Column(
        "Final accuracy, %",
        "accuracy after the last step: mean ± standard deviation over the finished seeds",
        _accuracy,
    ),
    Column(
        "Steps to target",
        "steps until the accuracy first meets the target: median over the seeds, where a seed "
        "that never meets it counts as later than all others (- when that is the median)",
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
        "share of the selected points that the model already classified correctly before the step",
        lambda row: _percent(row.correct),
    ),
    Column(
        "Training seconds",
        "wall-clock seconds of training with the scoring of the large batches, without evaluation",
        lambda row: _seconds(row.seconds),
    ),
    Column(
        "Seconds with IL",
        "the same plus the seconds that the irreducible losses cost",
        lambda row: _seconds(row.charged_seconds),
    ),
    Column(
        "Seconds to target",
        "seconds, irreducible losses charged, until the target is met (median as for the steps)",
        lambda row: _seconds(row.target_seconds),
    ),
)


def target_meaning(summary: Summary) -> str:
    """What the target is, in words."""
    mean = "" if summary.target is None else f" ({_percent(summary.target)}% on average)"
    best = f"the best {summary.watched} accuracy of “{summary.baseline.label}”"
    return f"{best} with the same seed{mean}"


def left_out_lines(summary: Summary) -> list[str]:
    """One line for each run that is not part of the numbers."""
    labels = {row.method.name: row.method.label for row in summary.methods}
    return [f"{labels[run.method]}, seed {run.seed}: {run.reason}" for run in summary.left_out]


def as_csv(summary: Summary) -> str:
    """The numbers of the table, unrounded, one method a line; empty where there is none."""
    names = [field.name for field in fields(MethodSummary)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "charged_seconds", "target"])
    for row in summary.methods:
        values = [row.method.name, *(getattr(row, name) for name in names[1:])]
        values += [row.charged_seconds, summary.target]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def format_table(summary: Summary) -> str:
    """The table for a console, at most 110 columns wide; the report shows the same numbers."""
    rows = [[column.cell(row) for column in COLUMNS] for row in summary.methods]
    widths = [
        max(7, *(len(row[index]) for row in rows), *map(len, column.head.split()))
        for index, column in enumerate(COLUMNS)
    ]
    room = WIDTH - sum(width + 2 for width in widths)
    labels = [row.method.label for row in summary.methods]
    names = [label if len(label) <= room else f"{label[: room - 1]}…" for label in labels]
    first = max(map(len, ["Method", *names]))
    heads = [textwrap.wrap(c.head, width) for c, width in zip(COLUMNS, widths, strict=True)]
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
