"""The numbers of a comparison: accuracy, steps and seconds to the target, cost, classes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, median_low, stdev
from typing import Any, NamedTuple

from rho_train.report.read import Experiment, Record, Run


class Pair(NamedTuple):
    """A run beside the baseline's with the same seed, whose best accuracy is the target.

    The first evaluation that meets it is at `steps` and `target_seconds` (IL cost included, or
    `precomputed`), infinite if none does. In times fewer steps to the target than the baseline,
    `had` is what the run made, 0 if it never met the target, and `needs` what a step of
    `step_seconds` asks for to be as early: infinite if the IL takes longer than the baseline.
    `pays` is had / needs: above 1 the run is earlier.
    """

    steps: float
    target_seconds: float
    target_seconds_precomputed: float
    step_seconds: float
    had: float
    needs: float
    needs_precomputed: float
    pays: float
    pays_precomputed: float


@dataclass(frozen=True)
class MethodSummary:
    """One method over its finished seeds; NaN where there is nothing to measure.

    Accuracies and shares (`noisy`, `correct`: of the selected examples) lie in [0, 1], errors are
    standard errors of the mean. Of the `paired` seeds, which the baseline finished too, the method
    meets the target in `reached`, ends above the baseline in `ahead`, by `gain` in the mean, and
    `against` has the medians. `times` are mean seconds by part and counts. `accuracies` and
    `favours` are of the classes: a favour is the share of a class among the selected examples over
    its share of all.
    """

    method: str
    label: str
    finished: int
    accuracy: float
    accuracy_error: float
    test: float
    test_error: float
    noisy: float
    correct: float
    seconds: float
    seconds_with_il: float
    paired: int
    reached: int
    ahead: int
    gain: float
    against: Pair
    times: Mapping[str, float]
    accuracies: Sequence[float]
    favours: Sequence[float]


@dataclass(frozen=True)
class Summary:
    """All methods in display order, and what they are compared with.

    `target` is the baseline's best accuracy (mean over seeds), NaN for one method; `noisy` the
    share of wrong labels in its training examples; `other_steps` the most steps of each method
    that makes others than the comparison says.
    """

    methods: Sequence[MethodSummary]
    baseline: MethodSummary
    other_steps: Mapping[str, int]
    target: float
    noisy: float
    left_out: Sequence[str]
    watched: str


def summarize(experiment: Experiment) -> Summary:
    """Summarise the finished runs; every comparison with the baseline is made seed by seed.

    Example:
        >>> summary = summarize(read_experiment(out))  # doctest: +SKIP
        >>> summary.baseline.accuracy  # doctest: +SKIP
    """
    own = experiment.runs.get(experiment.baseline, ())
    # One method has nothing to be compared with.
    base = {run.seed: run for run in own} if len(experiment.labels) > 1 else {}
    rows = {name: _method(experiment, name, base) for name in experiment.labels}
    steps = {name: max(r.end["step"] for r in runs) for name, runs in experiment.runs.items()}
    return Summary(
        methods=list(rows.values()),
        baseline=rows[experiment.baseline],
        other_steps={name: most for name, most in steps.items() if most != experiment.steps},
        target=_mean(run.best["accuracy"] for run in base.values()),
        noisy=_mean(run.end["noisy"] for run in own),
        left_out=[f"{experiment.labels[m]}, seed {s}: {why}" for m, s, why in experiment.left_out],
        watched=experiment.watched,
    )


def leaders(summary: Summary) -> dict[str, Any]:
    """Return the rows that are `compared` with the baseline, and what the result in words is about.

    `best` ends highest of them, `below` end lower than the baseline; of those that meet the target
    in the median seed, `first` is the earliest beside the baseline in steps, `soonest` in seconds,
    IL cost included. None where there is none.
    """
    others = [row for row in summary.methods if row is not summary.baseline and row.paired]
    met = [row for row in others if math.isfinite(row.against.steps)]
    by_time = {row.method: (row.against.pays, -row.against.target_seconds) for row in met}
    return {
        "compared": others,
        "best": max(others, key=lambda row: row.gain, default=None),
        "below": [row for row in others if row.gain < 0],
        "first": max(met, key=lambda row: (row.against.had, -row.against.steps), default=None),
        "soonest": max(met, key=lambda row: by_time[row.method], default=None),
    }


def _method(experiment: Experiment, name: str, baseline: Mapping[int, Run]) -> MethodSummary:
    runs = experiment.runs.get(name, ())
    ends = {run.seed: run.eval[-1]["accuracy"] for run in runs}
    tests = [run.test["accuracy"] for run in runs]
    gains = [ends[s] - base.eval[-1]["accuracy"] for s, base in baseline.items() if s in ends]
    pairs = [_pair(run, baseline[run.seed]) for run in runs if run.seed in baseline]
    times = [_times(run.end) for run in runs]
    return MethodSummary(
        method=name,
        label=experiment.labels[name],
        finished=len(runs),
        accuracy=_mean(ends.values()),
        accuracy_error=_error([*ends.values()]),
        test=_mean(tests),
        test_error=_error(tests),
        noisy=_mean(_share(run, "noisy") for run in runs),
        correct=_mean(_share(run, "correct") for run in runs),
        seconds=_mean(run.end["seconds"] for run in runs),
        seconds_with_il=_mean(run.end["seconds"] + run.end["il_seconds"] for run in runs),
        paired=len(pairs),
        reached=sum(pair.had > 0 for pair in pairs),
        ahead=sum(gain > 0 for gain in gains),
        gain=_mean(gains),
        against=Pair(**_medians(pairs or [Pair(*[math.nan] * 9)])),
        times={key: _mean(each[key] for each in times) for key in next(iter(times), ())},
        accuracies=_by_class([run.test["class_accuracy"] for run in runs]),
        favours=_by_class([_favour(run.selected) for run in runs if run.selected]),
    )


def _pair(run: Run, base: Run) -> Pair:
    theirs, il, base_il = base.best, run.end["il_seconds"], base.end["il_seconds"]
    mine = next((e for e in run.eval if e["accuracy"] >= theirs["accuracy"]), None)
    at = mine or run.end
    # A clock may not have moved in a run of a few steps.
    seconds, base_seconds = (max(one["seconds"], 1e-9) for one in (at, theirs))
    steps, base_steps = (max(1, one["step"]) for one in (at, theirs))
    # What the baseline leaves for steps, IL cost included or precomputed.
    given = base_seconds + base_il - il, base_seconds
    needs = (base_steps * seconds / (steps * left) if left > 0 else math.inf for left in given)
    pays = (max(0.0, left) / seconds if mine else 0.0 for left in given)
    return Pair(
        mine["step"] if mine else math.inf,
        mine["seconds"] + il if mine else math.inf,
        mine["seconds"] if mine else math.inf,
        seconds / steps,
        base_steps / steps if mine else 0.0,
        *needs,
        *pays,
    )


def _medians(pairs: Sequence[Pair]) -> dict[str, float]:
    # Between a seed that never meets the target and one that does there is no number of times.
    low = ("had", "pays", "pays_precomputed")
    values = zip(Pair._fields, zip(*pairs, strict=True), strict=True)
    return {name: (median_low if name in low else median)(each) for name, each in values}


def _times(end: Record) -> dict[str, float]:
    """Return the seconds of a run by part, their sum with IL and without evaluation, and counts."""
    parts = {"IL": end["il_seconds"], **end["part_seconds"]}
    counts = {count: end[count] for count in ("epochs", "scored", "trained")}
    return {**parts, "sum": sum(parts.values()) - parts["evaluation"], **counts}


def _favour(selected: Record) -> list[float]:
    examples, chosen = selected["examples"], selected["selected"]
    n, k = sum(examples), sum(chosen)
    pairs = zip(examples, chosen, strict=True)
    return [(own / k) / (size / n) if size and k else math.nan for size, own in pairs]


def _by_class(seeds: Sequence[Sequence[float | None]]) -> list[float]:
    return [_mean(values) for values in zip(*seeds, strict=False)]


def ranked(values: Sequence[float]) -> list[int]:
    """Return the classes that have a value, the lowest value first."""
    return sorted((c for c, v in enumerate(values) if not math.isnan(v)), key=values.__getitem__)


def _share(run: Run, flag: str) -> float | None:
    found = [record[flag] for record in run.train]
    selected = sum(record["selected"] for record in run.train)
    return sum(found) / selected if selected and None not in found else None


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known else math.nan


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def as_csv(summary: Summary) -> str:
    """Return the numbers, unrounded, a method a line; empty where there is none."""
    rows = []
    for row in summary.methods:
        values = {**vars(row), **row.against._asdict(), "target": summary.target}
        numbers = {k: v for k, v in values.items() if isinstance(v, (str, int, float))}
        rows.append({k: "" if v != v or v == math.inf else v for k, v in numbers.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
