"""The average of several stores of irreducible losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rho_train.il.checksums import differences
from rho_train.il.store import ILStore


def average_il(stores: Sequence[ILStore]) -> ILStore:
    """Average the irreducible losses of several seeds: il_i = (1/S) sum_s il_i^(s), in float64.

    An example that is unknown (NaN) in one store stays unknown. The result has `fold` if all stores
    agree, input checksums if all have them, the labels of the first that has some, the texts of all
    `info`, and the sum of "seconds".

    Raises:
        ValueError: no store, or stores of different data sets or losses.

    Example:
        >>> of_data = {"n": "2", "labels": "none", "ids": "position"}
        >>> def store(*il): return ILStore(torch.tensor(il), of_data)
        >>> average_il([store(0.1, 1.0), store(0.3, float("nan"))]).il
        tensor([0.2000,    nan])
    """
    if not stores:
        raise ValueError("average_il: there must be at least one store, got none")
    first = stores[0]
    inputs = [store.input_checksums for store in stores if store.input_checksums]
    for number, store in enumerate(stores):
        differing = [k for k, v in first.fingerprint.items() if store.fingerprint[k] != v]
        if (
            not differing
            and store.input_checksums
            and differences(inputs[0], store.input_checksums)
        ):
            differing = ["inputs"]
        if differing:
            raise ValueError(
                f"average_il: stores 0 and {number} belong to different data sets "
                f"({', '.join(differing)} differ); average stores of one data set"
            )
    info = {"stores": str(len(stores))}
    for key in dict.fromkeys(key for store in stores for key in store.info):
        texts = [store.info.get(key, "") for store in stores]
        if key == "loss_function":  # stores made elsewhere may not name theirs
            texts = [text for text in texts if text]
            if len(set(texts)) > 1:
                names = ", ".join(sorted(set(texts)))
                raise ValueError(f"average_il: the stores hold different losses, {names}; give one")
        info[key] = texts[0] if len(set(texts)) == 1 else "; ".join(texts)
    info["seconds"] = f"{sum(float(store.info.get('seconds', 0)) for store in stores):.3f}"
    total = torch.zeros(len(first), dtype=torch.float64, device="cpu")
    for store in stores:
        total += store.il
    folds = [store.fold for store in stores if store.fold is not None]
    agree = len(folds) == len(stores) and all(fold.equal(folds[0]) for fold in folds)
    return ILStore(
        (total / len(stores)).float(),
        first.fingerprint,
        folds[0] if agree else None,
        info,
        inputs[0] if len(inputs) == len(stores) else (),
        next((store.labels for store in stores if store.labels is not None), None),
    )
