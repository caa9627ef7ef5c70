"""The data of one seed: training set, evaluation set, and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rho_train.comparison.spec import Spec, Variant
from rho_train.dataset import IndexedDataset
from rho_train.rng import generator
from rho_train.tasks.task import Task, load_task

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
        n = len(task.dataset())
        copies = torch.arange(n, **_IDS) if task.groups is None else task.groups
        groups = _numbered(copies)
        rows, dataset, eval_set = torch.arange(n, **_IDS), task.dataset(), task.eval_set()
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

    def train_ids(self, variant: Variant) -> Tensor:
        """Return the ids that a variant trains on."""
        return torch.arange(len(self.dataset), **_IDS) if variant.examples == "all" else self.rest

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
