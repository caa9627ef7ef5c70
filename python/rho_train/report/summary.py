"""The numbers of a comparison; every one that weighs methods is defined here, and by cost."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_high, median_low, stdev
from typing import Any, NamedTuple

from rho_train.report.read import Experiment, Run

_WIDTH = 110  # of a console
# By head: the name of the number, and what it means.
_TABLES = {
    "The numbers": {
        "Validation accuracy, %": ("accuracy", "On examples set aside, wrong labels included."),
        "Test accuracy, %": ("test", "After the last step; ±: standard error over the seeds."),
        "Balanced, %": ("balanced", "Test accuracy with all classes weighted alike."),
        "Worst class, %": ("worst", "Test accuracy of the class with the lowest."),
        "Wrong labels, %": ("noisy", "Share of wrong labels among the selected examples."),
        "Already correct, %": ("correct", "Share of these that the model had right before."),
    },
    "Where the cost went": {
        "Steps": ("steps", "Of the whole run, as cost and seconds."),
        "Cost": (
            "total",
            "Counted, IL included, in uniform steps: the multiply-adds of all forward passes, a "
            "backward pass as two, over those of a training step of “{base}”. Evaluations count "
            "nothing. It is the same on every machine.",
        ),
        "Cost of training": ("cost_training", "Part of the cost."),
        "Cost of scoring": ("cost_scoring", "Part of the cost."),
        "Cost of IL": ("cost_il", "Part of the cost; 0 for precomputed IL."),
        "Seconds": ("seconds", "Wall-clock, IL included, without evaluation."),
    },
    "Does it pay?": {
        "Target reached": ("reached", "Seeds in which the target is met at all."),
        "Steps to target": (
            "target_steps",
            "Until the {watched} accuracy first meets the target: median over the seeds, where one "
            "that never meets it is the latest.",
        ),
        "Cost to target": ("target_cost", "Cost until then, IL included."),
        "Times cheaper": (
            "factor",
            "The baseline's cost to the target over this cost, seed by seed: below 1 it is dearer.",
        ),
        "Times cheaper, precomputed IL": (
            "factor_precomputed",
            "The same without the cost of IL, as when many models share them.",
        ),
        "Pays after models": ("models", "So many models with the same IL earn back their cost."),
    },
}


class Pair(NamedTuple):
    """A run beside the baseline's with the same seed, whose best accuracy is the target.

    Steps and cost to it are infinite if it is never met. `factor`, above 1 where the run is
    cheaper, is then 0. `factor_precomputed` and `models`, infinite if the IL are never earned back,
    are NaN without IL.
    """

    target_steps: float
    target_cost: float
    factor: float
    factor_precomputed: float
    models: float


class Column(NamedTuple):
    """One column of a table: its head, what it means, and a text for each method."""

    head: str
    meaning: str
    cells: list[str]


@dataclass(frozen=True)
class Summary:
    """All methods in display order, and what they are compared with.

    A row has the numbers of one method over its finished seeds, as `tables` explain them, NaN where
    there is nothing to measure; accuracies and shares lie in [0, 1]. Of the `paired` seeds, which
    the baseline finished too, it ends above the baseline in `ahead`, by `gain` in the mean.
    `target` is the baseline's best accuracy (mean over seeds), NaN for one method; `noisy` the
    share of wrong labels in its training examples.
    """

    experiment: Experiment
    methods: Sequence[dict[str, Any]]
    baseline: Mapping[str, Any]
    target: float
    noisy: float

    @property
    def target_meaning(self) -> str:
        """The target in words; empty for one method."""
        of = f"{self.experiment.watched} accuracy of “{self.baseline['label']}”"
        best = f"the best {of} with the same seed"
        return "" if math.isnan(self.target) else f"{best} ({percent(self.target)}% on average)"

    @property
    def tables(self) -> dict[str, list[Column]]:
        """The columns in which a method has a value, by table."""
        words = {"base": self.baseline["label"], "watched": self.experiment.watched}
        shown = {}
        for title, columns in _TABLES.items():
            made = [
                Column(head, meaning.format(**words), [_cell(head, name, m) for m in self.methods])
                for head, (name, meaning) in columns.items()
                if name != "accuracy" or self.experiment.watched != "test"
            ]
            shown[title] = [column for column in made if {*column.cells} != {"-"}]
        return {title: columns for title, columns in shown.items() if columns}

    def __str__(self) -> str:
        """Return the tables for a console, at most 110 columns wide."""
        notes = [f"Target: {self.target_meaning}."] if self.target_meaning else []
        notes += [f"Left out: {text}." for text in self.experiment.left_out]
        tables = "\n\n".join(map(self._format, self.tables.values()))
        return "\n".join([tables, *(textwrap.fill(note, _WIDTH) for note in notes)])

    def _format(self, columns: list[Column]) -> str:
        widths = [max(7, *map(len, (*c.head.split(), *c.cells))) for c in columns]
        heads = [textwrap.wrap(c.head, w) for c, w in zip(columns, widths, strict=True)]
        above, room = max(map(len, heads)), _WIDTH - sum(widths) - 2 * len(widths)
        labels = [row["label"] for row in self.methods]
        names = [label if len(label) <= room else f"{label[: room - 1]}…" for label in labels]
        texts = [[""] * (above - 1) + ["Method", *names]]
        for column, head in zip(columns, heads, strict=True):
            texts.append([""] * (above - len(head)) + head + column.cells)
        first = max(map(len, texts[0]))
        lines = [
            "  ".join([name.ljust(first), *map(str.rjust, cells, widths)])
            for name, *cells in zip(*texts, strict=True)
        ]
        return "\n".join([*lines[:above], "-" * len(lines[0]), *lines[above:]])

    def as_csv(self) -> str:
        """Return the numbers, unrounded, a method a line; empty where there is none."""
        text, names = io.StringIO(), dict.fromkeys(name for row in self.methods for name in row)
        writer = csv.DictWriter(text, [*names, "target"], lineterminator="\n")
        writer.writeheader()
        for row in self.methods:
            numbers = (row | {"target": self.target}).items()
            writer.writerow({k: "" if v != v or v == math.inf else v for k, v in numbers})
        return text.getvalue()


def percent(mean: float, error: float = math.nan) -> str:
    """Return a mean with its standard error, in percent.

    Examples:
        >>> percent(0.8125, 0.004), percent(0.8125), percent(math.nan)
        ('81.2 ± 0.4', '81.2', '-')
    """
    spread = "" if math.isnan(error) else f" ± {100 * error:.1f}"
    return "-" if math.isnan(mean) else f"{100 * mean:.1f}{spread}"


def _cell(head: str, name: str, row: Mapping[str, Any]) -> str:
    value, is_factor = row.get(name, math.nan), head.startswith("Times")
    if head.endswith("%"):
        return percent(value, row.get(f"{name}_error", math.nan))
    if name == "reached":
        return f"{value} of {row['paired']}" if row["paired"] else "-"
    if not math.isfinite(value) or (is_factor and not value):
        return "-" if math.isnan(value) else "never"
    if is_factor:
        return f"{value:.2f}x"
    return f"{value:,.{1 if name in ('seconds', 'models') and value < 100 else 0}f}"


def summarize(experiment: Experiment) -> Summary:
    """Summarise the finished runs; every comparison with the baseline is made seed by seed.

    Examples:
        >>> summary = summarize(read_experiment(out))  # doctest: +SKIP
        >>> summary.baseline["accuracy"]  # doctest: +SKIP
    """
    own = experiment.runs.get(experiment.baseline, ())
    # One method has nothing to be compared with.
    base = {run.seed: run for run in own} if len(experiment.labels) > 1 else {}
    rows = {name: _method(experiment, name, base) for name in experiment.labels}
    return Summary(
        experiment,
        methods=list(rows.values()),
        baseline=rows[experiment.baseline],
        target=_mean(run.best["accuracy"] for run in base.values()),
        noisy=_mean(run.end["noisy"] for run in own),
    )


def pair(run: Run, base: Run) -> Pair:
    """Weigh a run against the baseline's with the same seed."""
    best = base.best
    mine = next((e for e in run.eval if e["accuracy"] >= best["accuracy"]), None)
    il, base_il = run.end["cost"]["il"], best["cost"]["il"]
    cost = math.inf if mine is None else sum(mine["cost"].values())
    base_cost = sum(best["cost"].values())
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


