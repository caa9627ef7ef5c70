"""A plan: what a step costs with every way to score, and when that pays."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

# Two ways that differ by less are within what the same measurement differs by.
_ALIKE = 1.05
# Where selection won in minutes in a first comparison, in times n_b.
_FIRST = (3, 5)


def together(load: float, work: float, overlaps: bool) -> float:
    """Return the seconds of a step that loads and works, at the same time if it `overlaps`."""
    return max(load, work) if overlaps else load + work


@dataclass(frozen=True)
class PlanRow:
    """The medians of one way to score with one size of the large batch, in seconds a step.

    `load` is the loader's time for n_B points, `score` that of the forward passes, `select` the
    rest of the Selector, `train` the step on n_b points after it; `overlaps` says whether loading
    runs beside the rest, in worker processes; `uniform` is the whole step without selection. On
    CUDA `score` is launching the forward passes, and `select` waits for them too.
    """

    option: str
    ratio: int
    large_batch: int
    load: float
    score: float
    select: float
    train: float
    overlaps: bool
    uniform: float

    @property
    def work(self) -> float:
        """Seconds of a step without loading."""
        return self.score + self.select + self.train

    @property
    def step(self) -> float:
        """Seconds of a whole step."""
        return together(self.load, self.work, self.overlaps)

    @property
    def cost(self) -> float:
        """Uniform steps that a step costs: how many times fewer it must need to break even."""
        return self.step / self.uniform

    def break_even(self, il_seconds: float, steps: int) -> float:
        """Return how many times fewer steps it must need if the irreducible losses are charged.

        `c / (1 - T_il / (S t_u))` with c = `cost`, T_il = `il_seconds`, and S = `steps` uniform
        steps of t_u seconds: in their time selection makes `(S t_u - T_il) / (c t_u)` steps.
        Infinite if the irreducible losses alone take as long.

        Example:
            >>> row = PlanRow("plain", 2, 64, 1.0, 2.0, 0.5, 3.0, False, 4.0)
            >>> row.cost, row.break_even(20.0, 10), row.break_even(40.0, 10)
            (1.625, 3.25, inf)
        """
        left = 1.0 - il_seconds / (steps * self.uniform)
        return self.cost / left if left > 0.0 else math.inf


@dataclass(frozen=True)
class Plan:
    """What `plan` measured; printed as a table.

    `small_batch` is n_b; `load` and `train` are the seconds of a uniform step, which selection is
    compared to; `workers` of the loader; `il_seconds` is charged over `steps` uniform steps;
    `notes` say what could not be measured, and why.
    """

    small_batch: int
    load: float
    train: float
    workers: int
    il_seconds: float
    steps: int
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...]

    @property
    def uniform(self) -> float:
        """Seconds of a uniform step."""
        return together(self.load, self.train, self.workers > 0)

    @property
    def cheapest(self) -> dict[int, PlanRow]:
        """The row to choose for each n_B / n_b: the first that costs as little as any.

        Differences under 5 % do not count, and plain scoring comes first.
        """
        chosen = {}
        for ratio in dict.fromkeys(row.ratio for row in self.rows):
            here = [row for row in self.rows if row.ratio == ratio]
            least = min(row.step for row in here)
            chosen[ratio] = next(row for row in here if row.step <= _ALIKE * least)
        return chosen

    @property
    def first(self) -> PlanRow:
        """The row to try first: the cheapest with n_B of 3 to 5 times n_b, if there is one."""
        cheapest = self.cheapest
        usual = [row for ratio, row in cheapest.items() if _FIRST[0] <= ratio <= _FIRST[1]]
        return min(usual or cheapest.values(), key=lambda row: row.step)

    def to_json(self) -> str:
        """Return everything that was measured and follows from it; null where it never pays."""
        rows = []
        for row in self.rows:
            even = row.break_even(self.il_seconds, self.steps)
            follows = {"step": row.step, "cost": row.cost}
            charged = None if math.isinf(even) else even
            rows.append({**asdict(row), **follows, "break_even_with_il": charged})
        best = {str(ratio): row.option for ratio, row in self.cheapest.items()}
        first = {"option": self.first.option, "large_batch": self.first.large_batch}
        follows_all = {"rows": rows, "uniform": self.uniform, "cheapest": best, "first": first}
        return json.dumps({**asdict(self), **follows_all}, indent=2)

    def __str__(self) -> str:
        head = (
            f"{'scoring':<13}{'n_B':>6}{'load':>9}{'score':>9}{'select':>9}{'train':>9}"
            f"{'step':>9}{'x uniform':>11}{'with IL':>9}"
        )
        lines = [
            f"A uniform step on {self.small_batch} points takes {_ms(self.uniform)} ms: loading "
            f"{_ms(self.load)}, training {_ms(self.train)}.{self._beside()}",
            "",
            f"{head}   (milliseconds)",
            "-" * len(head),
        ]
        for row in self.rows:
            even = row.break_even(self.il_seconds, self.steps)
            times = (row.load, row.score, row.select, row.train, row.step)
            lines.append(
                f"{row.option:<13}{row.large_batch:>6}"
                + "".join(f"{_ms(seconds):>9}" for seconds in times)
                + f"{row.cost:>11.2f}"
                + f"{'never' if math.isinf(even) else f'{even:.2f}':>9}"
            )
        lines += [
            "",
            "x uniform: what a step costs, and how many times fewer steps it must need to pay, the "
            "irreducible",
            f"losses (IL) at hand; with IL: charged with {self.il_seconds:g} s over "
            f"{self.steps:,} uniform steps.",
            "",
        ]
        lines += [
            f"n_B = {ratio} n_b: {row.option} is cheapest, {row.cost:.2f} uniform steps"
            for ratio, row in self.cheapest.items()
        ]
        return "\n".join([*lines, *self.notes, self._loader(), self._advice()])

    def _beside(self) -> str:
        return " The workers load beside the step." if self.workers else ""

    def _loader(self) -> str:
        row = self.first
        rate = f"The loader gives {row.large_batch / row.load:,.0f} points a second"
        if row.load > row.work:
            return (
                f"{rate}, slower than the rest of the step uses {row.large_batch}: make it faster "
                "first (more workers, data in memory), or selection waits for it"
            )
        return (
            f"{rate} and takes {self.load / (self.load + self.train):.0%} of a uniform step, "
            f"{row.load / (row.load + row.work):.0%} of one with {row.large_batch}"
            f"{', beside it' if self.workers else ''}"
        )

    def _advice(self) -> str:
        row = self.first
        even = row.break_even(self.il_seconds, self.steps)
        advice = (
            f"Try first: large batches of {row.large_batch}, {row.option} scoring; it pays if it "
            f"needs {row.cost:.2f} times fewer steps"
        )
        if self.il_seconds == 0.0:
            return advice
        if math.isinf(even):
            return f"{advice} with the IL at hand; charged to this run alone it never pays"
        return f"{advice}, {even:.2f} times with the IL charged to this run alone"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{3 if seconds < 1e-2 else 1}f}"
