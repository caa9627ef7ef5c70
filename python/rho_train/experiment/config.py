"""What an experiment is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rho_train.experiment.data import DataConfig
from rho_train.il import ILRecipe
from rho_train.selection import names, needs_of
from rho_train.training import TrainConfig

ILKind = Literal["none", "holdout", "crossfit", "stored"]


@dataclass(frozen=True)
class Method:
    """One way to choose the points that are trained on.

    Args:
        name: in files and records.
        label: for people.
        select: the name of a method; `uniform` draws the small batch without a large one.
        il: where irreducible losses come from; `stored`: from the experiment's store.
        points: train on `all` training points, or on the `rest` that is not held out; with a store,
            on the points that it knows.
    """

    name: str
    label: str
    select: str
    il: ILKind = "none"
    points: Literal["all", "rest"] = "all"

    def __post_init__(self) -> None:
        if self.select not in names():
            raise ValueError(f"method must be one of {', '.join(names())}, got {self.select!r}")
        if self.il not in get_args(ILKind):
            raise ValueError(f"il must be one of {', '.join(get_args(ILKind))}, got {self.il!r}")
        if "il" in needs_of(self.select) and self.il == "none":
            raise ValueError(
                f"method {self.select} needs irreducible losses; choose il = holdout or crossfit"
            )
        if self.il == "holdout" and self.points == "all":
            raise ValueError(
                f"method {self.name}: the points of the holdout have no irreducible loss; train "
                "on the rest"
            )


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
        baseline: name of the method whose best accuracy the others are timed to.
        seeds: each draws its own noise, holdout, initial weights and order.
        data: what to train on.
        hidden: widths of the hidden layers of the MLP, target and IL model alike.
        dropout: rate after each hidden layer, in [0, 1), target and IL model alike.
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
    hidden: tuple[int, ...] = (256, 256)
    dropout: float = 0.0
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
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be positive widths, got {list(self.hidden)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        for method in self.methods:
            if "dropout" in needs_of(method.select) and not (self.dropout > 0.0 and self.hidden):
                raise ValueError(
                    f"method {method.select} needs dropout layers, got dropout = {self.dropout} "
                    f"and {len(self.hidden)} hidden layers; choose dropout = 0.1 or so"
                )

    def as_dict(self) -> dict[str, Any]:
        """Return what determines the numbers, as plain values; titles and labels do not."""
        return {
            "methods": {m.name: f"{m.select}, il {m.il}, {m.points} points" for m in self.methods},
            "baseline": self.baseline,
            "seeds": list(self.seeds),
            "data": self.data.identity(),
            "hidden": list(self.hidden),
            "dropout": self.dropout,
            "train": asdict(self.train),
            "il": asdict(self.il),
            "holdout": self.holdout,
            "folds": self.folds,
        }
