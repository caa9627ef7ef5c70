"""The built-in tasks `table`, numbers in a file, and `letters`, which is one."""

from __future__ import annotations

import re
import string
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import TensorDataset

from rho_train.checks import MakeModel, check_test
from rho_train.rng import generator
from rho_train.tasks.models import mlp
from rho_train.tasks.task import Task


def table(
    path: Path,
    test: int = 4000,
    hidden: Sequence[int] = (256, 256),
    dropout: float = 0.0,
    il_hidden: Sequence[int] = (),
) -> Task:
    """Make a task from an .npz file with the arrays `features` (n, d) and `labels` (n,), or a .csv.

    The last column of a .csv are the labels, the others the features; a first line may name them.
    Features are standardised with mean and standard deviation of the training rows; a feature that
    is constant there is only centred. The number of classes is one more than the largest label.

    Args:
        path: of the file.
        test: how many of the last rows are the test set.
        hidden: widths of the hidden layers of the MLP.
        dropout: rate after each hidden layer, in [0, 1).
        il_hidden: widths of the MLP of the irreducible losses; none: as `hidden`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .npz file of plain arrays, lacks one, or no .csv of numbers; features
            are not finite, or labels no class indices; or `test` leaves no row.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.npz"
        >>> np.savez(path, features=np.random.rand(10, 3), labels=np.arange(10) % 2)
        >>> len(table(path, test=4).train)
        6
    """
    path = Path(path)
    features, labels = _read(path)
    try:
        numbers = _checked(features, labels)
        check_test("table", test, len(numbers))
        x, train = features.astype(np.float64), len(features) - test
        mean, deviation = x[:train].mean(axis=0), x[:train].std(axis=0)
        # Rounding leaves a constant feature a deviation of about 1e-17, not 0.
        constant = x[:train].min(axis=0) == x[:train].max(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            x = ((x - mean) / np.where(constant, 1.0, deviation)).astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError("features are too large to standardise in float32; rescale them")
    except ValueError as error:
        raise ValueError(f"table: {path}: {error}") from error
    all_x, all_y = torch.from_numpy(x), torch.from_numpy(numbers)
    inputs, classes = x.shape[1], int(numbers.max()) + 1

    def make(widths: Sequence[int]) -> MakeModel:
        return lambda seed: mlp(inputs, widths, classes, seed=seed, dropout=dropout)

    return Task(
        name=path.stem,
        train=TensorDataset(all_x[:train], all_y[:train]),
        test=TensorDataset(all_x[train:], all_y[train:]),
        make_model=make(hidden),
        make_il_model=make(il_hidden or hidden),
    )


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"table: there is no file {path}; check the path")
    errors = ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error
    kind = "readable .npz file of plain arrays"
    fix = "write it with np.savez(path, features=features, labels=labels), both of numbers"
    try:
        if path.suffix.lower() == ".csv":
            kind, fix = "table of numbers", "the last column has the class, 0, 1, 2, ..."
            with open(path, encoding="utf-8-sig") as lines:
                first = lines.readline()
                head = not re.match(r"\s*[-+.\d]", first)
                rows = np.loadtxt(lines if head else chain([first], lines), delimiter=",", ndmin=2)
            return rows[:, :-1], rows[:, -1]
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = " and ".join(sorted({"features", "labels"} - set(arrays)))
            if missing:
                found = ", ".join(arrays) or "none"
                raise ValueError(f"it lacks the array {missing}, it has: {found}")
            return np.asarray(arrays["features"]), np.asarray(arrays["labels"])
    except errors as error:
        text = "it is no archive" if "pickle" in f"{error}" else error  # no advice to load that
        raise ValueError(f"table: {path} is not a {kind} ({text}); {fix}") from error


def _checked(features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the labels as integers, or refuse the arrays."""
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "biuf":
        got = f"{features.dtype} {features.shape}"
        raise ValueError(f"features must be numbers of shape (n, d), got {got}; reshape the rows")
    n, number = len(features), "number the classes 0, 1, 2, ..."
    if labels.shape != (n,) or labels.dtype.kind not in "biuf":
        got = f"{labels.dtype} {labels.shape}; {number}"
        raise ValueError(f"labels must be integers of shape ({n},), got {got}")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"features must be finite, row {row} is not; remove or fill such rows")
    valid = (labels >= 0) & (labels < n) & (np.rint(labels) == labels)
    if not valid.all():
        row = int(np.argmin(valid))
        got = f"{labels[row]} in row {row}; {number}"
        raise ValueError(f"labels must be class indices in [0, {n}), got {got}")
    return labels.astype(np.int64)


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

    Examples:
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
