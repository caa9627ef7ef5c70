"""What an experiment is made of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rho_train.experiment.data import DataConfig
from rho_train.experiment.minutes import SameMinutes
from rho_train.experiment.model import ModelConfig
from rho_train.experiment.overrides import override
from rho_train.il import ILRecipe
from rho_train.methods.registry import names, needs_of
from rho_train.scoring import Scoring
from rho_train.trainer import TrainConfig

ILKind = Literal["none", "holdout", "crossfit", "stored"]
# What a method may have of its own; data, split and seeds belong to all, or nothing is paired.
_OWN = ("model", "il_model", "train", "il", "holdout", "folds", "selector")


@dataclass(frozen=True)
class SelectorConfig:
    """Options of the Selector, see there.

    Args:
        warmup: steps at the start with uniform selection.
        anneal: share of the steps at the end with uniform selection.
        scoring: how large batches are scored; bf16 as in training unless it says otherwise.
    """

    warmup: int = 0
    anneal: float = 0.0
    scoring: Scoring = field(default_factory=Scoring)


@dataclass(frozen=True)
class Method:
    """One way to train, and to choose the points that are trained on.

    Args:
        name: in files and records.
        label: for people.
        select: the name of a method; `uniform` draws the small batch without a large one.
        il: where irreducible losses come from; `stored`: from the experiment's store.
        points: train on `all` training points, or on the `rest` that is not held out; with a store,
            on the points that it knows.
        keep: share of these that it trains on, those with the lowest irreducible losses, chosen
            once before the first step.
        overrides: options of the experiment that this method has otherwise, by dotted names:
            {"train.lr": 0.003, "il.epochs": 5}; of train, model, il_model, il, holdout, folds and
            selector.
        minutes: the steps follow from the seconds of another method, in place of `train.steps`.
    """

    name: str
    label: str
    select: str
    il: ILKind = "none"
    points: Literal["all", "rest"] = "all"
    keep: float = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    minutes: SameMinutes | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise ValueError(
                "method: name must be of letters, digits and ._+-, for folders are named by it, "
                f"got {self.name!r}; what people read is the label"
            )
        if self.select not in names():
            raise ValueError(f"method must be one of {', '.join(names())}, got {self.select!r}")
        if self.il not in get_args(ILKind):
            raise ValueError(f"il must be one of {', '.join(get_args(ILKind))}, got {self.il!r}")
        if "il" in needs_of(self.select) and self.il == "none":
            raise ValueError(
                f"method {self.select} needs irreducible losses; choose il = holdout or crossfit"
            )
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"method {self.name}: keep must lie in (0, 1], got {self.keep}")
        if self.keep < 1.0 and self.il == "none":
            raise ValueError(
                f"method {self.name}: keep = {self.keep} needs irreducible losses; choose il = "
                "holdout or crossfit"
            )
        if self.il == "holdout" and self.points == "all":
            raise ValueError(
                f"method {self.name}: the points of the holdout have no irreducible loss; train "
                "on the rest"
            )

    @property
    def uses_il(self) -> bool:
        """Whether irreducible losses have a part in it."""
        return self.keep < 1.0 or self.select != "uniform"

    @property
    def computes_il(self) -> bool:
        """Whether they are computed for this experiment, and charged to it."""
        return self.uses_il and self.il not in ("none", "stored")

    def __str__(self) -> str:
        own = [f"{name} {value}" for name, value in sorted(self.overrides.items())]
        own += [f"the {self.keep} with the lowest IL"] if self.keep < 1.0 else []
        own += [f"{self.minutes}"] if self.minutes else []
        return ", ".join([self.select, f"il {self.il}", f"{self.points} points", *own])


# The baselines come first, and "uniform on all data" is what a user would do otherwise.
DEMO_METHODS = (
    Method("uniform_half", "Uniform, half", "uniform", points="rest"),
    Method("uniform_all", "Uniform, all", "uniform"),
    Method("train_loss", "Training loss, half", "loss", points="rest"),
    Method("rho_holdout", "RHO-LOSS, half (holdout IL)", "rho", "holdout", "rest"),
    Method("rho_crossfit", "RHO-LOSS, all (cross-fit IL)", "rho", "crossfit"),
)


@dataclass(frozen=True)
class ExperimentConfig:
    """An experiment: every method with every seed.

    Args:
        title: of the report.
        description: one sentence under the title.
        methods: in the order of the table.
        baseline: name of the method that the others are compared with.
        seeds: each draws its own noise, validation split, holdout, initial weights and order.
        data: what to train on.
        validation: share of the training points that nothing trains on, with the labels as they
            are given, wrong ones among them. The curves over time are of these points, so whatever
            is chosen by looking is chosen on them, and the test set is read once a run, at its
            end. 0: the curves are of the test set.
        model: the target.
        il_model: the model of the irreducible losses; none: the same as the target.
        selector: options of the Selector.
        train: how the target is trained.
        il: how the IL models are trained.
        holdout: share of the training points that a holdout IL model trains on.
        folds: of the cross-fit.
        store: file of irreducible losses, for methods that take them from there.
    """

    title: str
    description: str
    methods: tuple[Method, ...]
    baseline: str
    seeds: tuple[int, ...]
    data: DataConfig = field(default_factory=DataConfig)
    validation: float = 0.0
    model: ModelConfig = field(default_factory=ModelConfig)
    il_model: ModelConfig | None = None
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    il: ILRecipe = field(default_factory=ILRecipe)
    holdout: float = 0.5
    folds: int = 2
    store: Path | None = None

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        for what, values in (("seeds", self.seeds), ("methods", names)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{what} must be different and at least one, got {list(values)}")
        if self.baseline not in names:
            raise ValueError(f"baseline must be one of {', '.join(names)}, got {self.baseline!r}")
        if self.store is None and any(method.il == "stored" for method in self.methods):
            raise ValueError("il = stored needs the store; give its path")
        if not 0.0 < self.holdout < 1.0:
            raise ValueError(f"holdout must lie in (0, 1), got {self.holdout}")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if not 0.0 <= self.validation < 1.0:
            raise ValueError(f"validation must lie in [0, 1), got {self.validation}")
        for method in self.methods:
            self._check(method)

    def _check(self, method: Method) -> None:
        if method.overrides:
            try:
                self.of(method)
            except ValueError as error:
                raise ValueError(f"method {method.name}: {error}") from error
        if method.minutes is None:
            return
        others = {m.name: m for m in self.methods if m is not method}
        for role in ("of", "pace"):
            name = getattr(method.minutes, role)
            if name not in others:
                raise ValueError(
                    f"method {method.name}: minutes.{role} must be one of {', '.join(others)}, "
                    f"got {name!r}"
                )
            if others[name].minutes is not None:
                raise ValueError(
                    f"method {method.name}: minutes.{role} must be a method with steps of its own, "
                    f"{name} has minutes itself"
                )

    def of(self, method: Method) -> ExperimentConfig:
        """Return what one method runs with: its overrides in place, and no other method.

        Raises:
            ValueError: an option does not exist, or may not differ between methods.
        """
        alone = replace(
            self,
            methods=(replace(method, overrides={}, minutes=None),),
            baseline=method.name,
        )
        return override(alone, method.overrides, among=_OWN)

    def il_name(self, kind: str) -> str:
        """Return a name for irreducible losses of a kind: the same when they are the same."""
        share = {"holdout": self.holdout} if kind == "holdout" else {"folds": self.folds}
        made = {
            **share,
            "data": {k: v.name if isinstance(v, Path) else v for k, v in asdict(self.data).items()},
            "validation": self.validation,
            "model": self.il_target.as_dict(),
            "recipe": asdict(self.il),
        }
        # Which files, not their content: a store is compared with the labels that it is used for.
        text = json.dumps(made, sort_keys=True)
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def il_target(self) -> ModelConfig:
        """The model of the irreducible losses."""
        return self.model if self.il_model is None else self.il_model

    def as_dict(self) -> dict[str, Any]:
        """Return what determines the numbers, as plain values; titles and labels do not."""
        return {
            "methods": {m.name: f"{m}" for m in self.methods},
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "data": self.data.identity(),
            "validation": self.validation,
            "model": self.model.as_dict(),
            "il_model": self.il_target.as_dict(),
            "selector": asdict(self.selector),
            "train": asdict(self.train),
            "il": asdict(self.il),
            "holdout": self.holdout,
            "folds": self.folds,
        }
