"""The numbers of a suite as CSV files: runs, methods, paired differences, curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rho_train.files import atomic_write
from rho_train.report import compare, read_outcomes
from rho_train.report.compare import first_at
from rho_train.report.outcomes import SHARES, Outcome, Outcomes, by_seed
from suite import Cell, Suite

Row = dict[str, object]
TABLES = ("runs", "methods", "paired", "curves")


@dataclass(frozen=True)
class Tables:
    """What the page of a suite is made from; every value is text, as a CSV file has it."""

    runs: list[dict[str, str]]
    methods: list[dict[str, str]]
    paired: list[dict[str, str]]
    curves: list[dict[str, str]]


def write_tables(
    suite: Suite, data: Path, out: Path, results: Path, command: str, refused: Collection[str] = ()
) -> None:
    """Write the tables of the finished runs in `out` to `results`.

    A cell keeps the rows that it has there while `out` has fewer runs of it, as after a stop, and
    where its name is `refused`: its folder in `out` is of another experiment.
    """
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    targets, before = _targets(suite, data), read_tables(results)
    for cell in suite.cells:
        kept = {name: in_cell(getattr(before, name), cell.name) for name in TABLES}
        outcomes = None if cell.name in refused else _outcomes(out / cell.slug, targets)
        wanted = len(cell.values["methods"]) * len(cell.values["seeds"])
        if outcomes is None or len(outcomes.runs) < min(wanted, len(kept["runs"])):
            for name, found in kept.items():
                rows[name] += found
            continue
        where: Row = {"suite": suite.name, "variant": suite.variant, "cell": cell.name}
        rows["runs"] += [{**where, **row} for row in _runs(suite, cell, outcomes, command)]
        rows["methods"] += [{**where, **row} for row in _methods(suite, outcomes)]
        rows["paired"] += [{**where, **row} for row in _paired(suite, outcomes)]
        rows["curves"] += [{**where, **row} for row in _curves(outcomes)]
    if rows["runs"]:
        results.mkdir(parents=True, exist_ok=True)
        for name, found in rows.items():
            atomic_write(results / f"{name}.csv", _text_of(found))


def read_tables(results: Path) -> Tables:
    """Read what `write_tables` wrote."""
    return Tables(*(_read(results / f"{name}.csv") for name in TABLES))


def _outcomes(folder: Path, targets: Mapping[str, int]) -> Outcomes | None:
    """The finished runs of a cell, each with the number of targets of its IL, if there are any."""
    if not (folder / "experiment.json").exists():
        return None
    outcomes = read_outcomes(folder)
    runs = (replace(run, targets=targets.get(run.il, 1)) for run in outcomes.runs)
    return replace(outcomes, runs=tuple(runs)) if outcomes.runs else None


def _runs(suite: Suite, cell: Cell, outcomes: Outcomes, command: str) -> Iterator[Row]:
    base = by_seed(outcomes.runs, outcomes.baseline)
    for run in outcomes.runs:
        target = base[run.seed].looks[-1].accuracy if run.seed in base else None
        hit = None if target is None else first_at(run, target)
        counts: Mapping[str, int] = {
            name: sum(of.get(name, 0) for _, of in run.counts)
            for name in ("selected", *SHARES)
            if all(name in of for _, of in run.counts)
        }
        origin = run.origin
        yield {
            "method": run.method,
            "seed": run.seed,
            "steps": run.steps,
            # Nothing of the test set where options are chosen.
            "test_accuracy": None if suite.tune else run.test,
            "worst_class_accuracy": None if suite.tune else run.worst_class,
            "validation_accuracy": run.looks[-1].accuracy if outcomes.validated else None,
            "target": target,
            "steps_to_target": None if hit is None else hit.step,
            "seconds_to_target": None if hit is None else hit.seconds,
            "seconds": run.seconds,
            "il_seconds": run.il_seconds,
            "targets_of_il": run.targets,
            **{name: counts.get(name) for name in ("selected", *SHARES)},
            "parameters": _part(origin, "model", "parameters"),
            "flops": _part(origin, "model", "flops"),
            "il_parameters": _part(origin, "il_model", "parameters"),
            "il_flops": _part(origin, "il_model", "flops"),
            "il_loss": _part(origin, "il_model", "loss"),
            "command": command,
            "date": origin.get("date"),
            "commit": origin.get("commit"),
            "machine": origin.get("processor"),
            "processes": origin.get("processes"),
            "threads": origin.get("threads per process"),
            "isa": origin.get("instruction set"),
            "torch": origin.get("torch"),
            "rho_ext": origin.get("rho_ext"),
            "python": origin.get("python"),
            "resumed": "; ".join(
                f"{k}: {v}" for k, v in outcomes.environment.items() if k.startswith("resumed")
            ),
        }


def _methods(suite: Suite, outcomes: Outcomes) -> Iterator[Row]:
    ends = _ends(outcomes.runs)
    for row in compare(outcomes.runs, outcomes.baseline):
        yield {
            "method": row.method,
            "label": outcomes.labels[row.method],
            "seeds": row.finished,
            "steps": row.steps_made,
            "validation": ends[row.method] if outcomes.validated else None,
            "il_loss": _il_loss(outcomes.runs, row.method),
            "test": None if suite.tune else row.test,
            "test_error": None if suite.tune else row.test_error,
            "worst_class": None if suite.tune else row.worst_class,
            "reached": row.reached,
            "steps_to_target": row.steps,
            "factor": row.factor,
            "factor_reused": row.factor_reused,
            "factor_charged": row.factor_charged,
            "seconds_to_target_reused": row.seconds_reused,
            "seconds_to_target_charged": row.seconds_charged,
            "seconds_to_target_shared": row.seconds_shared,
            "seconds": row.seconds,
            "il_seconds": row.il_seconds,
            "charged_seconds": row.charged,
            "targets_of_il": row.targets,
            "shared_seconds": row.shared,
            **{name: row.shares.get(name) for name in SHARES},
        }


def _paired(suite: Suite, outcomes: Outcomes) -> Iterator[Row]:
    if suite.tune:
        return
    for against in suite.against:
        for row in compare(outcomes.runs, against):
            for metric, of in (("test", row.gain), ("worst_class", row.worst_gain)):
                if of is not None and row.method != against:
                    yield {
                        "method": row.method,
                        "against": against,
                        "metric": metric,
                        "n": of.n,
                        "difference": of.mean,
                        "standard_error": of.error,
                        "ahead": of.ahead,
                    }


def _curves(outcomes: Outcomes) -> Iterator[Row]:
    """Mean, lowest and highest of the seeds at the steps that all of them have looked at."""
    for method, label in outcomes.labels.items():
        runs = list(by_seed(outcomes.runs, method).values())
        if not runs:
            continue
        looks = [{look.step: look for look in run.looks} for run in runs]
        for step in sorted(set.intersection(*(set(of) for of in looks))):
            accuracies = [of[step].accuracy for of in looks]
            yield {
                "method": method,
                "label": label,
                "step": step,
                "accuracy": fmean(accuracies),
                "lowest": min(accuracies),
                "highest": max(accuracies),
                "seconds": fmean(of[step].seconds for of in looks),
                "il_seconds": fmean(run.il_seconds for run in runs),
            }


def _targets(suite: Suite, data: Path) -> dict[str, int]:
    """How many models of the suite train with the same irreducible losses, by their name."""
    models: dict[str, set[str]] = {}
    for cell in suite.cells:
        try:
            config = cell.config(data)
        except ValueError:
            # Its rates are not known, so it was not run.
            continue
        for method in config.methods:
            own = config.of(method)
            models.setdefault(own.il_name(method.il), set()).add(str(own.model.as_dict()))
    return {name: len(found) for name, found in models.items()}


def _ends(runs: Sequence[Outcome]) -> dict[str, float]:
    methods = dict.fromkeys(run.method for run in runs)
    return {
        method: fmean(run.looks[-1].accuracy for run in by_seed(runs, method).values())
        for method in methods
    }


def _il_loss(runs: Sequence[Outcome], method: str) -> float | None:
    found = [_part(run.origin, "il_model", "loss") for run in by_seed(runs, method).values()]
    known = [float(loss) for loss in found if isinstance(loss, float)]
    return fmean(known) if known else None


def _part(origin: Mapping[str, object], part: str, name: str) -> object:
    found = origin.get(part)
    return found.get(name) if isinstance(found, Mapping) else None


def _text_of(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a CSV file has them; rows that are kept may have other columns."""
    file = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _text(v) for k, v in row.items()} for row in rows)
    return file.getvalue()


def _text(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def in_cell(rows: Iterable[dict[str, str]], cell: str) -> list[dict[str, str]]:
    """Return the rows of one cell."""
    return [row for row in rows if row["cell"] == cell]
