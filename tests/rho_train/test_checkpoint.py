"""Digests of models and names of functions: the same at every start."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rho_train.checkpoint import architecture_digest
from rho_train.identity import name_of

PROGRAM = """
from functools import partial
import torch.nn.functional as F
from torch import nn
from rho_train.identity import name_of
from rho_train.checkpoint import architecture_digest
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
