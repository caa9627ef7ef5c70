"""The built-in tasks `table`, numbers in a file, and `letters`, which is one."""

from __future__ import annotations

import math
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
from torch import Tensor
from torch.utils.data import TensorDataset

from rho_train.checks import MakeModel, check_test
from rho_train.rng import generator
from rho_train.tasks.models import mlp
from rho_train.tasks.task import Task

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def table(
    path: Path,
    test: int = 4000,
    hidden: Sequence[int] = (256, 256),
    dropout: float = 0.0,
    il_hidden: Sequence[int] = (),
) -> Task:
    """Make a task from a .csv file, or from an .npz file with `features` (n, d) and `labels` (n,).

    Columns are separated by comma, tab, semicolon or bar. The last one has the labels, words or
    whole numbers, the others the features; a first line may name them. Labels are numbered in the
    order of numbers, then of the alphabet; integers of an .npz are class indices already. Features
    are standardised with mean and standard deviation of the training rows; a feature that is
    constant there is only centred.

    Args:
        path: of the file.
        test: how many of the last rows are the test set; shuffle a file that is in order.
        hidden: widths of the hidden layers of the MLP.
        dropout: rate after each hidden layer, in [0, 1).
        il_hidden: widths of the MLP of the irreducible losses; none: as `hidden`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .npz file of plain arrays, lacks one, or no .csv of numbers; features
            are not finite; labels are missing, fractions or no class indices; or `test` leaves no
            row.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("width,height,kind\\n1.5,2,dog\\n3,.5,cat\\n2,2,dog\\n")
        >>> task = table(path, test=1)
        >>> task.classes, task.dataset().labels.tolist()
        (('cat', 'dog'), [1, 0])
    """
    path = Path(path)
    where = f"table: {path}"
    features, labels = _read(path)
    names, all_y = _checked(where, features, labels)
    check_test(where, test, len(all_y))
    x, train = features.astype(np.float64), len(features) - test
    mean, deviation = x[:train].mean(axis=0), x[:train].std(axis=0)
    # Rounding leaves a constant feature a deviation of about 1e-17, not 0.
    constant = x[:train].min(axis=0) == x[:train].max(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        x = ((x - mean) / np.where(constant, 1.0, deviation)).astype(np.float32)
    if not np.isfinite(x).all():
        problem = "features are too large to standardise in float32; rescale them"
        raise ValueError(f"{where}: {problem}")
    all_x = torch.from_numpy(x)
    inputs, classes = x.shape[1], int(all_y.max()) + 1

    def make(widths: Sequence[int]) -> MakeModel:
        return lambda seed: mlp(inputs, widths, classes, seed=seed, dropout=dropout)

    return Task(
        name=path.stem,
        train=TensorDataset(all_x[:train], all_y[:train]),
        test=TensorDataset(all_x[train:], all_y[train:]),
        make_model=make(hidden),
        make_il_model=make(il_hidden or hidden),
        classes=names,
        show=lambda index: " ".join(f"{value:g}" for value in features[index]),
    )


def number_classes(names: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    """Return the classes, in the order of numbers, then of the alphabet, and labels int64 (n,)."""
    classes = sorted(set(names), key=_value)
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[name] for name in names]
    return tuple(classes), torch.tensor(labels, dtype=torch.int64, device="cpu")


def _value(name: str) -> tuple[float, str]:
    """Return what sorts classes: the number that a name says, or else its text."""
    return float(name) if _NUMBER.fullmatch(name) else math.inf, name


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"table: there is no file {path}; check the path")
    errors = ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error
    kind = "readable .npz file of plain arrays"
    fix = "write it with np.savez(path, features=features, labels=labels), both of numbers"
    try:
        if path.suffix.lower() != ".npz":
            kind, fix = "table of numbers", "all columns but the last, the class, must be numbers"
            return _csv(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = " and ".join(sorted({"features", "labels"} - set(arrays)))
            if missing:
                found = ", ".join(arrays) or "none"
                raise ValueError(f"it lacks the array {missing}, it has: {found}")
            return np.asarray(arrays["features"]), np.asarray(arrays["labels"])
    except errors as error:
        text = "it is no archive" if "pickle" in f"{error}" else error  # no advice to load that
        raise ValueError(f"table: {path} is not a {kind} ({text}); {fix}") from error


def _csv(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the features and, as texts, the labels of a .csv."""
    numbers: dict[str, int] = {}  # of labels, as they come
    with open(path, encoding="utf-8-sig") as file:
        lines = (line for line in file if not re.match(r"\s*(#|$)", line))
        names = next(lines, "")
        head = not re.match(r'\s*"?[-+.\d]', names)
        first = next(lines, "") if head else names
        if not first:
            raise ValueError("it has no rows")
        if re.match(r'("")?[\t;|,]', names):
            raise ValueError("its first column has no name; if it is an index, leave it out")
        rows = np.loadtxt(
            chain([first], lines),
            delimiter=max("\t;|,", key=names.count),
            quotechar='"',
            comments=None,  # C# is a label
            converters={-1: lambda text: numbers.setdefault(text.strip(), len(numbers))},
            encoding="utf-8",
            ndmin=2,
        )
    labels = np.array([*numbers], str)[rows[:, -1].astype(np.int64)]
    if not head and np.count_nonzero(labels == labels[0]) == 1:
        problem = f"line 1 alone has the label {str(labels[0])!r}"
        raise ValueError(f"{problem}; let line 1 name the columns, by words")
    return rows[:, :-1], labels


def _checked(
    where: str, features: npt.NDArray[Any], labels: npt.NDArray[Any]
) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the classes, if they have any, and the labels, or refuse the arrays."""
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "biuf":
        got = f"{features.dtype} {features.shape}"
        wanted = "features must be numbers of shape (n, d)"
        raise ValueError(f"{where}: {wanted}, got {got}; reshape the rows")
    n, number = len(features), "number the classes 0, 1, 2, ..."
    if labels.shape != (n,) or labels.dtype.kind not in "biufU":
        got = f"{labels.dtype} {labels.shape}; {number}"
        raise ValueError(f"{where}: labels must be words or integers of shape ({n},), got {got}")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        problem = f"row {np.argmin(finite)} is not; remove or fill such rows"
        raise ValueError(f"{where}: features must be finite, {problem}")
    if labels.dtype.kind == "U":
        names = {label: _class_name(where, label) for label in set(labels.tolist())}
        return number_classes([names[label] for label in labels.tolist()])
    valid = (labels >= 0) & (labels < n) & (np.rint(labels) == labels)
    if not valid.all():
        row = int(np.argmin(valid))
        got = f"{labels[row]} in row {row}; {number}"
        raise ValueError(f"{where}: labels must be class indices in [0, {n}), got {got}")
    return (), torch.from_numpy(labels.astype(np.int64))


def _class_name(where: str, label: str) -> str:
    """Return a word as it is and a whole number, such as 1.0 or 1e0, as an integer."""
    try:
        value = float(label.replace("_", "x"))  # to Python 1_0 is 10
    except ValueError:
        if label.strip():
            return label
        value = math.nan
    if abs(value) < 2**53 and value.is_integer():
        return f"{int(value)}"
    wanted = "labels must be words or whole numbers"
    raise ValueError(f"{where}: {wanted}, got {label!r}; fill or round it")


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
