"""Statistics over seeds, derived from the rows of one `runs.csv` (one row a run)."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

Row = dict[str, str]
RESULTS = Path(__file__).parent / "results"
SHARES = ("noisy", "unsure", "correct", "less_relevant", "redundant")


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a CSV file, or none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    """The runs of one method in a cell, one a seed, beside those of a baseline.

    The target of a seed is the best of the baseline's curve with this seed (of earlier rows, which
    have no cost, its end). A run that never meets it counts as infinitely late in medians and as 0
    in factors.
    """

    def __init__(self, runs: Sequence[Row], baseline: Sequence[Row]) -> None:
        self.runs = list(runs)
        self.label = self.runs[0]["label"]
        self._base = {row["seed"]: row for row in baseline}

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

    @property
    def reached(self) -> int:
        """The number of seeds that meet the target."""
        return sum(bool(run["steps_to_target"]) for run in self.runs if run["seed"] in self._base)

    def median(self, cost: Callable[[Row], float]) -> float | None:
        """Return the median of a cost until the target; None if the median seed never meets it."""
        values = [
            cost(run) if run["steps_to_target"] else math.inf
            for run in self.runs
            if run["seed"] in self._base
        ]
        middle = median(values or [math.inf])
        return middle if math.isfinite(middle) else None

    def factor(self, cost: Callable[[Row], float]) -> float | None:
        """Return the median over the seeds of the baseline's cost over that of the method."""
        if self.median(cost) is None:
            return None
        factors = []
        for run in self.runs:
            if (base := self._base.get(run["seed"])) is None:
                continue
            ours = cost(run) if run["steps_to_target"] else math.inf
            # An untrained model that meets the target is no speed-up.
            factors.append(cost(base) / ours if ours > 0 else 1.0)
        return median(factors)

    def share(self, name: str) -> float | None:
        """Return the mean share of the selected examples that `name` counts."""
        if any(not run[name] for run in self.runs):
            return None
        return fmean(float(run[name]) / float(run["selected"]) for run in self.runs)


def steps(run: Row) -> float:
    """Steps until the target."""
    return float(run["steps_to_target"])


def counted(rows: Iterable[Row]) -> bool:
    """Return whether rows have costs; those of earlier runs have seconds alone."""
    return all(row.get("cost") for row in rows)


def cost(run: Row) -> float:
    """Cost until the target, with precomputed IL; of earlier rows the seconds."""
    return float(run.get("cost_to_target") or run["seconds_to_target"])


def cost_with_il(run: Row) -> float:
    """Cost until the target, IL included; of earlier rows the seconds."""
    return cost(run) + float(run.get("il_cost") or run["il_seconds"])


def earlier(name: str) -> str:
    """Return the name that a method at equal cost had in rows of earlier runs."""
    return name.replace("_cost", "_minutes")


def methods(rows: Sequence[Row], baseline: str) -> dict[str, Method]:
    """Return the methods of a cell by name, in the order of the rows."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["method"], []).append(row)
    base = by_name.get(baseline, [])
    return {name: Method(runs, base) for name, runs in by_name.items()}
