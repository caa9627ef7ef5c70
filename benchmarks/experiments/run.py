"""Run the comparisons of a suite, and keep one row a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import derive, rows
from experiments.derive import RESULTS
from experiments.evidence import evidence
from experiments.set_options import FOLDERS
from experiments.suite import FOLDER, Cell, Entry, Suite
from keep import Row, csv_text, read_csv
from rho_train import EqualCost, ILRecipe, JobsFailed, Scoring, TrainConfig, Variant, compare

_PARTS = ("task", "train", "il", "scoring")


def arguments(suite: Suite, cell: Cell, data: Path) -> dict[str, Any]:
    """Return the arguments of `rho_train.compare` for a cell.

    Args:
        suite, cell: what to compare.
        data: the folder that holds the folders of the sets.

    Raises:
        ValueError: an option is unknown or impossible.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    given: dict[str, Any] = {}
    for name, value in cell.options.items():
        part, _, option = name.partition(".")
        (parts[part] if option else given)[option or name] = value
    task = parts["task"]
    if task["name"] in FOLDERS:
        task["folder"] = str(data / FOLDERS[task["name"]])
    return {
        "task": evidence,
        "task_options": task,
        "methods": [_variant(entry) for entry in suite.methods],
        "baseline": suite.baseline,
        "train": TrainConfig(**parts["train"]),
        "il": ILRecipe(**parts["il"]),
        "scoring": Scoring(**parts["scoring"]),
        "title": f"{suite.title}: {cell.name}" if cell.name else suite.title,
        "description": suite.question,
        **given,
    }


def _variant(entry: Entry) -> Variant:
    cost = entry.get("cost")
    return Variant(**{**entry, "cost": EqualCost(**cost) if cost else None})


def shortened(suite: Suite, steps: int | None, seeds: int | None) -> Suite:
    """Return the suite with fewer steps and seeds, to try it out."""
    options: dict[str, Any] = dict(suite.options)
    vary = suite.vary
    if steps is not None:
        fewer = {"train.steps": steps, "train.eval_every": max(1, steps // 5)}
        options |= fewer
        vary = {
            axis: {
                label: {k: fewer.get(k, v) for k, v in of.items()} for label, of in labels.items()
            }
            for axis, labels in vary.items()
        }
    if seeds is not None:
        options["seeds"] = options["seeds"][:seeds]
    return replace(suite, options=options, vary=vary)


def run(
    suite: Suite, data: Path, out: Path, processes: int, results: Path = RESULTS
) -> tuple[bool, list[Row]]:
    """Run what is not finished of a suite; write its rows to `results/NAME/runs.csv`.

    A cell keeps the rows that it has there while `out` has fewer runs of it, as after a stop, and
    where its folder in `out` holds another comparison.

    Returns:
        Whether something failed, and the curves of the finished runs.
    """
    folder = out / f"{suite.name}-{suite.variant}"
    failed, refused = False, set[str]()
    try:
        for cell in suite.cells:
            print(f"{suite.name}: {cell.name or suite.title}")
            try:
                given = arguments(suite, cell, data)
                cell_folder = folder / cell.slug
                _share_il(folder, cell_folder)
                origin = {"commit": _commit()}
                compare(**given, out=cell_folder, processes=processes, origin=origin)
            except (ValueError, OSError, JobsFailed) as error:
                failed = True
                if not isinstance(error, JobsFailed):
                    refused.add(cell.name)
                for line in f"{error}".splitlines():
                    print(f"experiments: {suite.name}, {cell.name}: {line}", file=sys.stderr)
    finally:
        # Whatever is finished is worth its rows, also after a Ctrl-C.
        curves = _keep(suite, folder, results, refused)
    return failed, curves


def _keep(suite: Suite, folder: Path, results: Path, refused: set[str]) -> list[Row]:
    path = results / suite.name / "runs.csv"
    before = read_csv(path)
    kept: list[Mapping[str, str]] = []
    curves: list[Row] = []
    for cell in suite.cells:
        old = derive.in_cell(before, cell.name)
        found, drawn = rows.read(folder / cell.slug)
        wanted = len(suite.methods) * len(suite.options["seeds"])
        if cell.name in refused or len(found) < min(wanted, len(old)):
            found, drawn = [], []
        where = {"cell": cell.name, "variant": suite.variant}
        kept += [{**where, **row} for row in found] or old
        curves += [{"cell": cell.name, **at} for at in drawn]
    cells = {cell.name for cell in suite.cells}
    kept += [row for row in before if row["cell"] not in cells]
    if kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(csv_text(kept), encoding="utf-8")
    if curves:
        (folder / "curves.csv").write_text(csv_text(curves), encoding="utf-8")
    return curves


def _share_il(folder: Path, cell: Path) -> None:
    """Let all comparisons of a suite keep their IL in one place.

    Their names tell what they were made from, so another budget or target computes none again.
    """
    (folder / "il").mkdir(parents=True, exist_ok=True)
    cell.mkdir(exist_ok=True)
    if not (cell / "il").exists():
        (cell / "il").symlink_to(Path("..") / "il")


def _commit() -> str:
    """The commit of this tree, with -dirty if it was changed."""
    describe = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        found = subprocess.run(describe, cwd=FOLDER, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
