"""A suite: one question, and the comparisons that answer it. Needs the standard library alone."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.derive import Row

FOLDER = Path(__file__).parent
Options = Mapping[str, Any]
Entry = dict[str, Any]  # the arguments of a rho_train.Variant, see variants.py


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A question, and arguments of `rho_train.compare` in dotted names, such as `train.steps`.

    Args:
        title, question: for people.
        methods: from `variants.py`.
        baseline: the method that the others are compared with.
        options: of every comparison.
        vary: axes, and for each of their labels the options that differ. The product of all labels
            gives the cells, one comparison each.
        quick: what the quick variant replaces: `methods`, `seeds`, or the labels of an axis.
        rates: a tuning suite and the name of its cell, such as ("tune", "{set}, {noise}"), for the
            learning rates of methods without one.
        status: why it was not run here, or nothing.
        ours: methods to compare with every one of `against` as well.
        columns: more tables: worst_class, seconds, or shares (noisy, unsure, correct,
            less_relevant, redundant).
        figures: kinds of figures, see `figures.py`.
        curves: methods in figures of curves; none: all.
        tune: `validation` or `il_loss` if the suite selects options by it; it then reports nothing
            of the test set.
        name, variant: set by `load`.
    """

    title: str
    question: str
    methods: Sequence[Entry]
    baseline: str
    options: Options
    vary: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    quick: Options = field(default_factory=dict)
    rates: tuple[str, str] | None = None
    status: str = ""
    ours: Sequence[str] = ()
    against: Sequence[str] = ()
    columns: Sequence[str] = ()
    figures: Sequence[str] = ()
    curves: Sequence[str] = ()
    tune: str = ""
    name: str = ""
    variant: str = "full"

    @property
    def cells(self) -> list[Cell]:
        """The comparisons, in the order of the page."""
        made = []
        for labels in itertools.product(*self.vary.values()):
            options = dict(self.options)
            for axis, label in zip(self.vary, labels, strict=True):
                options |= self.vary[axis][label]
            where = dict(zip(self.vary, labels, strict=True))
            rates = self.rates
            if "rates" in options:
                rates = (self.rates or ("", ""))[0], options.pop("rates")
            if rates:
                rates = rates[0], rates[1].format(**where)
            made.append(Cell(", ".join(labels), options, rates))
        return made


@dataclass(frozen=True)
class Cell:
    """One comparison of a suite: its name, its options, and where its learning rates come from."""

    name: str
    options: Options
    rates: tuple[str, str] | None

    @property
    def slug(self) -> str:
        """The name for a folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-") or "all"


def names() -> list[str]:
    """Return the names of all suites: tuning first, recipes for the paper's tables last."""
    found = sorted(path.stem for path in (FOLDER / "suites").glob("*.py") if path.stem[0] != "_")
    return sorted(found, key=lambda name: (name.startswith("paper"), not name.startswith("tune_")))


def load(name: str, variant: str = "full") -> Suite:
    """Return a suite by its name.

    Raises:
        ValueError: there is no such suite, or its quick variant names what it does not have.
    """
    if name not in names():
        raise ValueError(f"there is no suite {name!r}; choose among {', '.join(names())}")
    suite: Suite = importlib.import_module(f"experiments.suites.{name}").SUITE
    return specialise(replace(suite, name=name), variant)


def specialise(suite: Suite, variant: str) -> Suite:
    """Return the quick or the full variant of a suite."""
    if variant == "full":
        return suite
    changed = dict(suite.quick)
    methods = changed.pop("methods", suite.methods)
    options = dict(suite.options)
    if "seeds" in changed:
        options["seeds"] = changed.pop("seeds")
    vary = dict(suite.vary)
    for axis, labels in changed.items():
        if axis not in vary or set(labels) - set(vary[axis]):
            raise ValueError(f"{suite.name}: quick[{axis!r}] must be some labels of that axis")
        vary[axis] = {label: vary[axis][label] for label in labels}
    return replace(suite, methods=methods, options=options, vary=vary, variant="quick")


def with_rates(methods: Sequence[Entry], cell: Cell, rows: Sequence[Row]) -> list[Entry]:
    """Give every method without a `train.lr` the best learning rate of its kind.

    Kinds are uniform sampling and selection, each with a constant and a decayed rate. The best rate
    has the highest mean accuracy on the validation split in `rows`, the runs of the tuning suite.

    Raises:
        ValueError: the tuning has no results for the cell, or not for all seeds and rates.
    """
    if cell.rates is None:
        return list(methods)
    suite, name = cell.rates
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["cell"] == name:
            kind, _, rate = row["method"].partition("-lr-")
            found.setdefault(kind, {}).setdefault(rate, []).append(float(row["validation"]))
    if not found:
        raise ValueError(f"rates of {suite}: no results for {name!r}; run the suite {suite} first")
    counts = {len(runs) for rates in found.values() for runs in rates.values()}
    if len(counts) > 1 or len({frozenset(rates) for rates in found.values()}) > 1:
        raise ValueError(f"rates of {suite}: results for {name!r} are not complete; run it again")
    best = {
        kind: float(max(rates, key=lambda rate: sum(rates[rate]))) for kind, rates in found.items()
    }
    given = []
    for method in methods:
        overrides = dict(method.get("overrides", {}))
        kind = "uniform_all" if method["method"] == "uniform" else "rho_crossfit"
        if overrides.get("train.schedule", "constant") != "constant":
            kind += "_decay"
        if "train.lr" not in overrides:
            if kind not in best:
                raise ValueError(f"rates of {suite}: {name!r} has no results for {kind}; run it")
            overrides["train.lr"] = best[kind]
        given.append({**method, "overrides": overrides})
    return given
