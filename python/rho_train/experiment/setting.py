"""What all methods share under one seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rho_train.data import ClassificationData, IndexedDataset, generator, uniform_label_noise
from rho_train.experiment.config import ExperimentConfig, Method


@dataclass(frozen=True, eq=False)
class Setting:
    """Noisy labels and the split."""

    data: ClassificationData
    dataset: IndexedDataset
    noisy: Tensor
    held_out: Tensor
    rest: Tensor

    @classmethod
    def make(cls, config: ExperimentConfig, seed: int) -> Setting:
        """Draw noise and split from `seed`."""
        data = config.data.load()
        labels, noisy = uniform_label_noise(
            data.train_y, config.data.noise, data.num_classes, seed=seed
        )
        n = len(labels)
        order = torch.randperm(n, generator=generator(seed, "holdout"))
        count = round(config.holdout * n)
        dataset = IndexedDataset(TensorDataset(data.train_x, labels))
        return cls(data, dataset, noisy, order[:count].sort().values, order[count:].sort().values)

    def points(self, method: Method) -> Tensor:
        """Return the ids that a method trains on."""
        return torch.arange(len(self.dataset)) if method.points == "all" else self.rest
