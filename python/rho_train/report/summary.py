"""The numbers of a comparison: accuracy, steps and seconds to the target, cost, classes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, median, stdev
from typing import Any

from rho_train.report.read import PARTS, Experiment, Run

Classes = Sequence[float | None]


@dataclass(frozen=True)
class MethodSummary:
    """One method over its finished seeds; None where there is nothing to measure.

    Accuracies and shares (`noisy`, `correct`: of the selected examples) lie in [0, 1], errors are
    standard errors of the mean. `test` is None unless all finished seeds were tested. The target of
    a seed is the best accuracy of the baseline with this seed. Of the `paired` seeds, which both
    finished, the method meets the target in `reached` and ends above the baseline in `ahead`. The
    medians `steps`, `target_seconds` (IL cost included) and `target_seconds_precomputed` take a
    seed that never meets the target as infinitely late.
    """

    method: str
    label: str
    finished: int
    accuracy: float | None
    accuracy_error: float | None
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
    seconds_with_il: float | None
    target_seconds: float | None
    target_seconds_precomputed: float | None


@dataclass(frozen=True)
class Summary:
    """All methods in display order, and what they are compared with.

    `target` is the baseline's best accuracy (mean over seeds); `noisy` the share of wrong labels in
    its training examples; `other_steps` the most steps of each method that does not make `steps`.
    """

    methods: Sequence[MethodSummary]
    baseline: MethodSummary
    steps: int
    other_steps: Mapping[str, int]
    target: float | None
    noisy: float | None
    left_out: Sequence[str]
    watched: str


def summarize(experiment: Experiment) -> Summary:
    """Summarise the finished runs; every comparison with the baseline is made seed by seed.

    Example:
        >>> summary = summarize(read_experiment(out))  # doctest: +SKIP
        >>> summary.baseline.accuracy  # doctest: +SKIP
    """
    base = experiment.of(experiment.baseline)
    rows = {name: _method(experiment, name, base) for name in experiment.labels}
    steps = {name: max(r.end["step"] for r in runs) for name, runs in experiment.finished()}
    return Summary(
        methods=list(rows.values()),
        baseline=rows[experiment.baseline],
        steps=experiment.steps,
        other_steps={name: most for name, most in steps.items() if most != experiment.steps},
        target=_mean(run.best for run in base.values()),
        noisy=_mean(run.end["noisy"] for run in base.values()),
        left_out=[f"{experiment.labels[m]}, seed {s}: {why}" for m, s, why in experiment.left_out],
        watched=experiment.watched,
    )


def leaders(summary: Summary) -> dict[str, Any]:
    """Return the rows that the result in words is about, None where there is none.

    `best` ends highest of those that are no baseline, `below` end lower than the baseline; `first`
    needs the fewest steps to the target, `soonest` the fewest seconds, IL cost included.
    """
    others = [row for row in summary.methods if row is not summary.baseline and row.paired]
    there = [row for row in others if row.steps is not None]
    return {
        "best": max(others, key=lambda row: row.gain or 0.0, default=None),
        "below": [row for row in others if (row.gain or 0.0) < 0],
        "first": min(there, key=lambda row: row.steps or 0.0, default=None),
        "soonest": min(there, key=lambda row: row.target_seconds or 0.0, default=None),
    }


def _method(experiment: Experiment, name: str, baseline: Mapping[int, Run]) -> MethodSummary:
    runs = experiment.of(name).values()
    ends = [run.eval[-1]["accuracy"] for run in runs]
    tests = [run.test["accuracy"] for run in runs if run.test is not None]
    tests = tests if len(tests) == len(runs) else []
    pairs = [(run, baseline[run.seed]) for run in runs if run.seed in baseline]
    gains = [run.eval[-1]["accuracy"] - other.eval[-1]["accuracy"] for run, other in pairs]
    hits = [(run, run.first_at(other.best)) for run, other in pairs]
    seconds = [math.inf if hit is None else hit["seconds"] for _, hit in hits]
    return MethodSummary(
        method=name,
        label=experiment.labels[name],
        finished=len(runs),
        accuracy=_mean(ends),
        accuracy_error=_error(ends),
        test=_mean(tests),
        test_error=_error(tests),
        gain=_mean(gains),
        ahead=sum(gain > 0 for gain in gains),
        paired=len(pairs),
        reached=sum(hit is not None for _, hit in hits),
        steps=_median(math.inf if hit is None else hit["step"] for _, hit in hits),
        noisy=_mean(_share(run, "noisy") for run in runs),
        correct=_mean(_share(run, "correct") for run in runs),
        seconds=_mean(run.end["seconds"] for run in runs),
        seconds_with_il=_mean(run.end["seconds"] + run.end["il_seconds"] for run in runs),
        target_seconds=_median(
            s + run.end["il_seconds"] for s, (run, _) in zip(seconds, hits, strict=True)
        ),
        target_seconds_precomputed=_median(seconds),
    )


def costs(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Return what each method needs to be as fast as the baseline, in times fewer steps; medians.

    `precomputed`, a step in steps of the baseline, is enough with precomputed IL; `needs` has
    the IL cost included, infinite if that alone takes longer than the baseline to its target. `had`
    is what the method had, 0 if it never met the target.
    """
    baseline = experiment.of(experiment.baseline)
    found = {}
    for name, runs in experiment.finished():
        pairs = [_cost(run, baseline[run.seed]) for run in runs if run.seed in baseline]
        if pairs and name != experiment.baseline:
            found[name] = {key: median(pair[key] for pair in pairs) for key in pairs[0]}
    return found


