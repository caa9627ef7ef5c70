"""Checkpoints are verified; digests of models and names of functions are stable."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from rho_train import ILRecipe, IndexedDataset, holdout_il
from rho_train.identity import architecture_digest, name_of
from rho_train.progress import Stopped
from rho_train.run_folder import load_checkpoint, save_checkpoint

from .ways import make_trainer

PROGRAM = """
from functools import partial
import torch.nn.functional as F
from torch import nn
from rho_train.identity import name_of
from rho_train.identity import architecture_digest
print(architecture_digest(nn.TransformerEncoderLayer(8, 2, 16)))
print(name_of(partial(F.cross_entropy, weight=None, other=F.relu)))
"""


@pytest.mark.slow
def test_they_are_the_same_at_every_start() -> None:
    command = [sys.executable, "-c", PROGRAM]
    # Not here, where the source tree would hide what is installed.
    ended = subprocess.run(command, cwd=sys.prefix, capture_output=True, text=True, check=True)
    found = ended.stdout.split("\n")
    assert found[0] == architecture_digest(nn.TransformerEncoderLayer(8, 2, 16))
    assert found[1] == name_of(partial(F.cross_entropy, weight=None, other=F.relu))
    assert found[1] == "cross_entropy(weight=None, other=relu)"


def test_options_of_an_encoder_layer_are_seen() -> None:
    options: dict[str, Any] = {"d_model": 8, "nhead": 2, "dim_feedforward": 16}
    others: list[dict[str, Any]] = [
        {},
        {"nhead": 4},
        {"activation": "gelu"},
        {"norm_first": True},
        {"dropout": 0.2},
        {"dim_feedforward": 32},
    ]
    layers = [nn.TransformerEncoderLayer(**{**options, **other}) for other in others]
    assert len({architecture_digest(layer) for layer in layers}) == len(others)


def test_weights_and_modes_are_not_seen() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = architecture_digest(model)
    model(torch.randn(4, 3))
    assert architecture_digest(model.eval().requires_grad_(False)) == before


def stop_after(steps: int) -> Callable[[int], bool]:
    made: list[int] = []
    return lambda count: made.append(count) or sum(made) >= steps  # type: ignore[func-returns-value]


def resumable(out: Path) -> dict[str, Callable[[], object]]:
    """Leave a file of every kind, each with the work that reads it."""
    generator = torch.Generator().manual_seed(0)
    data = IndexedDataset(
        TensorDataset(torch.randn(40, 4, generator=generator), torch.arange(40) % 3)
    )

    def il(folder: Path, on_step: Callable[[int], bool] = lambda _: False) -> None:
        def make(seed: int) -> nn.Module:
            torch.manual_seed(0)
            return nn.Linear(4, 3)

        recipe = ILRecipe(epochs=3, batch_size=10)
        holdout_il(make, data, torch.arange(20), recipe, folder=folder, on_step=on_step)

    il(out / "whole")
    with pytest.raises(Stopped):
        il(out / "part", stop_after(3))
    with pytest.raises(Stopped):
        make_trainer(out / "run", "micro-batches").fit(stop_after(2))
    return {
        "run/checkpoint.pt": lambda: make_trainer(out / "run", "micro-batches"),
        "part/model-0/training.pt": lambda: il(out / "part"),
        "whole/model-0/training.pt": lambda: il(out / "whole"),
        "whole/model-0/losses-4096-0000000000.pt": lambda: il(out / "whole"),
    }


@pytest.mark.parametrize("flips", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_accepted(tmp_path: Path, flips: int) -> None:
    draws = random.Random(0)
    for name, work in resumable(tmp_path).items():
        path = tmp_path / name
        whole = path.read_bytes()
        torch.load(path, weights_only=True)  # which needs none of this package
        for flip in range(flips):
            damaged = bytearray(whole)
            damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=rf"{path.name} is damaged .*; restore it .*, or"):
                load_checkpoint(path, {})
            if flip == 0:
                with pytest.raises(ValueError, match=rf"{path.name} is damaged"):
                    work()
        # What the error says is enough.
        path.unlink()
        work()


def test_files_that_are_cut_empty_or_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint(path, {"w": torch.ones(3)})
    whole = path.read_bytes()
    torch.save({"w": torch.ones(3)}, tmp_path / "other.pt")
    for content in (
        b"",
        whole[:30],
        whole[:-1],
        whole + b"0",
        (tmp_path / "other.pt").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or of another version"):
            load_checkpoint(path, {})
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "missing.pt", {})
