"""Classification data from a table of numbers."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rho_train.tasks.classification import ClassificationData


def load_table(path: Path, test: int) -> ClassificationData:
    """Load an .npz file with the arrays `features` (n, d) and `labels` (n,).

    The last `test` rows are the test set. Features are standardised with the mean and standard
    deviation of the training rows; a feature that is constant there is only centred. The number of
    classes is one more than the largest label.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .npz file, lacks an array, holds pickled objects, features that are
            not finite numbers or labels that are not class indices, or `test` leaves no row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.npz"
        >>> np.savez(path, features=np.random.rand(10, 3), labels=np.arange(10) % 2)
        >>> load_table(path, test=4).train_x.shape
        torch.Size([6, 3])
    """
    path = Path(path)
    features, labels = _read(path)
    _check(features, labels, test, path)
    x, train = features.astype(np.float64), len(features) - test
    mean, deviation = x[:train].mean(axis=0), x[:train].std(axis=0)
    # Rounding leaves a constant feature a deviation of about 1e-17, not 0.
    constant = x[:train].min(axis=0) == x[:train].max(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        x = ((x - mean) / np.where(constant, 1.0, deviation)).astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(
            f"load_table: {path}: features are too large to standardise in float32; rescale them"
        )
    features_t, labels_t = torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64))
    return ClassificationData(
        train_x=features_t[:train],
        train_y=labels_t[:train],
        test_x=features_t[train:],
        test_y=labels_t[train:],
        num_classes=int(labels.max()) + 1,
        name=path.stem,
        split=f"the last {test:,} rows are the test set",
    )


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"load_table: there is no file {path}; check the path")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = {"features", "labels"} - set(arrays)
            if not missing:
                return arrays["features"], arrays["labels"]
            found = ", ".join(arrays) or "none"
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as bad:
        raise ValueError(
            f"load_table: {path} is not a readable .npz file of plain arrays ({bad}); write it "
            "with np.savez(path, features=features, labels=labels)"
        ) from bad
    raise ValueError(
        f"load_table: {path} lacks the array {' and '.join(sorted(missing))} (it has: {found}); "
        "write it with np.savez(path, features=features, labels=labels)"
    )


def _check(features: npt.NDArray[Any], labels: npt.NDArray[Any], test: int, path: Path) -> None:
    def bad(what: str) -> ValueError:
        return ValueError(f"load_table: {path}: {what}")

    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "biuf":
        raise bad(
            f"features must be numbers of shape (n, d), got {features.dtype} {features.shape}; "
            "reshape each row to one dimension"
        )
    n = len(features)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise bad(
            f"labels must be integers of shape ({n},), got {labels.dtype} {labels.shape}; "
            "number the classes 0, 1, 2, ..."
        )
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise bad(f"features must be finite, row {row} is not; remove or fill such rows")
    if labels.min() < 0 or labels.max() >= n:
        raise bad(
            f"labels must be class indices in [0, {n}), got {labels.min()} to {labels.max()}; "
            "number the classes 0, 1, 2, ..."
        )
    if not 1 <= test < n:
        raise bad(f"test must lie in [1, {n}), the number of rows, got {test}")