def _cost(run: Run, base: Run) -> dict[str, float]:
    # A clock may not have moved in a run of a few steps.
    step, base_step = (max(one.end["seconds"], 1e-9) / one.end["step"] for one in (run, base))
    mine, theirs = run.first_at(base.best), base.first_at(base.best)
    assert theirs is not None, "a run meets its own best accuracy"
    left, target = theirs["seconds"] - run.end["il_seconds"], max(1, theirs["step"])
    return {
        "step_seconds": step,
        "precomputed": step / base_step,
        "needs": target / (left / step) if left > 0 else math.inf,
        "had": target / max(1, mine["step"]) if mine else 0.0,
    }


def time_parts(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Return means over the runs of each method that wrote where their time went: seconds by part,
    `IL`, `sum` (with IL, without evaluation); and the counts `epochs`, `scored` and `trained`."""
    found = {}
    for name, runs in experiment.finished():
        spent = [
            {"IL": run.end["il_seconds"], **run.end["part_seconds"]}
            | {count: run.end[count] or 0 for count in ("epochs", "scored", "trained")}
            for run in runs
            if run.end["part_seconds"]
        ]
        if spent:
            found[name] = {part: fmean(one[part] for one in spent) for part in spent[0]}
            found[name]["sum"] = sum(found[name][part] for part in ("IL", *PARTS[:-1]))
    return found


def by_class(experiment: Experiment) -> dict[str, tuple[Classes, Classes]]:
    """Return accuracy and favour by class of each method whose runs all have them, means.

    The favour is the share of a class among the selected examples over its share of all: 1 is fair.
    Either is None without examples.
    """
    found: dict[str, tuple[Classes, Classes]] = {}
    for name, runs in experiment.finished():
        accuracies = [(run.test and run.test["class_accuracy"]) or [] for run in runs]
        favours = [_favour(run.selections) for run in runs if run.selections is not None]
        means = [[_mean(of) for of in zip(*rows, strict=False)] for rows in (accuracies, favours)]
        if len(set(map(len, accuracies))) == 1 and ranked(means[0]):
            found[name] = means[0], means[1]
    return found


def ranked(values: Classes) -> list[int]:
    """Return the classes that have a value, the lowest value first."""
    known = ((value, c) for c, value in enumerate(values) if value is not None)
    return [c for _, c in sorted(known)]


def _favour(selections: Mapping[str, Sequence[int]]) -> Classes:
    examples, selected = selections["examples"], selections["selected"]
    n, k = sum(examples), sum(selected)
    pairs = zip(examples, selected, strict=True)
    return [(own / k) / (size / n) if size and k else None for size, own in pairs]


def _share(run: Run, flag: str) -> float | None:
    found = [record[flag] for record in run.train]
    selected = sum(record["selected"] for record in run.train)
    return sum(found) / selected if selected and None not in found else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _error(values: Sequence[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _median(values: Iterable[float]) -> float | None:
    middle = median([*values] or [math.inf])
    return middle if math.isfinite(middle) else None


def as_csv(summary: Summary) -> str:
    """Return the numbers of the table, unrounded, a method a line; empty where there is none."""
    names = [field.name for field in fields(MethodSummary) if field.name != "label"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names, "target"], "", "ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(row) | {"target": summary.target} for row in summary.methods)
    return text.getvalue()
