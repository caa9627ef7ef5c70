"""What all methods share under one seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rho_train.data.corruption import Corruption
from rho_train.dataset import IndexedDataset
from rho_train.experiment.config import ExperimentConfig, Method
from rho_train.flags import ExampleFlags
from rho_train.rng import generator
from rho_train.tasks.classification import ClassificationData
from rho_train.tasks.image_files import ImageFiles

# Below it, an annotator's confidence says that the label may well be wrong.
_SURE = 0.7


@dataclass(frozen=True, eq=False)
class Setting:
    """The data as they are trained on, what is wrong with them, and the split.

    The points of the validation split are in none of `data`, `dataset` and `corruption`: they have
    no id, so nothing can train on them or score them. `watched` are inputs and labels of the curves
    over time: of the validation split, or of the test set where there is none.
    """

    data: ClassificationData
    dataset: IndexedDataset
    corruption: Corruption
    watched: tuple[Tensor | ImageFiles, Tensor]
    held_out: Tensor
    rest: Tensor

    @classmethod
    def make(cls, config: ExperimentConfig, seed: int) -> Setting:
        """Draw corruption and split from `seed`.

        The copies of a point are on one side: else the holdout model has seen what it scores.
        """
        clean = config.data.load()
        corruption = config.data.corrupt(clean, seed)
        data = corruption.apply(clean)
        watched: tuple[Tensor | ImageFiles, Tensor] = (data.test_x, data.test_y)
        if config.validation > 0:
            split, kept = _validation(corruption, config.validation, seed)
            watched = (data.train_x[split], data.train_y[split])
            data, corruption = data.take(train=kept), corruption.take(kept)
        n = len(data.train_y)
        points = n - int(corruption.redundant.sum())
        place = torch.randperm(points, generator=generator(seed, "holdout")).argsort()
        order = place[corruption.source].argsort(stable=True)
        count = round(config.holdout * n)
        held_out, rest = order[:count], order[count:]
        # The cut may go through the copies of one point.
        apart = ~torch.isin(corruption.source[rest], corruption.source[held_out])
        return cls(
            data,
            data.dataset(),
            corruption,
            watched,
            held_out.sort().values,
            rest[apart].sort().values,
        )

    @property
    def flags(self) -> ExampleFlags:
        """What is known of the points: how they were corrupted, and where annotators doubted."""
        if self.data.confidence is None:
            return self.corruption.flags
        return self.corruption.flags.adding(unsure=self.data.confidence < _SURE)

    def points(self, method: Method) -> Tensor:
        """Return the ids that a method trains on."""
        return torch.arange(len(self.dataset)) if method.points == "all" else self.rest


def training_points(config: ExperimentConfig, data: ClassificationData, seed: int) -> int:
    """Return how many points have an id: copies count, those of the validation split do not."""
    corruption = config.data.corrupt(data, seed)
    if config.validation > 0:
        return len(_validation(corruption, config.validation, seed)[1])
    return len(corruption.label)


def _validation(corruption: Corruption, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the ids of the validation split, each point once, and those that are left to train on.

    The copies of a point leave with it: a model that trained on one would know it.
    """
    once = (~corruption.redundant).nonzero().flatten()
    order = once[torch.randperm(len(once), generator=generator(seed, "validation"))]
    count = round(share * len(once))
    if not 0 < count < len(once):
        raise ValueError(f"validation = {share} of {len(once)} points are {count}; take more")
    split = order[:count].sort().values
    return split, (~torch.isin(corruption.source, split)).nonzero().flatten()
