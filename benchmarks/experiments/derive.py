"""Statistics over seeds, derived from the rows of one `runs.csv` (one row a run)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from keep import Row, read_csv

RESULTS = Path(__file__).parent / "results"
SHARES = ("noisy", "unsure", "correct", "less_relevant", "redundant")


def read_runs(suite: str, results: Path = RESULTS) -> list[Row]:
    """Return the committed rows of a suite."""
    return read_csv(results / suite / "runs.csv")


def in_cell(rows: Iterable[Row], cell: str) -> list[Row]:
    """Return the rows of one cell (one experiment) of a suite."""
    return [row for row in rows if row["cell"] == cell]


def number(text: str) -> float | None:
    """Return the number in a field of a row; None for an empty field."""
    return float(text) if text else None


@dataclass(frozen=True)
class Paired:
    """Differences of n seeds: mean, standard error `sd / sqrt(n)`, and the number above 0."""

    n: int
    mean: float
    error: float | None
    ahead: int

    @property
    def points(self) -> str:
        """The mean and its error in percentage points, such as `+1.2 ± 0.4`."""
        error = "" if self.error is None else f" ± {100 * self.error:.1f}"
        return f"{100 * self.mean:+.1f}{error}"


def paired(differences: Iterable[float]) -> Paired | None:
    """Summarise differences of the same seeds; None if there are none.

    Seeds share noise, split and order, so what varies with them cancels out of a difference.

    Example:
        >>> paired([0.01, 0.03, -0.01])
        Paired(n=3, mean=0.01, error=0.011547005383792516, ahead=2)
    """
    values = list(differences)
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Paired(len(values), fmean(values), error, sum(value > 0 for value in values))


class Method:
    """The runs of one method in a cell, one a seed."""

    def __init__(self, runs: Sequence[Row]) -> None:
        self.runs = list(runs)
        self.label = self.runs[0]["label"]

    def mean(self, column: str) -> float | None:
        """Return the mean of a column, or None where no run has it."""
        values = [value for run in self.runs if (value := number(run[column])) is not None]
        return fmean(values) if values else None

    def error(self, column: str) -> float | None:
        """Return the standard error of the mean of a column."""
        found = paired(value for run in self.runs if (value := number(run[column])) is not None)
        return None if found is None else found.error

    def above(self, other: Sequence[Row], column: str = "test") -> Paired | None:
        """Return the differences from another method, seed by seed."""
        theirs = {row["seed"]: row for row in other}
        pairs = [(run, theirs[run["seed"]]) for run in self.runs if run["seed"] in theirs]
        return paired(
            float(run[column]) - float(of[column])
            for run, of in pairs
            if run[column] and of[column]
        )

    def share(self, name: str) -> float | None:
        """Return the mean share of the selected examples that `name` counts."""
        if any(not run[name] for run in self.runs):
            return None
        return fmean(float(run[name]) / float(run["selected"]) for run in self.runs)


def methods(rows: Sequence[Row]) -> dict[str, Method]:
    """Return the methods of a cell by name, in the order of the rows."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["method"], []).append(row)
    return {name: Method(runs) for name, runs in by_name.items()}
