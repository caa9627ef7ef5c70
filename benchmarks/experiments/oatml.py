"""Convert irred_losses_and_checks.pt of the reference implementation (OATML/RHO-Loss) to a store.

python benchmarks/experiments/oatml.py irred_losses_and_checks.pt --labels labels.npy
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rho_train import ILStore, IndexedDataset

_KEYS = ("irreducible_losses", "sorted_targets", "idx_of_control_images", "control_images")


def convert(
    path: Path, dataset: IndexedDataset | None = None, *, compare_inputs: bool = True
) -> ILStore:
    """Read such a file without running code from it.

    It ends with the last example that was scored, and has neither loss nor label of an example that
    was not. With the whole data set, the labels of all scored examples are compared, and the inputs
    of the file's control images, as the reference does before training.

    Args:
        path: of the file.
        dataset: all examples, (x, y) with the ids of the reference. None: the file has them all.
        compare_inputs: whether to compare control images; not with augmentation.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind; labels or inputs differ from those of the data
            set; or without a data set: labels are missing.
    """
    content = _read(path)
    losses, targets = content["irreducible_losses"], content["sorted_targets"]
    known = ~losses.isnan()
    if dataset is None:
        if not bool(known.all()):
            raise ValueError(
                f"{path} has no loss and no label for {int((~known).sum())} of {len(known)} "
                f"examples, the first has id {int((~known).nonzero()[0])}; give --labels"
            )
        dataset = IndexedDataset(range(len(losses)), labels=targets)
    else:
        _compare(path, content, dataset, compare_inputs)
    il = torch.full((len(dataset),), torch.nan)
    il[: len(losses)] = losses
    info = {"kind": "converted from the reference implementation", "file": Path(path).name}
    for name in ("heldout_average_loss", "heldout_accuracy"):
        if name in content:
            info[name] = f"{float(content[name]):.6f}"
    return ILStore.of(dataset, il, info=info)


def _read(path: Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or holds more than tensors and numbers "
            f"({str(error).splitlines()[0]}); give irred_losses_and_checks.pt"
        ) from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; give irred_losses_and_checks.pt as the reference "
            "implementation writes it"
        )
    losses, targets = content["irreducible_losses"], content["sorted_targets"]
    if not isinstance(losses, Tensor) or not losses.is_floating_point() or losses.ndim != 1:
        raise ValueError(f"{path}: irreducible_losses must be floats (N,)")
    whole = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not whole or targets.shape != losses.shape:
        raise ValueError(f"{path}: sorted_targets must be integers of shape {tuple(losses.shape)}")
    return {**content, "irreducible_losses": losses.float(), "sorted_targets": targets.long()}


def _compare(
    path: Path, content: dict[str, Any], dataset: IndexedDataset, compare_inputs: bool
) -> None:
    def differ(what: str) -> ValueError:
        return ValueError(f"{path} belongs to another data set or another order of it: {what}")

    targets, known = content["sorted_targets"], ~content["irreducible_losses"].isnan()
    if len(known) > len(dataset):
        raise differ(f"it has {len(known)} examples, the data set has {len(dataset)}")
    wrong = (known & (targets != dataset.labels[: len(known)])).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise differ(
            f"{len(wrong)} of {int(known.sum())} labels differ, the first at id {first}: "
            f"file {int(targets[first])}, data set {int(dataset.labels[first])}"
        )
    if not compare_inputs:
        return
    pairs = zip(content["idx_of_control_images"], content["control_images"], strict=True)
    for id, wanted in pairs:
        # 0 where the example was not scored.
        if isinstance(wanted, Tensor) and not torch.equal(dataset[int(id)].x.cpu(), wanted):
            raise differ(
                f"the input of id {int(id)} differs; with augmentation pass compare_inputs=False"
            )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("path", type=Path, help="irred_losses_and_checks.pt")
    parser.add_argument("--out", type=Path, default=Path("il.safetensors"), help="the store")
    parser.add_argument("--labels", type=Path, help="an .npy file with the labels of all examples")
    arguments = parser.parse_args(argv)
    dataset = None
    if arguments.labels is not None:
        labels = np.load(arguments.labels, allow_pickle=False)
        dataset = IndexedDataset(range(len(labels)), labels=labels)
    try:
        store = convert(arguments.path, dataset, compare_inputs=False)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"oatml: {error}") from error
    store.save(arguments.out)
    print(f"{arguments.out}: {int(store.known.sum())} of {len(store.il)} examples have an IL")


if __name__ == "__main__":
    main()
