"""The built-in task `letters`: Letter Recognition, real data that ship with the package."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from rho_train.rng import generator
from rho_train.tasks.table import table
from rho_train.tasks.task import Task


def letters(
    seed: int = 0,
    noise: float = 0.0,
    hidden: Sequence[int] = (256, 256),
    dropout: float = 0.0,
    il_hidden: Sequence[int] = (),
) -> Task:
    """Make the task Letter Recognition: 16 measurements of printed capital letters, 26 classes.

    14,668 training and 4,000 test examples without duplicates, features standardised. Slate, D.
    (1991), UCI Machine Learning Repository, doi 10.24432/C5ZP40, CC BY 4.0.

    Args:
        seed: of the label noise.
        noise: share of the training labels, in [0, 1], drawn anew, uniformly over all classes, the
            true one included, as in the paper's code.
        hidden, dropout, il_hidden: of the MLP, see `table`.

    Example:
        >>> task = letters(seed=0, noise=0.1)
        >>> len(task.train), len(task.test), int(task.flags["noisy"].sum())
        (14668, 4000, 1411)
    """
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"letters: noise must lie in [0, 1], got {noise}; 0.1 hits 10 %")
    path = Path(__file__).with_name("letter_recognition.npz")
    clean = table(path, 4000, hidden, dropout, il_hidden)
    assert isinstance(clean.train, TensorDataset)
    x, y = clean.train.tensors
    # An example keeps its noise in every run and subset.
    draw: Any = {"generator": generator(seed, "uniform label noise"), "dtype": torch.int64}
    hit = torch.randperm(len(y), device="cpu", **draw)[: round(noise * len(y))]
    labels = y.index_put((hit,), torch.randint(26, hit.shape, device="cpu", **draw))
    return replace(
        clean,
        name="Letter Recognition",
        train=TensorDataset(x, labels),
        classes=tuple(string.ascii_uppercase),
        flags={"noisy": labels != y} if noise else {},
        description="14,668 real training examples in 26 classes"
        + (f", {100 * noise:g} % of their labels drawn at random" if noise else "")
        + ", and 4,000 clean test examples.",
        attribution="Slate, D. (1991). Letter Recognition. UCI Machine Learning Repository. "
        "https://doi.org/10.24432/C5ZP40 (CC BY 4.0; duplicate rows removed)",
    )
