"""A suite: one question, as experiments that differ in set, noise, budget and so on."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rates import Rates
from rho_train.experiment import ExperimentConfig, make_experiment

FOLDER = Path(__file__).parent
VARIANTS = ("quick", "full")
_FIELDS = {
    *("letter", "title", "question", "status", "experiment", "vary", "quick"),
    *("against", "ours", "columns", "figures", "curves", "tune"),
}
_TUNED_BY = ("validation", "il_loss")


@dataclass(frozen=True)
class Cell:
    """One experiment of a suite.

    Args:
        name: of its labels.
        labels: where it stands on each axis.
        values: the experiment; a method without a `train.lr` gets the one that `rates` has for it.
        rates: where they come from, or nothing.
    """

    name: str
    labels: Mapping[str, str]
    values: Mapping[str, Any]
    rates: Rates | None

    @property
    def slug(self) -> str:
        """The name for a folder."""
        return slug(self.name) or "all"

    def resolved(self, data: Path) -> dict[str, Any]:
        """Return the experiment as a YAML file has it; a relative `data.folder` lies in `data`.

        Raises:
            ValueError: the rates are not known yet.
        """
        values = copy.deepcopy(dict(self.values))
        if self.rates is not None:
            self.rates.give(values["methods"])
        folder = values.get("data", {}).get("folder")
        if folder is not None:
            values["data"]["folder"] = str(data / folder)
        return values

    def config(self, data: Path) -> ExperimentConfig:
        """Make the experiment.

        Raises:
            ValueError: an option is unknown or impossible, or the rates are not known yet.
        """
        return make_experiment(self.resolved(data))


@dataclass(frozen=True)
class Suite:
    """A question and the cells that answer it.

    Args:
        name: of its YAML file.
        variant: quick or full.
        letter: of the issue's list.
        title, question: for people.
        status: why it was not run, or nothing.
        cells: in the order of the page.
        against: methods that the others are compared with, seed by seed; the first is the baseline.
        ours: methods that the text of the page is about.
        columns: what else the table shows: worst_class, seconds (to the target), or shares: noisy,
            unsure, correct, less_relevant, redundant.
        figures: kinds of figures, see `figures.py`.
        curves: methods in the figure of curves; none: all.
        tune: the column that the best option is chosen by, if that is the only question:
            accuracy on the `validation` split or `il_loss`; then nothing of the test set is shown.
            Else empty.
    """

    name: str
    variant: str
    letter: str
    title: str
    question: str
    status: str
    cells: tuple[Cell, ...]
    against: tuple[str, ...]
    ours: tuple[str, ...]
    columns: tuple[str, ...]
    figures: tuple[str, ...]
    curves: tuple[str, ...]
    tune: str


def slug(text: str) -> str:
    """A text as part of a file name.

    Example:
        >>> slug("Letters, 10 %")
        'letters-10'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all suites of a folder, in the order of their letters."""
    found = {path.stem: _read(path) for path in folder.glob("*.yaml") if path.stem[0] != "_"}
    return sorted(found, key=lambda name: (str(found[name].get("letter", "~")), name))


def load(name: str, variant: str, folder: Path = FOLDER) -> Suite:
    """Read the suite `name` from its YAML file.

    Raises:
        ValueError: the file has unknown fields, names of methods or of axes.
        FileNotFoundError: there is no such suite.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(names(folder))
        raise FileNotFoundError(f"there is no suite {name}; choose among {known}")
    raw = _read(path)
    if unknown := set(raw) - _FIELDS:
        raise ValueError(f"{path.name}: unknown fields {', '.join(sorted(unknown))}")
    quick = raw.get("quick", {}) if variant == "quick" else {}
    if unknown := set(quick) - {"experiment", "vary"}:
        raise ValueError(f"{path.name}: quick has unknown fields {', '.join(sorted(unknown))}")
    base = copy.deepcopy(raw["experiment"])
    for key, value in quick.get("experiment", {}).items():
        put(base, key, value)
    if (tune := raw.get("tune", "")) not in ("", *_TUNED_BY):
        raise ValueError(f"{path.name}: tune must be one of {', '.join(_TUNED_BY)}, got {tune!r}")
    axes = _axes(path.name, raw.get("vary", {}), quick.get("vary", {}))
    cells = tuple(_cells(raw, base, axes, variant))
    methods = [method["name"] for method in cells[0].values["methods"]]
    for field in ("against", "ours", "curves"):
        if unknown := set(raw.get(field, ())) - set(methods):
            raise ValueError(f"{path.name}: {field} names no method: {', '.join(sorted(unknown))}")
    return Suite(
        name=name,
        variant=variant,
        letter=str(raw.get("letter", "")),
        title=raw["title"],
        question=raw["question"],
        status=raw.get("status", ""),
        cells=cells,
        against=tuple(raw.get("against", (base["baseline"],))),
        ours=tuple(raw.get("ours", ())),
        columns=tuple(raw.get("columns", ())),
        figures=tuple(raw.get("figures", ())),
        curves=tuple(raw.get("curves", ())),
        tune=tune,
    )


