"""The numbers of a comparison: accuracy, steps and seconds to the target, cost, classes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median, stdev
from typing import Any

from rho_train.report.read import Experiment, Record, Run

_NAN = math.nan
_CSV = (
    "method finished accuracy accuracy_error test test_error gain ahead paired reached steps noisy "
    "correct seconds seconds_with_il target_seconds target_seconds_precomputed step_seconds had "
    "needs needs_precomputed pays pays_precomputed target"
)


@dataclass(frozen=True)
class Pair:
    """A run beside the baseline's with the same seed, whose best accuracy is the target.

    `steps` and `target_seconds` (IL cost included; `_precomputed`: without) lead to the first
    evaluation that meets the target, infinite if none does. In times fewer steps to the target
    than the baseline, `had` is what the run made, 0 if it never met it, and `needs` what a step of
    `step_seconds` asks for to be as early: infinite if the IL takes longer than the baseline.
    `pays` is had / needs: the run is earlier than the baseline if it is above 1.
    """

    gain: float = _NAN
    steps: float = _NAN
    target_seconds: float = _NAN
    target_seconds_precomputed: float = _NAN
    step_seconds: float = _NAN
    had: float = _NAN
    needs: float = _NAN
    needs_precomputed: float = _NAN
    pays: float = _NAN
    pays_precomputed: float = _NAN


@dataclass(frozen=True)
class MethodSummary:
    """One method over its finished seeds; NaN where there is nothing to measure.

    Accuracies and shares (`noisy`, `correct`: of the selected examples) lie in [0, 1], errors are
    standard errors of the mean. `against`
    has medians over the `paired` seeds, which the baseline finished too, and the mean gain; in
    `reached` of these the target is met, in `ahead` the run ends above the baseline. `times` are
    mean seconds by part and counts; `accuracies` and `favours`, of the classes, are NaN without
    examples. A favour is the share of a class among the selected examples over its share of all.
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
    ahead: int
    reached: int
    against: Pair
    times: Mapping[str, float]
    accuracies: Sequence[float]
    favours: Sequence[float]


@dataclass(frozen=True)
class Summary:
    """All methods in display order, and what they are compared with.

    `target` is the baseline's best accuracy (mean over seeds), NaN for one method; `noisy` the
    share of wrong labels in its training examples; `other_steps` the most steps of each method
    that does not make `steps`.
    """

    methods: Sequence[MethodSummary]
    baseline: MethodSummary
    steps: int
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
        steps=experiment.steps,
        other_steps={name: most for name, most in steps.items() if most != experiment.steps},
        target=_mean(run.best for run in base.values()),
        noisy=_mean(run.end["noisy"] for run in own),
        left_out=[f"{experiment.labels[m]}, seed {s}: {why}" for m, s, why in experiment.left_out],
        watched=experiment.watched,
    )


def leaders(summary: Summary) -> dict[str, Any]:
    """Return the rows that the result in words is about, None where there is none.

    `best` ends highest of those that are no baseline, `below` end lower than the baseline; of
    those that meet the target in the median seed, `first` is the earliest beside the baseline in
    steps, `soonest` in seconds, IL cost included.
    """
    others = [row for row in summary.methods if row is not summary.baseline and row.paired]
    there = [row for row in others if math.isfinite(row.against.steps)]
    return {
        "best": max(others, key=lambda row: row.against.gain, default=None),
        "below": [row for row in others if row.against.gain < 0],
        "first": max(there, key=lambda r: (r.against.had, -r.against.steps), default=None),
        "soonest": max(
            there, key=lambda r: (r.against.pays, -r.against.target_seconds), default=None
        ),
    }


