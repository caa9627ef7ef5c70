"""The learning rates that a tuning suite chose."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Rates:
    """The best learning rates of the kinds of methods in a `cell` of a tuning suite.

    Kinds are uniform sampling and selection, each with a constant and with a decayed rate; the best
    rate has the highest accuracy on the validation split. A full suite takes them from the quick
    tuning where the full one was not run.
    """

    suite: str
    variant: str
    cell: str

    def give(self, methods: Sequence[dict[str, Any]]) -> None:
        """Give each method without a `train.lr` of its own the best one of its kind.

        Raises:
            ValueError: the tuning has no results, or not all of the cell.
        """
        best = _best(self.suite, self.variant, self.cell)
        for method in methods:
            kind = "uniform_all" if method["select"] == "uniform" else "rho_crossfit"
            if method["overrides"].get("train.schedule", "constant") != "constant":
                kind += "_decay"
            if "train.lr" not in method["overrides"]:
                if kind not in best:
                    raise ValueError(
                        f"rates of {self.suite}: {self.cell!r} has no results for {kind}; run it"
                    )
                method["overrides"]["train.lr"] = best[kind]


def _best(suite: str, variant: str, cell: str) -> dict[str, float]:
    """Return the best rate of each kind, from the table of methods."""
    paths = [_RESULTS / f"{suite}-{of}" / "methods.csv" for of in (variant, "quick")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ValueError(f"rates of {suite}: it has no results yet; run it and keep its results")
    found: dict[str, dict[float, float]] = {}
    seeds = set()
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["cell"] == cell:
                kind, _, rate = row["method"].partition("-lr-")
                found.setdefault(kind, {})[float(rate)] = float(row["validation"])
                seeds.add(row["seeds"])
    if not found:
        raise ValueError(f"rates of {suite}: {path.parent.name} has no results for {cell!r}")
    if len(seeds) > 1 or len({frozenset(of) for of in found.values()}) > 1:
        raise ValueError(
            f"rates of {suite}: {path.parent.name} has not all results for {cell!r}; run it again"
        )
    return {kind: max(of, key=of.__getitem__) for kind, of in found.items()}