def put(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set an option by its dotted name.

    Example:
        >>> values = {"train": {"steps": 5}}
        >>> put(values, "train.lr", 0.1); put(values, "seeds", [0]); values
        {'train': {'steps': 5, 'lr': 0.1}, 'seeds': [0]}
    """
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = copy.deepcopy(value)


def methods(entries: list[Any]) -> list[dict[str, Any]]:
    """Return methods in full: names are looked up in `_methods.yaml`.

    An entry is a name there; or a mapping with `use`, a name there, and what is different; or a
    whole method. `grid` makes one method of each value, or of each combination of values:
    {il.epochs: [3, 6], il.lr: [0.001, 0.01]}.

    Raises:
        ValueError: a name is not there.
    """
    known = _read(FOLDER / "_methods.yaml")
    made: list[dict[str, Any]] = []
    for entry in entries:
        own: dict[str, Any] = {"use": entry} if isinstance(entry, str) else dict(entry)
        used = own.pop("use", None)
        if used is not None and used not in known:
            raise ValueError(f"there is no method {used!r} in _methods.yaml")
        base: dict[str, Any] = {} if used is None else {"name": used, **copy.deepcopy(known[used])}
        grid = own.pop("grid", {})
        method = {**base, **own}
        method["overrides"] = {**base.get("overrides", {}), **own.get("overrides", {})}
        if not grid:
            made.append(method)
            continue
        for values in itertools.product(*grid.values()):
            one = copy.deepcopy(method)
            for key, value in zip(grid, values, strict=True):
                short = key.rpartition(".")[2]
                text = "x".join(map(str, value)) if isinstance(value, list) else f"{value}"
                one["name"] += f"-{short}-{text}"
                one["label"] += f", {short.replace('_', ' ')} {text}"
                one["overrides"][key] = value
            made.append(one)
    return made


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def _axes(
    where: str, vary: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Axes with the options of each of their labels; `chosen` keeps some of the labels.

    An axis that is a list names sets of `_sets.yaml`.
    """
    known = _read(FOLDER / "_sets.yaml")
    axes: dict[str, dict[str, Any]] = {}
    for axis, on in vary.items():
        if isinstance(on, list):
            if unknown := set(on) - set(known):
                raise ValueError(f"{where}: _sets.yaml has no {', '.join(sorted(unknown))}")
            on = {name: known[name] for name in on}
        axes[axis] = {str(label): of or {} for label, of in on.items()}
    for axis, labels in chosen.items():
        if axis not in axes or set(map(str, labels)) - set(axes[axis]):
            raise ValueError(f"{where}: quick.vary.{axis} must be some labels of vary.{axis}")
        axes[axis] = {str(label): axes[axis][str(label)] for label in labels}
    return axes


def _cells(
    raw: Mapping[str, Any],
    base: Mapping[str, Any],
    axes: Mapping[str, dict[str, Any]],
    variant: str,
) -> Iterator[Cell]:
    for labels in itertools.product(*axes.values()):
        values = copy.deepcopy(dict(base))
        for axis, label in zip(axes, labels, strict=True):
            for key, value in axes[axis][label].items():
                put(values, key, value)
        values["methods"] = methods(values["methods"])
        where, rates = dict(zip(axes, labels, strict=True)), values.pop("rates", None)
        name = ", ".join(labels)
        values["title"] = f"{raw['title']}: {name}" if name else raw["title"]
        values["description"] = raw["question"]
        tuned = rates and Rates(rates["suite"], variant, rates["cell"].format(**where))
        yield Cell(name, where, values, tuned)
