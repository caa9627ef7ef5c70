"""Accuracy and choices by class, with the worst class named."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from rho_train.report.axis import Axis
from rho_train.report.chart import Series, line_chart
from rho_train.report.curves import Figure, ends, finished, rounded, styles
from rho_train.report.read import Experiment, Method

_LISTED = 30


@dataclass(frozen=True)
class ByClass:
    """A method by class, means over its finished seeds.

    `accuracy` is None where no test point has the class; `favour` is the share of the class among
    the choices over its share of the points: 1 is a fair share; None where no point has the class,
    empty where nothing is known of the choices.
    """

    method: Method
    accuracy: tuple[float | None, ...]
    favour: tuple[float | None, ...]

    @property
    def known(self) -> list[int]:
        """Classes with an accuracy, the worst first."""
        known = [(value, c) for c, value in enumerate(self.accuracy) if value is not None]
        return [c for _, c in sorted(known)]

    @property
    def favoured(self) -> list[int]:
        """Classes by what they were chosen for their size, the least first."""
        known = [(value, c) for c, value in enumerate(self.favour) if value is not None]
        return [c for _, c in sorted(known)]


def by_class(experiment: Experiment) -> list[ByClass]:
    """One row for each method whose runs wrote accuracies by class."""
    rows = []
    for method, runs in finished(experiment):
        accuracies = [run.test.class_accuracy if run.test is not None else () for run in runs]
        width = max(map(len, accuracies))
        if min(map(len, accuracies)) < width or not width:
            continue
        favours = [
            _favour(run.chosen.points, run.chosen.chosen) for run in runs if run.chosen is not None
        ]
        rows.append(ByClass(method, _means(accuracies), _means(favours)))
    return [row for row in rows if row.known]


def class_names(experiment: Experiment) -> tuple[str, ...]:
    """Names of the classes where a run tells them; empty: they are numbers."""
    named = [run.chosen.classes for run in experiment.runs if run.chosen is not None]
    return max(named, key=len, default=())


def class_figure(experiment: Experiment, rows: list[ByClass]) -> Figure | None:
    """Accuracy of the worst, the second worst, ... class of each method; None without data."""
    # With two classes a curve tells less than the table.
    curves = [
        Series(
            row.method.label,
            styles(experiment)[row.method.name],
            [float(rank) for rank in range(1, len(row.known) + 1)],
            [row.accuracy[c] or 0.0 for c in row.known],
        )
        for row in rows
        if len(row.known) > 2
    ]
    if not curves:
        return None
    low, _ = rounded(min(min(curve.y) for curve in curves), 1.0)
    title = "Test accuracy by class, from the worst to the best"
    return Figure(
        name="classes",
        title=title,
        caption="Each method has its classes in its own order, so the left end is its worst class. "
        f"Means over the seeds after the last step. The axis begins at {100 * low:g}%.",
        svg=line_chart(
            curves,
            name="classes",
            title=title,
            desc=ends(curves),
            x=Axis("Classes, the worst first", 1, max(c.x[-1] for c in curves), whole=True),
            y=Axis("Test accuracy of the class", low, 1.0, percent=True),
        ),
    )


def listed_classes(experiment: Experiment, rows: list[ByClass]) -> list[int]:
    """Classes of the long table: all, or the 30 that the baseline, or the first row, has worst."""
    first = next((row for row in rows if row.method.name == experiment.baseline), rows[0])
    return sorted(first.known) if len(first.known) <= _LISTED else first.known[:_LISTED]


def _favour(points: tuple[int, ...], chosen: tuple[int, ...]) -> tuple[float | None, ...]:
    n, k = sum(points), sum(chosen)
    return tuple(
        (c / k) / (p / n) if p and k else None for p, c in zip(points, chosen, strict=True)
    )


def _means(rows: list[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    columns = zip(*rows, strict=False)
    known = ([value for value in column if value is not None] for column in columns)
    return tuple(fmean(values) if values else None for values in known)
