"""Irreducible losses that the reference implementation wrote (OATML/RHO-Loss, Apache-2.0)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rho_train.batch import split
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.il.store import ILStore

_KEYS = ("irreducible_losses", "sorted_targets", "idx_of_control_images", "control_images")


def convert_reference(
    path: Path, dataset: IndexedDataset | None = None, *, compare_inputs: bool = True
) -> ILStore:
    """Read `irred_losses_and_checks.pt`, without running code from it.

    Such a file ends with the last point that was scored, and knows neither loss nor label of a
    point that was not. So give the whole data set: all labels of scored points are compared with
    it, and the inputs of the file's control points, as the reference does before training.

    Args:
        path: of the file.
        dataset: all points, with the ids of the reference. None: the file knows all of them.
        compare_inputs: whether to compare control points; not with augmentation.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind; labels or inputs differ from the data set's;
            or without a data set: labels are missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "irred_losses_and_checks.pt"
        >>> losses = torch.tensor([0.5, float("nan"), 0.25])
        >>> torch.save({"irreducible_losses": losses, "sorted_targets": torch.tensor([1, 0, 2]),
        ...     "idx_of_control_images": [1], "control_images": [0]}, path)
        >>> convert_reference(path, IndexedDataset("abcd", labels=[1, 2, 2, 0]),
        ...     compare_inputs=False).il
        tensor([0.5000,    nan, 0.2500,    nan])
    """
    content = _read(path)
    losses, targets = content["irreducible_losses"], content["sorted_targets"]
    known = ~losses.isnan()
    if dataset is None:
        if not bool(known.all()):
            raise ValueError(
                f"convert_reference: {path} has no loss and no label for {int((~known).sum())} of "
                f"{len(known)} points, the first has id {int((~known).nonzero()[0])}; give the "
                "data set, or its labels"
            )
        dataset = IndexedDataset(range(len(losses)), labels=targets)
    else:
        _compare(path, content, dataset, known, compare_inputs)
    il = torch.full((len(dataset),), torch.nan)
    il[: len(losses)] = losses
    info = {"kind": "converted from the reference implementation", "file": Path(path).name}
    for name in ("heldout_average_loss", "heldout_accuracy"):
        if name in content:
            info[name] = f"{float(content[name]):.6f}"
    return ILStore(il, fingerprint(dataset), info=info)


def _read(path: Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"convert_reference: there is no file {path}; check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(
            f"convert_reference: {path} is damaged or holds more than tensors and numbers "
            f"({str(error).splitlines()[0]}); give irred_losses_and_checks.pt"
        ) from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(
            f"convert_reference: {path} lacks {', '.join(missing)}; give "
            "irred_losses_and_checks.pt as the reference implementation writes it"
        )
    losses, targets = content["irreducible_losses"], content["sorted_targets"]
    if not isinstance(losses, Tensor) or not losses.is_floating_point() or losses.ndim != 1:
        raise ValueError(f"convert_reference: {path}: irreducible_losses must be floats (N,)")
    if (
        not isinstance(targets, Tensor)
        or targets.is_floating_point()
        or targets.shape != losses.shape
    ):
        raise ValueError(
            f"convert_reference: {path}: sorted_targets must be integers of shape "
            f"{tuple(losses.shape)}"
        )
    return {**content, "irreducible_losses": losses.float(), "sorted_targets": targets.long()}


def _compare(
    path: Path,
    content: dict[str, Any],
    dataset: IndexedDataset,
    known: Tensor,
    compare_inputs: bool,
) -> None:
    def differ(what: str) -> ValueError:
        return ValueError(
            f"convert_reference: {path} belongs to another data set or another order of it: {what}"
        )

    if len(known) > len(dataset):
        raise differ(f"it has {len(known)} points, the data set has {len(dataset)}")
    targets, labels = content["sorted_targets"], dataset.labels[: len(known)]
    wrong = (known & (targets != labels)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise differ(
            f"{len(wrong)} of {int(known.sum())} labels differ, the first at id {first}: "
            f"file {int(targets[first])}, data set {int(labels[first])}"
        )
    if not compare_inputs:
        return
    for point, wanted in zip(
        content["idx_of_control_images"], content["control_images"], strict=True
    ):
        if isinstance(wanted, Tensor):  # 0 where the point was not scored
            sample = split(dataset.collate([dataset[int(point)]]), "convert_reference")
            if not torch.equal(sample.inputs[0].cpu(), wanted):
                raise differ(
                    f"the input of id {int(point)} differs; with augmentation pass "
                    "compare_inputs=False"
                )
