"""What an experiment measured: the numbers of each method over its seeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import fmean, median, stdev

from rho_train.report.read import Experiment, LeftOut, Method
from rho_train.report.runs import Eval, Run


@dataclass(frozen=True)
class MethodSummary:
    """One method over its finished seeds; None where there is nothing to measure.

    Accuracies and shares lie in [0, 1]: `accuracy` is that of the points which the curves are of,
    with its standard deviation, `test` that of the test set, with its standard error, None unless
    all finished seeds were tested. The target of a seed is the best accuracy that the baseline
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
    test: float | None
    test_error: float | None
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
    the baseline's best accuracy (mean over seeds), `base_rate` the share of noisy points
    among those that it trains on; None where unknown.
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
        >>> summary.baseline_summary.accuracy  # doctest: +SKIP
    """
    baseline = experiment.of(experiment.baseline)
    noisy = [run.noisy for run in baseline.values() if run.noisy is not None]
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
    """Highest accuracy of the run's curve."""
    return max(record.accuracy for record in run.evals)


def _method(experiment: Experiment, method: Method, baseline: dict[int, Run]) -> MethodSummary:
    runs = experiment.of(method.name)
    final = [run.evals[-1].accuracy for run in runs.values()]
    tests = [run.test.accuracy for run in runs.values() if run.test is not None]
    if len(tests) < len(runs):
        tests = []
    pairs = [(run, baseline[seed]) for seed, run in runs.items() if seed in baseline]
    gains = [run.evals[-1].accuracy - other.evals[-1].accuracy for run, other in pairs]
    hits = [first_at(run, best_accuracy(other)) for run, other in pairs]
    return MethodSummary(
        method=method,
        finished=len(runs),
        accuracy=_mean(final),
        accuracy_sd=stdev(final) if len(final) > 1 else None,
        test=_mean(tests),
        test_error=stdev(tests) / math.sqrt(len(tests)) if len(tests) > 1 else None,
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
