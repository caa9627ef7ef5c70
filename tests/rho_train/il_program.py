"""A program that computes IL with a checkpoint after every step, to be killed or run on ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from rho_train import ILRecipe, ILStore, IndexedDataset, crossfit_il, pretrained_il
from rho_train.il import score, train


def make(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Dropout tells whether the random state is restored too.
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))


def dataset() -> IndexedDataset:
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    return IndexedDataset(TensorDataset(x, (x[:, 0] > 0).long()))


def compute(folder: Path | None) -> ILStore:
    recipe = ILRecipe(epochs=3, batch_size=32, scoring_batch=2)
    return crossfit_il(make, dataset(), 2, recipe, folder=folder)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    train._CHECKPOINT_SECONDS = 0.0
    rank, done = os.environ.get("RANK", ""), list[str]()
    if rank:
        torch.distributed.init_process_group("gloo")
        step, save = train.training_step, score.save_checkpoint
        train.training_step = lambda *a, **k: (done.append("step"), step(*a, **k))[1]
        score.save_checkpoint = lambda *a: (done.append("piece"), save(*a))[1]
    compute(out / "work").save(out / f"il{rank}.safetensors")
    if rank:
        model, data = make(0), dataset()
        shared = pretrained_il(model, data, batch_size=2, folder=out / "pretrained")
        assert torch.equal(shared.il, pretrained_il(model, data, batch_size=2).il)
    (out / f"done{rank}").write_text(" ".join(done))
    if rank:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
