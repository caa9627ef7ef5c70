"""Read a comparison; every number that weighs its methods is defined here, and by cost."""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median_high, median_low, stdev
from typing import Any, NamedTuple

from rho_train.comparison.jobs import run_path
from rho_train.files import from_line, read_lines

Record = dict[str, Any]
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


@dataclass(frozen=True)
class Run:
    """A finished run: its records by event, the result on the test set, and what was selected.

    The unit of all costs is a uniform step of the baseline with this seed.
    """

    seed: int
    train: Sequence[Record]
    eval: Sequence[Record]
    end: Record
    test: Record
    selected: Record

    @property
    def best(self) -> Record:
        """The first evaluation with the highest accuracy."""
        return max(self.eval, key=lambda record: record["accuracy"])


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
class Experiment:
    """A comparison, as experiment.json has it, with its finished runs by method, in order.

    `left_out` says why other runs are none of them; `watched` names the examples of the curves,
    `test` or `validation`.
    """

    title: str
    description: str
    labels: Mapping[str, str]
    seeds: Sequence[int]
    baseline: str
    config: Mapping[str, Any]
    environment: Mapping[str, object]
    watched: str
    runs: Mapping[str, Sequence[Run]]
    left_out: Sequence[str]

    @cached_property
    def _base(self) -> Mapping[int, Run]:
        """The baseline's runs by seed; one method has nothing to be compared with."""
        own = self.runs.get(self.baseline, ()) if len(self.labels) > 1 else ()
        return {run.seed: run for run in own}

    @cached_property
    def methods(self) -> dict[str, dict[str, Any]]:
        """The numbers of each method, in display order.

        They are over its finished seeds, as `tables` explain them, NaN where there is nothing to
        measure; accuracies and shares lie in [0, 1]. Of the `paired` seeds, which the baseline
        finished too, it ends above the baseline in `ahead`, by `gain` in the mean.
        """
        return {name: self._method(name) for name in self.labels}

    @property
    def target(self) -> float:
        """The baseline's best accuracy (mean over seeds), NaN for one method."""
        return _mean(run.best["accuracy"] for run in self._base.values())

    @property
    def noisy(self) -> float:
        """The share of wrong labels in the baseline's training examples."""
        return _mean(run.end["noisy"] for run in self.runs.get(self.baseline, ()))

    @property
    def target_meaning(self) -> str:
        """The target in words; empty for one method."""
        of = f"{self.watched} accuracy of “{self.labels[self.baseline]}”"
        best = f"the best {of} with the same seed"
        return "" if math.isnan(self.target) else f"{best} ({percent(self.target)}% on average)"

    @property
    def tables(self) -> dict[str, list[Column]]:
        """The columns in which a method has a value, by table."""
        words = {"base": self.labels[self.baseline], "watched": self.watched}
        rows, shown = self.methods.values(), {}
        for title, columns in _TABLES.items():
            made = [
                Column(head, meaning.format(**words), [_cell(head, name, row) for row in rows])
                for head, (name, meaning) in columns.items()
                if name != "accuracy" or self.watched != "test"
            ]
            shown[title] = [column for column in made if {*column.cells} != {"-"}]
        return {title: columns for title, columns in shown.items() if columns}

    def __str__(self) -> str:
        """Return the tables for a console, at most 110 columns wide."""
        notes = [f"Target: {self.target_meaning}."] if self.target_meaning else []
        notes += [f"Left out: {text}." for text in self.left_out]
        tables = "\n\n".join(map(self._format, self.tables.values()))
        return "\n".join([tables, *(textwrap.fill(note, _WIDTH) for note in notes)])

    def _format(self, columns: list[Column]) -> str:
        widths = [max(7, *map(len, (*c.head.split(), *c.cells))) for c in columns]
        heads = [textwrap.wrap(c.head, w) for c, w in zip(columns, widths, strict=True)]
        above, room = max(map(len, heads)), _WIDTH - sum(widths) - 2 * len(widths)
        labels = [row["label"] for row in self.methods.values()]
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
        text, rows = io.StringIO(), self.methods.values()
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(text, [*names, "target"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            numbers = (row | {"target": self.target}).items()
            writer.writerow({k: "" if v != v or v == math.inf else v for k, v in numbers})
        return text.getvalue()

    def _method(self, name: str) -> dict[str, Any]:
        runs, baseline = self.runs.get(name, ()), self._base
        ends = {run.seed: run.eval[-1]["accuracy"] for run in runs}
        tests = [run.test["accuracy"] for run in runs]
        classes = [[c for c in run.test["class_accuracy"] if c is not None] for run in runs]
        gains = [ends[s] - base.eval[-1]["accuracy"] for s, base in baseline.items() if s in ends]
        pairs = [pair(run, baseline[run.seed]) for run in runs if run.seed in baseline]
        costs = [run.end["cost"] for run in runs]
        parts = next(iter(costs), ())
        return {
            "method": name,
            "label": self.labels[name],
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
            **{f"cost_{part}": _mean(cost[part] for cost in costs) for part in parts},
        }


def read_experiment(out: Path) -> Experiment:
    """Read the comparison in the folder `out`: `experiment.json` and what its runs wrote.

    A run that is not finished (killed, still running) is no error but named in `left_out`.

    Raises:
        ValueError: a file is missing or damaged, with its name and the fix; no run is finished.
        OSError: a file cannot be opened.

    Examples:
        >>> read_experiment(Path("nowhere"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: read_experiment: nowhere/experiment.json is missing; give the folder ...
    """
    path = Path(out) / "experiment.json"
    if not path.is_file():
        raise ValueError(f"read_experiment: {path} is missing; give the folder of a comparison")
    plan = from_line(path.read_bytes(), path)
    labels = {method["name"]: method["label"] for method in plan["methods"]}
    runs, left_out = defaultdict[str, list[Run]](list), []
    for name, label in labels.items():
        for seed in plan["seeds"]:
            found = _read_run(run_path(out, name, seed), name, seed, plan["step_cost"][f"{seed}"])
            if isinstance(found, Run):
                runs[name].append(found)
            else:
                left_out.append(f"{label}, seed {seed}: {found}")
    if not runs:
        raise ValueError(
            f"read_experiment: {path.with_name('runs')} has no finished run; let at least one "
            "finish, then write the report again"
        )
    kept = ("title", "description", "seeds", "baseline", "config", "environment")
    watched = "validation" if plan["config"]["validation"] > 0 else "test"
    own: Any = {key: plan[key] for key in kept}
    return Experiment(**own, labels=labels, watched=watched, runs=dict(runs), left_out=left_out)


def _read_run(folder: Path, method: str, seed: int, step_cost: float) -> Run | str:
    """Return the run in a folder, or why it is not finished."""
    path = folder / "metrics.jsonl"
    records = read_lines(path) if path.exists() else []
    if not records:
        return "no record"
    *_, end = records
    if (end["method"], end["seed"]) != (method, seed):
        raise ValueError(
            f"read_experiment: {path} is of {end['method']}, seed {end['seed']}, not of {method}, "
            f"seed {seed}; move its folder away and run it again"
        )
    if end["event"] != "end":
        return f"unfinished, last record at step {end['step']:,}"
    test, selected = folder / "test.json", folder / "selected.json"
    if not test.exists():
        return "not tested"
    for record in records:
        # A model in which torch can count no work has a step of cost 0.
        costs = record.get("cost", {}).items()
        record["cost"] = {part: cost / (step_cost or 1.0) for part, cost in costs}
    return Run(
        seed=seed,
        train=[record for record in records if record["event"] == "train"],
        eval=[record for record in records if record["event"] == "eval"],
        end=end,
        test=from_line(test.read_bytes(), test),
        selected=from_line(selected.read_bytes(), selected) if selected.exists() else {},
    )


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
