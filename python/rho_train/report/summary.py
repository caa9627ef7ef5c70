"""The numbers of a comparison; every figure that weighs methods is defined here, and by cost."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_high, median_low, stdev
from typing import Any, NamedTuple

from rho_train.report.read import Experiment, Run


class Pair(NamedTuple):
    """A run beside the baseline's with the same seed, whose best accuracy is the target.

    The first evaluation that meets it is at `target_steps` and `target_cost`, infinite if none
    does. `factor` is the baseline's cost of it over that of the run, both with their IL, above 1
    where the run is cheaper and 0 if it never meets the target; `factor_precomputed` is without IL.
    The IL are earned back by `models`, infinite if they never are. Without IL these are NaN.
    """

    target_steps: float
    target_cost: float
    factor: float
    factor_precomputed: float
    models: float


@dataclass(frozen=True)
class MethodSummary:
    """One method over its finished seeds; NaN where there is nothing to measure.

    `accuracy` is that of the curves, `test`, `balanced` (the mean of all classes) and `worst` (the
    lowest of them) of the test set, all after the last step, in [0, 1] as the shares `noisy` and
    `correct` of the selected examples. Errors are standard errors of the mean. Of the `paired`
    seeds, which the baseline finished too, the method meets the target in `reached`, ends above
    the baseline in `ahead`, by `gain` in the mean, and `against` has medians. `cost` by part is in
    uniform steps, its sum `total`; `seconds` are those of training and IL.
    """

    method: str
    label: str
    finished: int
    accuracy: float
    accuracy_error: float
    test: float
    test_error: float
    balanced: float
    worst: float
    noisy: float
    correct: float
    steps: float
    total: float
    seconds: float
    paired: int
    reached: int
    ahead: int
    gain: float
    against: Pair
    cost: Mapping[str, float]

    def values(self) -> dict[str, Any]:
        """Return all numbers and names, flat."""
        costs = {f"cost_{part}": cost for part, cost in self.cost.items()}
        return {**vars(self), **self.against._asdict(), **costs}


@dataclass(frozen=True)
class Summary:
    """All methods in display order, and what they are compared with.

    `target` is the baseline's best accuracy (mean over seeds), NaN for one method; `noisy` the
    share of wrong labels in its training examples.
    """

    methods: Sequence[MethodSummary]
    baseline: MethodSummary
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
    return Summary(
        methods=list(rows.values()),
        baseline=rows[experiment.baseline],
        target=_mean(run.best["accuracy"] for run in base.values()),
        noisy=_mean(run.end["noisy"] for run in own),
        left_out=[f"{experiment.labels[m]}, seed {s}: {why}" for m, s, why in experiment.left_out],
        watched=experiment.watched,
    )


def pair(run: Run, base: Run) -> Pair:
    """Weigh a run against the baseline's with the same seed."""
    best = base.best
    mine = next((e for e in run.eval if e["accuracy"] >= best["accuracy"]), None)
    il, base_il = run.costs(run.end)["il"], base.costs(best)["il"]
    cost = math.inf if mine is None else sum(run.costs(mine).values())
    base_cost = sum(base.costs(best).values())
    alone, saved = cost - il, base_cost - base_il - (cost - il)
    # IL that the baseline has as well are no expense of the method.
    models = max(0.0, il - base_il) / saved if saved > 0 else math.inf
    return Pair(
        target_steps=math.inf if mine is None else mine["step"],
        target_cost=cost,
        factor=_times(base_cost, cost),
        factor_precomputed=_times(base_cost - base_il, alone) if il else math.nan,
        models=models if il else math.nan,
    )


def _times(theirs: float, ours: float) -> float:
    # An untrained model that meets the target is no speed-up.
    return theirs / ours if ours > 0 else 1.0


def _method(experiment: Experiment, name: str, baseline: Mapping[int, Run]) -> MethodSummary:
    runs = experiment.runs.get(name, ())
    ends = {run.seed: run.eval[-1]["accuracy"] for run in runs}
    tests = [run.test["accuracy"] for run in runs]
    classes = [[c for c in run.test["class_accuracy"] if c is not None] for run in runs]
    gains = [ends[s] - base.eval[-1]["accuracy"] for s, base in baseline.items() if s in ends]
    pairs = [pair(run, baseline[run.seed]) for run in runs if run.seed in baseline]
    costs = [run.costs(run.end) for run in runs]
    return MethodSummary(
        method=name,
        label=experiment.labels[name],
        finished=len(runs),
        accuracy=_mean(ends.values()),
        accuracy_error=_error([*ends.values()]),
        test=_mean(tests),
        test_error=_error(tests),
        balanced=_mean(map(fmean, classes)),
        worst=_mean(map(min, classes)),
        noisy=_mean(_share(run, "noisy") for run in runs),
        correct=_mean(_share(run, "correct") for run in runs),
        steps=_mean(run.end["step"] for run in runs),
        total=_mean(sum(cost.values()) for cost in costs),
        seconds=_mean(run.end["seconds"] + run.end["il_seconds"] for run in runs),
        paired=len(pairs),
        reached=sum(one.factor > 0 for one in pairs),
        ahead=sum(gain > 0 for gain in gains),
        gain=_mean(gains),
        against=_medians(pairs) if pairs else Pair(*[math.nan] * 5),
        cost={part: _mean(cost[part] for cost in costs) for part in next(iter(costs), ())},
    )


def _medians(pairs: Sequence[Pair]) -> Pair:
    """Return medians that agree: a factor is 1 or more where one model or fewer earn the IL back.

    Between a seed that never meets the target and one that does, the median is the one that never.
    """
    columns = zip(Pair._fields, zip(*pairs, strict=True), strict=True)
    return Pair(*((median_low if "factor" in name else median_high)(of) for name, of in columns))


def _share(run: Run, flag: str) -> float | None:
    found = [record[flag] for record in run.train]
    selected = sum(record["selected"] for record in run.train)
    return sum(found) / selected if selected and None not in found else None


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def as_csv(summary: Summary) -> str:
    """Return the numbers, unrounded, a method a line; empty where there is none."""
    rows = []
    for row in summary.methods:
        numbers = {k: v for k, v in row.values().items() if isinstance(v, (str, int, float))}
        numbers["target"] = summary.target
        rows.append({k: "" if v != v or v == math.inf else v for k, v in numbers.items()})
    text, names = io.StringIO(), dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, [*names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
