"""The specification of a comparison (variants, seeds, options), and the data of a seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rho_train.dataset import IndexedDataset
from rho_train.global_scope import Scope
from rho_train.il import ILRecipe
from rho_train.methods.registry import names, needs_of
from rho_train.rng import generator
from rho_train.scoring import Scoring
from rho_train.tasks.task import Task, TaskSource, load_task, model_identity, plain_options
from rho_train.trainer import TrainConfig

ILKind = Literal["none", "holdout", "crossfit", "stored"]
_PARTS = ("train", "il", "scoring")
_OWN = ("holdout", "folds")


@dataclass(frozen=True)
class EqualCost:
    """Make as many steps as have the counted cost of another variant, see `rho_train.cost`.

    Args:
        to: the other variant, which makes `train.steps` of its own.
        il: the IL cost of both is included; False: as if their IL were precomputed.
    """

    to: str
    il: bool = True


@dataclass(frozen=True)
class Variant:
    """One way to train: a method of selection, and options that differ from the others'.

    Args:
        name: in files and records.
        label: for people; empty: the name.
        method: of selection; `uniform` draws the small batch directly, `agreement` by an
            `AgreementSampler`, whose re-scoring is paid for with steps.
        il: where irreducible losses come from; `stored`: from the store of the comparison.
        examples: train on `all`, or on the `rest` that is not held out; with a store, on those that
            it knows.
        keep: share of these, with the lowest irreducible losses, that is trained on.
        overrides: by dotted name: of train, il, task and scoring, as {"train.lr": 0.003,
            "task.hidden": [64]}; holdout and folds.
        cost: gives the steps of a run; None: `train.steps`.

    Raises:
        ValueError: an argument is out of range, or two exclude each other.

    Examples:
        >>> Variant("slow", method="rho", il="crossfit", overrides={"train.lr": 1e-4}).label
        'slow'
    """

    name: str
    label: str = ""
    method: str = "uniform"
    il: ILKind = "none"
    examples: Literal["all", "rest"] = "all"
    keep: float = 1.0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cost: EqualCost | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)
        if not re.fullmatch(r"[\w.+-]+", self.name):
            raise ValueError(
                "Variant: name must be of letters, digits and ._+-, for folders are named by it, "
                f"got {self.name!r}; what people read is the label"
            )
        _check_one_of("method", self.method, (*names(), "agreement"))
        _check_one_of("il", self.il, get_args(ILKind))
        _check_one_of("examples", self.examples, ("all", "rest"))
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"variant {self.name}: keep must lie in (0, 1], got {self.keep}")
        if self.il == "none" and (
            (self.selects and "il" in needs_of(self.method)) or self.keep < 1.0
        ):
            what = f"keep = {self.keep}" if self.keep < 1.0 else f"method {self.method}"
            fix = "choose il = holdout or crossfit"
            raise ValueError(f"variant {self.name}: {what} needs irreducible losses; {fix}")
        if self.il == "holdout" and self.examples == "all":
            problem = "the held-out examples have no irreducible loss; train on the rest"
            raise ValueError(f"variant {self.name}: {problem}")

    @property
    def selects(self) -> bool:
        """True if a Selector selects from large batches."""
        return self.method not in ("uniform", "agreement")

    @property
    def uses_il(self) -> bool:
        """True if irreducible losses have a part in it."""
        return self.il != "none" and (self.keep < 1.0 or self.selects)

    @property
    def computes_il(self) -> bool:
        """True if they are computed for this comparison, and their cost is included."""
        return self.uses_il and self.il != "stored"

    def __str__(self) -> str:
        own = [f"{name} {value}" for name, value in sorted(self.overrides.items())]
        own += [f"the {self.keep} with the lowest IL"] if self.keep < 1.0 else []
        own += [f"{self.cost}"] if self.cost is not None else []
        return ", ".join([self.method, f"il {self.il}", f"{self.examples} examples", *own])


@dataclass(frozen=True)
class Spec:
    """All arguments of `rho_train.compare` that decide the numbers, and the device, see there."""

    task: TaskSource
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    baseline: str
    task_options: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    il: ILRecipe = field(default_factory=ILRecipe)
    scoring: Scoring = field(default_factory=Scoring)
    holdout: float = 0.5
    folds: int = 2
    validation: float = 0.0
    store: Path | None = None
    scope: Scope = "local"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        for what, values in (("seeds", self.seeds), ("methods", names)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{what} must be different and at least one, got {list(values)}")
        _check_one_of("baseline", self.baseline, names)
        if self.store is None and any(v.il == "stored" for v in self.variants):
            raise ValueError("il = stored needs the store; give its path")
        if not 0.0 < self.holdout < 1.0:
            raise ValueError(f"holdout must lie in (0, 1), got {self.holdout}")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if not 0.0 <= self.validation < 1.0:
            raise ValueError(f"validation must lie in [0, 1), got {self.validation}")
        for variant in self.variants:
            if variant.overrides:
                try:
                    self.of(variant)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"variant {variant.name}: {error}") from error

    def of(self, variant: Variant) -> Spec:
        """Return the specification of one variant, with its overrides in place."""
        changes: dict[str, Any] = {}
        for name, value in variant.overrides.items():
            part, _, option = name.partition(".")
            if part == "task" and option:
                now = changes.get("task_options", self.task_options)
                changes["task_options"] = {**now, option: value}
            elif part in _PARTS and option:
                changes[part] = replace(changes.get(part, getattr(self, part)), **{option: value})
            elif name in _OWN:
                changes[name] = value
            else:
                known = ", ".join([*(f"{part}.OPTION" for part in (*_PARTS, "task")), *_OWN])
                raise ValueError(
                    f"overrides: {name!r} is the same for all variants; choose among {known}"
                )
        alone = replace(variant, overrides={})
        return replace(self, variants=(alone,), baseline=variant.name, **changes)

    def identity(self, task: Task) -> dict[str, Any]:
        """Return what decides the numbers of every variant and seed, as plain values."""
        return {
            **{part: asdict(getattr(self, part)) for part in _PARTS},
            **{name: getattr(self, name) for name in ("baseline", "validation", "scope", *_OWN)},
            "task_options": plain_options(self.task, self.task_options),
            "model": model_identity(task.model(0)),
            "il_model": model_identity(task.il_model(0)),
        }


def _check_one_of(what: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}")


def variants_of(methods: Sequence[str | Variant]) -> tuple[Variant, ...]:
    """Return variants, where a name of a method stands for it with cross-fit IL if it needs any."""

    def of(method: str) -> Variant:
        needs_il = method in names() and "il" in needs_of(method)
        return Variant(method, method=method, il="crossfit" if needs_il else "none")

    return tuple(m if isinstance(m, Variant) else of(m) for m in methods)


# Whatever the default dtype and device are.
_IDS: dict[str, Any] = {"dtype": torch.int64, "device": "cpu"}


@dataclass(frozen=True, eq=False)
class SeedData:
    """The task of a seed, the examples that may be trained on, and the holdout.

    Examples of the validation split have no id in `dataset`, so nothing can train on them.
    `eval_set` is that split, or the test set. Copies share a number of `groups`, from 0.
    """

    task: Task
    dataset: IndexedDataset
    eval_set: IndexedDataset
    flags: Mapping[str, Tensor]
    groups: Tensor
    held_out: Tensor
    rest: Tensor
    rows: Tensor

    @classmethod
    def make(cls, spec: Spec, seed: int) -> SeedData:
        """Draw the splits; copies of an example are on one side, else IL models have seen it."""
        task = load_task(spec.task, spec.task_options, seed)
        dataset, eval_set = task.dataset(), task.eval_set()
        n = len(dataset)
        rows = torch.arange(n, **_IDS)
        groups = _numbered(rows if task.groups is None else task.groups)
        if spec.validation > 0:
            split, rows = _validation(groups, spec.validation, seed)
            dataset, eval_set = task.dataset(rows), task.dataset(split)
            groups, n = _numbered(groups[rows]), len(rows)
        count = int(groups.max()) + 1
        place = torch.randperm(count, generator=generator(seed, "holdout"), **_IDS).argsort()
        order = place[groups].argsort(stable=True)
        held_out, rest = order.tensor_split([round(spec.holdout * n)])
        # The cut may go through the copies of one example.
        apart = ~torch.isin(groups[rest], groups[held_out])
        flags = {name: flag[rows] for name, flag in task.flags.items()}
        held_out, rest = held_out.sort().values, rest[apart].sort().values
        return cls(task, dataset, eval_set, flags, groups, held_out, rest, rows)

    def show(self, id: int) -> object:
        """Return what people see of an example."""
        assert self.task.show is not None
        return self.task.show(int(self.rows[id]))


def _numbered(groups: Tensor) -> Tensor:
    """Number groups from 0, in the order of their numbers."""
    return groups.unique(return_inverse=True)[1]  # type: ignore[no-any-return, no-untyped-call]


def _validation(groups: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw rows of the validation split, one a group, and return those without copies in it."""
    count = int(groups.max()) + 1
    rows = torch.arange(len(groups), **_IDS)
    once = torch.full((count,), len(groups), **_IDS).scatter_reduce(0, groups, rows, "amin")
    once = once.sort().values
    order = once[torch.randperm(count, generator=generator(seed, "validation"), **_IDS)]
    taken = round(share * count)
    if not 0 < taken < count:
        raise ValueError(f"validation = {share} of {count} examples are {taken}; take more")
    split = order[:taken].sort().values
    return split, (~torch.isin(groups, groups[split])).nonzero().flatten()
