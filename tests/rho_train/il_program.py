"""A program that computes IL with a checkpoint after every step, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from rho_train import ILRecipe, ILStore, IndexedDataset, crossfit_il
from rho_train.il import train


def make(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Dropout tells whether the random state is restored too.
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))


def compute(folder: Path | None) -> ILStore:
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    data = IndexedDataset(TensorDataset(x, (x[:, 0] > 0).long()))
    recipe = ILRecipe(epochs=3, batch_size=32, scoring_batch=2)
    return crossfit_il(make, data, 2, recipe, folder=folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train._CHECKPOINT_SECONDS = 0.0
    compute(Path(sys.argv[1]) / "work")
