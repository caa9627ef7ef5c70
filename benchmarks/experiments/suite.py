"""A suite: one question, and the comparisons that answer it. Needs the standard library alone."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
        status: why it was not run here, or nothing.
        ours: methods to compare with every one of `against` as well.
        columns: more tables, of shares: noisy, unsure, correct, less_relevant, redundant.
        figures: kinds of figures, see `figures.py`.
        name, variant: set by `load`.
    """

    title: str
    question: str
    methods: Sequence[Entry]
    baseline: str
    options: Options
    vary: Mapping[str, Mapping[str, Options]] = field(default_factory=dict)
    quick: Options = field(default_factory=dict)
    status: str = ""
    ours: Sequence[str] = ()
    against: Sequence[str] = ()
    columns: Sequence[str] = ()
    figures: Sequence[str] = ()
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
            made.append(Cell(", ".join(labels), options))
        return made


@dataclass(frozen=True)
class Cell:
    """One comparison of a suite: its name and its options."""

    name: str
    options: Options

    @property
    def slug(self) -> str:
        """The name for a folder."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-") or "all"


def names() -> list[str]:
    """Return the names of all suites, recipes for the paper's tables last."""
    found = sorted(path.stem for path in (FOLDER / "suites").glob("*.py") if path.stem[0] != "_")
    return sorted(found, key=lambda name: (name.startswith("paper"), name))


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
