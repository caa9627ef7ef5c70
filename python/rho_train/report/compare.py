"""Methods side by side, seed by seed: differences with their errors, and the time to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from rho_train.report.outcomes import SHARES, Look, Outcome, Outcomes, by_seed


@dataclass(frozen=True)
class Paired:
    """Differences of n seeds: their mean, its standard error `sd / sqrt(n)`, None for one seed,
    and in how many seeds the difference is above 0."""

    n: int
    mean: float
    error: float | None
    ahead: int


def paired(differences: Iterable[float]) -> Paired | None:
    """Summarise differences of the same seeds; None if there are none.

    The seeds share noise, split and order, so what varies with them cancels out of a difference.

    Example:
        >>> paired([0.01, 0.03, -0.01])
        Paired(n=3, mean=0.01, error=0.011547005383792516, ahead=2)
    """
    values = list(differences)
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Paired(len(values), fmean(values), error, sum(value > 0 for value in values))


def first_at(run: Outcome, target: float) -> Look | None:
    """Return the first look at the run whose accuracy is `target` or more, or None."""
    return next((look for look in run.looks if look.accuracy >= target), None)


@dataclass(frozen=True)
class Comparison:
    """One method over its finished seeds, beside a baseline.

    The target of a seed is where the baseline's own curve ends with this seed, never a maximum.
    The medians `steps`, `seconds_reused` (irreducible losses there already), `seconds_charged` (all
    of their seconds on this run) and `seconds_shared` (shared evenly by the experiment's targets)
    are until the curve first meets it, None when it does not in the median seed. `factor` is the
    median of the baseline's steps to the target over those of this method, `factor_reused` and
    `factor_charged` the same in seconds; a seed that never meets it counts as 0.

    `test` and `worst_class` are means over the seeds of what the test set said at the end, `gain`
    and `worst_gain` their differences from the baseline. `shares` are of the selected points;
    `correct` is counted, as in Figure 3 of the paper, until the curve passes the lowest end of
    all methods with this seed.
    """

    method: str
    finished: int
    steps_made: float
    test: float
    test_error: float | None
    worst_class: float
    gain: Paired | None
    worst_gain: Paired | None
    reached: int
    steps: float | None
    seconds_reused: float | None
    seconds_charged: float | None
    seconds_shared: float | None
    factor: float | None
    factor_reused: float | None
    factor_charged: float | None
    seconds: float
    il_seconds: float
    targets: int
    shares: Mapping[str, float]

    @property
    def charged(self) -> float:
        """Training seconds and all seconds of the irreducible losses."""
        return self.seconds + self.il_seconds

    @property
    def shared(self) -> float:
        """Training seconds and this target's part of the seconds of the irreducible losses."""
        return self.seconds + self.il_seconds / self.targets


def compare(runs: Sequence[Outcome], baseline: str) -> list[Comparison]:
    """Compare each method that has a finished run with a baseline, in the order of the runs.

    Example:
        >>> compare(read_outcomes(out).runs, "uniform_all")  # doctest: +SKIP
    """
    ends: dict[int, float] = {}
    for run in runs:
        end = run.looks[-1].accuracy
        ends[run.seed] = min(end, ends.get(run.seed, end))
    base = by_seed(runs, baseline)
    names = dict.fromkeys(run.method for run in runs)
    return [_comparison(by_seed(runs, name), base, ends) for name in names]


def _comparison(
    runs: dict[int, Outcome], base: dict[int, Outcome], ends: Mapping[int, float]
) -> Comparison:
    ours = list(runs.values())
    pairs = [(run, base[seed]) for seed, run in runs.items() if seed in base]
    hits: list[tuple[Outcome, Look | None, Outcome, Look]] = []
    for run, other in pairs:
        target = other.looks[-1].accuracy
        theirs = first_at(other, target)
        assert theirs is not None, "a curve meets its own end"
        hits.append((run, first_at(run, target), other, theirs))
    test = paired(run.test for run in ours)
    assert test is not None
    shares = {
        name: share
        for name in SHARES
        if (share := _share(ours, name, ends if name == "correct" else {})) is not None
    }
    return Comparison(
        method=ours[0].method,
        finished=len(ours),
        steps_made=fmean(run.steps for run in ours),
        test=test.mean,
        test_error=test.error,
        worst_class=fmean(run.worst_class for run in ours),
        gain=paired(run.test - other.test for run, other in pairs),
        worst_gain=paired(run.worst_class - other.worst_class for run, other in pairs),
        reached=sum(hit is not None for _, hit, _, _ in hits),
        steps=_median(math.inf if hit is None else hit.step for _, hit, _, _ in hits),
        seconds_reused=_median(math.inf if hit is None else hit.seconds for _, hit, _, _ in hits),
        seconds_charged=_median(
            math.inf if hit is None else hit.seconds + run.il_seconds for run, hit, _, _ in hits
        ),
        seconds_shared=_median(
            math.inf if hit is None else hit.seconds + run.il_seconds / run.targets
            for run, hit, _, _ in hits
        ),
        factor=_sooner(hits, lambda run, look: float(look.step)),
        factor_reused=_sooner(hits, lambda run, look: look.seconds),
        factor_charged=_sooner(hits, lambda run, look: look.seconds + run.il_seconds),
        seconds=fmean(run.seconds for run in ours),
        il_seconds=fmean(run.il_seconds for run in ours),
        targets=ours[0].targets,
        shares=shares,
    )


def _share(runs: Sequence[Outcome], name: str, until: Mapping[int, float]) -> float | None:
    """Mean over the runs of the share of selected points that `name` counts."""
    shares = []
    for run in runs:
        look = first_at(run, until[run.seed]) if run.seed in until else None
        last = math.inf if look is None else look.step
        counts = [of for step, of in run.counts if step <= last] or [run.counts[0][1]]
        if any(name not in of for of in counts):
            return None
        shares.append(sum(of[name] for of in counts) / sum(of["selected"] for of in counts))
    return fmean(shares)


def _sooner(
    hits: Sequence[tuple[Outcome, Look | None, Outcome, Look]],
    cost: Callable[[Outcome, Look], float],
) -> float | None:
    """Median of the baseline's cost over ours; None when the median seed never meets the target."""
    if _median(math.inf if hit is None else 0.0 for _, hit, _, _ in hits) is None:
        return None
    factors = []
    for run, hit, other, theirs in hits:
        ours = math.inf if hit is None else cost(run, hit)
        # At step 0 both are there: an untrained model that meets the target is no speed-up.
        factors.append(cost(other, theirs) / ours if ours > 0 else 1.0)
    return median(factors)


def format_comparison(outcomes: Outcomes) -> str:
    """The numbers for a console: one line a method."""
    rows = compare(outcomes.runs, outcomes.baseline)
    lines = [
        f"{'':32} {'test, %':>13} {'- baseline':>15} {'ahead':>7} {'steps to it':>12} {'factor':>7}"
        f" {'seconds':>8} {'with IL':>8}"
    ]
    for row in rows:
        gain, ahead = "-", "-"
        if row.gain is not None and row.method != outcomes.baseline:
            gain = signed(row.gain.mean, row.gain.error)
            ahead = f"{row.gain.ahead} of {row.gain.n}"
        steps = "-" if row.steps is None else f"{row.steps:,.0f}"
        factor = "-" if not row.factor else f"{row.factor:.2f}"
        error = "" if row.test_error is None else f" ± {100 * row.test_error:.1f}"
        lines.append(
            f"{outcomes.labels[row.method][:32]:32} {100 * row.test:6.1f}{error:>7} {gain:>15} "
            f"{ahead:>7} {steps:>12} {factor:>7} {row.seconds:8.1f} {row.charged:8.1f}"
        )
    lines.append(f"Baseline and end of the curve to reach: {outcomes.labels[outcomes.baseline]}.")
    lines += [f"Not finished: {outcomes.labels[m]}, seed {s}." for m, s in outcomes.missing]
    return "\n".join(lines)


def signed(mean: float, error: float | None) -> str:
    """A difference of shares in percentage points, with its error if it has one.

    Example:
        >>> signed(0.0123, 0.004)
        '+1.2 ± 0.4'
    """
    return f"{100 * mean:+.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def _median(values: Iterable[float]) -> float | None:
    middle = median([*values] or [math.inf])
    return middle if math.isfinite(middle) else None
