"""Cost of a step for every scoring option, and when selection pays."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

# Options that differ by less are within what the same measurement differs by.
_ALIKE = 1.05
# Ratios n_B / n_b at which selection won in time in a first comparison.
_FIRST = (3, 5)
_SECONDS = ("load", "score", "select", "train", "step")


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """Median seconds of a step, for one scoring option and one size of the large batch.

    `load` is for loading n_B examples, `score` for the forward passes, `select` for the rest of the
    Selector, `train` for the step on n_b examples, `step` for all, where workers may load beside
    the rest, `uniform` for a step without selection. On CUDA `score` only launches the passes.
    """

    option: str
    ratio: int
    large_batch: int
    load: float
    score: float
    select: float
    train: float
    step: float
    uniform: float

    @property
    def cost(self) -> float:
        """Cost of a step in uniform steps: to break even it must need that many times fewer."""
        return self.step / self.uniform

    def break_even(self, il_seconds: float, steps: int) -> float:
        """Return how many times fewer steps it must need with the IL cost included.

        `c / (1 - T_il / (S t_u))` with c = `cost`, T_il = `il_seconds`, and S = `steps` uniform
        steps of t_u seconds; infinite if the irreducible losses alone take as long.

        Example:
            >>> row = PlanRow(option="plain", ratio=2, large_batch=64, load=1.0, score=2.0,
            ...     select=0.5, train=3.0, step=6.5, uniform=4.0)
            >>> row.cost, row.break_even(20.0, 10), row.break_even(40.0, 10)
            (1.625, 3.25, inf)
        """
        left = 1.0 - il_seconds / (steps * self.uniform)
        return self.cost / left if left > 0.0 else math.inf


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Measurements of `plan`, printed as a table.

    `small_batch` is n_b; `load`, `train` and `uniform` are the seconds of a uniform step;
    `il_seconds` is the IL cost over `steps` of them; `notes` say what was not measured, and why.
    """

    small_batch: int
    load: float
    train: float
    uniform: float
    workers: int
    il_seconds: float
    steps: int
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...]

    @property
    def cheapest(self) -> dict[int, PlanRow]:
        """The row to use for each n_B / n_b: the first within 5 % of the lowest cost."""
        found = {}
        for ratio in dict.fromkeys(row.ratio for row in self.rows):
            here = [row for row in self.rows if row.ratio == ratio]
            least = min(row.step for row in here)
            found[ratio] = next(row for row in here if row.step <= _ALIKE * least)
        return found

    @property
    def first(self) -> PlanRow:
        """The row to try first: the cheapest with n_B of 3 to 5 times n_b, if there is one."""
        cheapest = self.cheapest
        usual = [row for ratio, row in cheapest.items() if _FIRST[0] <= ratio <= _FIRST[1]]
        return min(usual or cheapest.values(), key=lambda row: row.step)

    def to_json(self) -> str:
        """Return everything that was measured and follows from it; null where it never pays."""
        values = asdict(self)
        for row, shown in zip(self.rows, values["rows"], strict=True):
            even = row.break_even(self.il_seconds, self.steps)
            shown |= {"cost": row.cost, "break_even_with_il": None if math.isinf(even) else even}
        values["cheapest"] = {str(ratio): row.option for ratio, row in self.cheapest.items()}
        values["first"] = {"option": self.first.option, "large_batch": self.first.large_batch}
        return json.dumps(values, indent=2)

    def __str__(self) -> str:
        parts = "".join(f"{name:>9}" for name in _SECONDS)
        head = f"{'scoring':<13}{'n_B':>6}{parts}{'x uniform':>11}{'with IL':>9}"
        lines = [
            f"A uniform step on {self.small_batch} examples takes {_ms(self.uniform)} ms: loading "
            f"{_ms(self.load)}, training {_ms(self.train)}.\n",
            f"{head}   (milliseconds)",
            "-" * len(head),
        ]
        for row in self.rows:
            even = row.break_even(self.il_seconds, self.steps)
            times = "".join(f"{_ms(getattr(row, name)):>9}" for name in _SECONDS)
            costs = f"{row.cost:>11.2f}{'never' if math.isinf(even) else f'{even:.2f}':>9}"
            lines.append(f"{row.option:<13}{row.large_batch:>6}{times}{costs}")
        lines += [
            "\nx uniform: cost in uniform steps; selection pays if it needs that many times fewer",
            f"with IL: with the IL cost of {self.il_seconds:g} s in {self.steps:,} uniform steps\n",
        ]
        lines += [
            f"n_B = {ratio} n_b: {row.option} is cheapest, {row.cost:.2f} uniform steps"
            for ratio, row in self.cheapest.items()
        ]
        return "\n".join([*lines, *self.notes, *self._advice()])

    def _advice(self) -> tuple[str, str]:
        row = self.first
        size, work = row.large_batch, row.score + row.select + row.train
        even = row.break_even(self.il_seconds, self.steps)
        rate = f"The loader gives {size / row.load:,.0f} examples a second"
        if row.load > work:
            rate += f", slower than the rest of the step uses {size}: "
            rate += "make it faster first (more workers, data in memory)"
        else:
            plain, share = self.load / (self.load + self.train), row.load / (row.load + work)
            rate += f" and takes {plain:.0%} of a uniform step, {share:.0%} of one with {size}"
            rate += ", beside it" if self.workers else ""
        advice = f"Try first: large batches of {size}, {row.option} scoring; it pays if it needs "
        advice += f"{row.cost:.2f} times fewer steps"
        if self.il_seconds > 0.0:
            with_il = "never pays" if math.isinf(even) else f"needs {even:.2f} times fewer"
            advice += f"; with the IL cost included it {with_il}"
        return rate, advice


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{3 if seconds < 1e-2 else 1}f}"
