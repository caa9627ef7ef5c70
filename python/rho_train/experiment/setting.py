"""What all methods share under one seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rho_train.data import ClassificationData, Corruption, IndexedDataset, PointFlags, generator
from rho_train.experiment.config import ExperimentConfig, Method

# Below it, an annotator's confidence says that the label may well be wrong.
_SURE = 0.7


@dataclass(frozen=True, eq=False)
class Setting:
    """The data as they are trained on, what is wrong with them, and the split."""

    data: ClassificationData
    dataset: IndexedDataset
    corruption: Corruption
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
        n = len(data.train_y)
        points = n - int(corruption.redundant.sum())
        place = torch.randperm(points, generator=generator(seed, "holdout")).argsort()
        order = place[corruption.source].argsort(stable=True)
        count = round(config.holdout * n)
        held_out, rest = order[:count], order[count:]
        # The cut may go through the copies of one point.
        apart = ~torch.isin(corruption.source[rest], corruption.source[held_out])
        return cls(
            data, data.dataset(), corruption, held_out.sort().values, rest[apart].sort().values
        )

    @property
    def flags(self) -> PointFlags:
        """What is known of the points: how they were corrupted, and where annotators doubted."""
        if self.data.confidence is None:
            return self.corruption.flags
        return self.corruption.flags.adding(unsure=self.data.confidence < _SURE)

    def points(self, method: Method) -> Tensor:
        """Return the ids that a method trains on."""
        return torch.arange(len(self.dataset)) if method.points == "all" else self.rest