def _method(experiment: Experiment, name: str, baseline: Mapping[int, Run]) -> MethodSummary:
    runs = experiment.runs.get(name, ())
    pairs = [_pair(run, baseline[run.seed]) for run in runs if run.seed in baseline]
    over = {f.name: [getattr(pair, f.name) for pair in pairs] for f in fields(Pair)}
    medians = {key: median(values or [_NAN]) for key, values in over.items()}
    ends = [run.eval[-1]["accuracy"] for run in runs]
    tests = [run.test["accuracy"] for run in runs]
    times = [_times(run.end) for run in runs]
    return MethodSummary(
        method=name,
        label=experiment.labels[name],
        finished=len(runs),
        accuracy=_mean(ends),
        accuracy_error=_error(ends),
        test=_mean(tests),
        test_error=_error(tests),
        noisy=_mean(_share(run, "noisy") for run in runs),
        correct=_mean(_share(run, "correct") for run in runs),
        seconds=_mean(run.end["seconds"] for run in runs),
        seconds_with_il=_mean(run.end["seconds"] + run.end["il_seconds"] for run in runs),
        paired=len(pairs),
        ahead=sum(pair.gain > 0 for pair in pairs),
        reached=sum(pair.had > 0 for pair in pairs),
        against=Pair(**medians | {"gain": _mean(over["gain"])}),
        times={key: _mean(each[key] for each in times) for key in next(iter(times), ())},
        accuracies=_by_class([run.test["class_accuracy"] for run in runs]),
        favours=_by_class([_favour(run.selected) for run in runs if run.selected]),
    )


def _pair(run: Run, base: Run) -> Pair:
    met = [next((e for e in of.eval if e["accuracy"] >= base.best), None) for of in (run, base)]
    mine, theirs = met
    assert theirs is not None, "a run meets its own best accuracy"
    # A clock may not have moved in a run of a few steps.
    at = mine or run.end
    seconds, base_seconds = (max(one["seconds"], 1e-9) for one in (at, theirs))
    steps, base_steps = (max(1, one["step"]) for one in (at, theirs))
    il = run.end["il_seconds"] - base.end["il_seconds"]
    had = base_steps / steps if mine else 0.0
    # As many of its steps as fit into the seconds of the baseline.
    needs = [
        base_steps * seconds / (steps * left) if left > 0 else math.inf
        for left in (base_seconds - il, base_seconds)
    ]
    return Pair(
        gain=run.eval[-1]["accuracy"] - base.eval[-1]["accuracy"],
        steps=mine["step"] if mine else math.inf,
        target_seconds=mine["seconds"] + run.end["il_seconds"] if mine else math.inf,
        target_seconds_precomputed=mine["seconds"] if mine else math.inf,
        step_seconds=seconds / steps,
        had=had,
        needs=needs[0],
        needs_precomputed=needs[1],
        pays=had / needs[0],
        pays_precomputed=had / needs[1],
    )


def _times(end: Record) -> dict[str, float]:
    """Return the seconds of a run by part, their sum with IL and without evaluation, and counts."""
    parts = {"IL": end["il_seconds"], **end["part_seconds"]}
    counts = {count: end[count] for count in ("epochs", "scored", "trained")}
    return {**parts, "sum": sum(parts.values()) - parts["evaluation"], **counts}


def _favour(selected: Record) -> list[float]:
    examples, chosen = selected["examples"], selected["selected"]
    n, k = sum(examples), sum(chosen)
    pairs = zip(examples, chosen, strict=True)
    return [(own / k) / (size / n) if size and k else _NAN for size, own in pairs]


def ranked(values: Sequence[float]) -> list[int]:
    """Return the classes that have a value, the lowest value first."""
    return sorted((c for c, v in enumerate(values) if not math.isnan(v)), key=values.__getitem__)


def _share(run: Run, flag: str) -> float | None:
    found = [record[flag] for record in run.train]
    selected = sum(record["selected"] for record in run.train)
    return sum(found) / selected if selected and None not in found else None


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known else _NAN


def _by_class(seeds: Sequence[Sequence[float | None]]) -> list[float]:
    return [_mean(values) for values in zip(*seeds, strict=False)]


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else _NAN


def as_csv(summary: Summary) -> str:
    """Return the numbers of the table, unrounded, a method a line; empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV.split(), "", "ignore", lineterminator="\n")
    writer.writeheader()
    for row in summary.methods:
        values = {**vars(row), **vars(row.against), "target": summary.target}
        known = (k for k, v in values.items() if not isinstance(v, float) or math.isfinite(v))
        writer.writerow({key: values[key] for key in known})
    return text.getvalue()
