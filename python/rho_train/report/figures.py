"""The figures of the report: each is left out where the experiment has no data for it."""

from __future__ import annotations

from operator import attrgetter
from statistics import fmean

from rho_train.report.axis import Axis
from rho_train.report.chart import Reference, Series, line_chart
from rho_train.report.curves import Figure, band, ends, finished, over_seeds, rounded
from rho_train.report.quadrants import quadrants
from rho_train.report.read import Experiment
from rho_train.report.shares import overlap, share
from rho_train.report.summary import Summary

# Until this share of the training the curves are on their steep way up: the axis shows the rest.
_WARMUP = 0.4
# Seconds; beyond, people think in minutes.
_IN_MINUTES = 600.0

# What training records count: title of the figure, and how to read it.
_SHARES = {
    "noisy": (
        "Wrong labels among the selected points",
        "Below the dashed line a method avoids points with wrong labels, above it, it seeks them "
        "out.",
    ),
    "correct": (
        "Already correct among the selected points",
        "A high share means that the step was spent on points which the model already classified "
        "correctly.",
    ),
    "less_relevant": (
        "Less relevant points among the selected ones",
        "Points of classes that are rare in training and in the test set alike.",
    ),
    "redundant": (
        "Copies of other points among the selected ones",
        "What a copy teaches, another point has taught already.",
    ),
    "unsure": (
        "Doubtful labels among the selected points",
        "Labels in which the annotators' confidence was below 70%; they may be wrong.",
    ),
}


def make_figures(experiment: Experiment, summary: Summary) -> list[Figure]:
    """All figures that the experiment has data for, in reading order."""
    figures = [
        _accuracy(experiment, summary, charged=False),
        _accuracy(experiment, summary, charged=True),
        *(
            share(
                experiment,
                name=name.replace("_", "-"),
                title=title,
                count=attrgetter(name),
                base_rate=summary.base_rate if name == "noisy" else None,
                reading=reading,
            )
            for name, (title, reading) in _SHARES.items()
        ),
        overlap(experiment),
        *quadrants(experiment),
    ]
    return [figure for figure in figures if figure is not None]


def _accuracy(experiment: Experiment, summary: Summary, *, charged: bool) -> Figure:
    curves: list[Series] = []
    settled: list[float] = []
    longest = max(run.il_seconds + run.seconds for run in experiment.runs)
    unit, units = (60.0, "Minutes") if longest > _IN_MINUTES else (1.0, "Seconds")
    for method, runs in finished(experiment):
        common = set.intersection(*({record.step for record in run.evals} for run in runs))
        evals = [{r.step: r for r in run.evals if r.step in common} for run in runs]
        steps = sorted(common)
        seconds = [
            fmean(run.il_seconds + of[step].seconds for run, of in zip(runs, evals, strict=True))
            for step in steps
        ]
        values = [[of[step].accuracy for of in evals] for step in steps]
        # A baseline with the same minutes goes on to the right of the steps of the others.
        shown = len(steps) if charged else sum(step <= experiment.steps for step in steps)
        x = [second / unit for second in seconds] if charged else [float(step) for step in steps]
        curves.append(over_seeds(experiment, method, x[:shown], values[:shown]))
        late = [v for step, v in zip(steps, values, strict=True) if step >= _WARMUP * steps[-1]]
        settled += [value for point in late for value in point]
    low, high = rounded(min(settled), max([*settled, summary.target or 0.0]))
    end = max(x for curve in curves for x in curve.x) if charged else experiment.steps
    references = [] if summary.target is None else [Reference(summary.target, "baseline's best")]
    accuracy = f"{experiment.watched.capitalize()} accuracy"
    title = f"{accuracy} against {f'{units.lower()}, IL charged' if charged else 'steps'}"
    caption = (
        f"The same against {units.lower()} of wall-clock without evaluation (mean over the seeds). "
        "A curve starts when its irreducible losses are paid for."
        if charged
        else f"{band(experiment)} The dashed line is the best of “{summary.baseline.label}” (mean "
        "over the seeds): a method that crosses it early needs fewer steps."
    )
    longer = {run.method: run.steps for run in experiment.runs if run.steps > experiment.steps}
    if longer and not charged:
        labels = ", ".join(f"“{m.label}”" for m in experiment.methods if m.name in longer)
        caption += f" {labels} goes on to step {max(longer.values()):,}."
    return Figure(
        name="accuracy-seconds" if charged else "accuracy-steps",
        title=title,
        caption=f"{caption} The axis begins at {100 * low:g}%.",
        svg=line_chart(
            curves,
            name="accuracy-seconds" if charged else "accuracy-steps",
            title=title,
            desc=ends(curves),
            x=Axis(
                f"{units} of training, with those for IL" if charged else "Steps",
                0,
                max(end, 1e-3),
            ),
            y=Axis(accuracy, low, high, percent=True),
            references=references,
        ),
    )