def _method(experiment: Experiment, name: str, baseline: Mapping[int, Run]) -> dict[str, Any]:
    runs = experiment.runs.get(name, ())
    ends = {run.seed: run.eval[-1]["accuracy"] for run in runs}
    tests = [run.test["accuracy"] for run in runs]
    classes = [[c for c in run.test["class_accuracy"] if c is not None] for run in runs]
    gains = [ends[s] - base.eval[-1]["accuracy"] for s, base in baseline.items() if s in ends]
    pairs = [pair(run, baseline[run.seed]) for run in runs if run.seed in baseline]
    costs = [run.end["cost"] for run in runs]
    return {
        "method": name,
        "label": experiment.labels[name],
        "finished": len(runs),
        "accuracy": _mean(ends.values()),
        "accuracy_error": _error([*ends.values()]),
        "test": _mean(tests),
        "test_error": _error(tests),
        "balanced": _mean(map(fmean, classes)),
        "worst": _mean(map(min, classes)),
        "noisy": _mean(_share(run, "noisy") for run in runs),
        "correct": _mean(_share(run, "correct") for run in runs),
        "steps": _mean(run.end["step"] for run in runs),
        "total": _mean(sum(cost.values()) for cost in costs),
        "seconds": _mean(run.end["seconds"] + run.end["il_seconds"] for run in runs),
        "paired": len(pairs),
        "reached": sum(one.factor > 0 for one in pairs),
        "ahead": sum(gain > 0 for gain in gains),
        "gain": _mean(gains),
        **_medians(pairs)._asdict(),
        **{f"cost_{part}": _mean(cost[part] for cost in costs) for part in next(iter(costs), ())},
    }


def _medians(pairs: Sequence[Pair]) -> Pair:
    """Return medians that agree: a factor is 1 or more where one model or fewer earn the IL back.

    Between a seed that never meets the target and one that does, the median is the one that never.
    """
    columns = zip(Pair._fields, zip(*pairs or [Pair(*[math.nan] * 5)], strict=True), strict=True)
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
