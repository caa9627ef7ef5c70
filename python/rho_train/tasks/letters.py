"""The built-in task `letters`: Letter Recognition, real data that ship with the package."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rho_train.rng import generator
from rho_train.tasks.table import read_table, table_task
from rho_train.tasks.task import Task

_TEST_ROWS = 4000


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
        noise: share of the training examples whose label is drawn anew, uniformly over all
            classes, the true one included, as in the paper's code.
        hidden: widths of the hidden layers of the MLP.
        dropout: rate after each hidden layer, in [0, 1).
        il_hidden: widths of the MLP of the irreducible losses; none: as `hidden`.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> task = letters(seed=0, noise=0.1)
        >>> len(task.train), len(task.test), int(task.flags["noisy"].sum())
        (14668, 4000, 1416)
    """
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"letters: noise must lie in [0, 1], got {noise}; 0.1 hits 10 %")
    table = read_table(Path(__file__).with_name("letter_recognition.npz"), _TEST_ROWS)
    clean = table.train_y
    labels = _with_noise(clean, noise, seed)
    return table_task(
        table._replace(train_y=labels),
        hidden,
        dropout,
        il_hidden,
        name="Letter Recognition",
        classes=tuple(string.ascii_uppercase),
        flags={"noisy": labels != clean} if noise else {},
        description="14,668 real training examples in 26 classes"
        + (f", {100 * noise:g} % of their labels drawn at random" if noise else "")
        + f", and {_TEST_ROWS:,} clean test examples.",
        attribution="Slate, D. (1991). Letter Recognition. UCI Machine Learning Repository. "
        "https://doi.org/10.24432/C5ZP40 (CC BY 4.0; duplicate rows removed)",
    )


def _with_noise(labels: Tensor, rate: float, seed: int) -> Tensor:
    """Draw a share of the labels anew; an example keeps its noise in every run and subset."""
    private = generator(seed, "uniform label noise")
    hit = torch.randperm(len(labels), generator=private)[: round(rate * len(labels))]
    noisy = labels.clone()
    noisy[hit] = torch.randint(26, hit.shape, generator=private)
    return noisy
