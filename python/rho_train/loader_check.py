"""A check that a DataLoader keeps the ids, and has the examples of a store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rho_train.batch import Fields, describe, split
from rho_train.dataset import check_indexed, check_map_style, indexed_inside
from rho_train.il.store import ILStore
from rho_train.rng import global_seed


def check_loader(loader: DataLoader[Any], store: ILStore | None = None) -> None:
    """Follow the ids of a first batch through a DataLoader, and name the step that loses them.

    For loops of your own, once before training; `Trainer` needs no such check. The random states
    are restored.

    Args:
        loader: a torch DataLoader, or an object with its `dataset`, `collate_fn` and batches.
        store: irreducible losses, whose labels are compared with those of the first batch.

    Raises:
        TypeError, ValueError: the data set is a stream or adds no ids, those of several
            IndexedDatasets would clash, or the collate_fn or the DataLoader loses or changes them;
            the store was computed for examples with other labels, such as data in another order.

    Example:
        >>> from rho_train import IndexedDataset
        >>> data = IndexedDataset([(0.5, 0), (0.7, 1)], labels=[0, 1])
        >>> check_loader(DataLoader(data, batch_size=2))
        >>> drop = lambda samples: torch.tensor([x for x, y, ids in samples])
        >>> check_loader(DataLoader(data, batch_size=2, collate_fn=drop))
        Traceback (most recent call last):
        ValueError: check_loader: the collate_fn <lambda> loses or changes the ids: of examples \
with the ids [0, 1] it makes float32 tensor (2,) with None; keep them, as torch.tensor(ids)
    """
    dataset = loader.dataset
    check_map_style("check_loader", dataset)
    if len(indexed_inside(dataset)) > 1:
        check_indexed("check_loader", dataset)
    own = getattr(loader, "generator", None)
    drawn = None if own is None else own.get_state()
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices), global_seed(0):
            first = _follow(loader)
            if store is not None:
                store.check_labels(first.ids, first.labels)
    finally:
        if own is not None:
            own.set_state(drawn)


def _follow(loader: DataLoader[Any]) -> Fields:
    """Return the fields of the first batch."""
    dataset = loader.dataset
    samples = [dataset[position] for position in range(min(2, len(dataset)))]  # type: ignore[arg-type]
    ids = [_id_of(sample) for sample in samples]
    if None in ids:
        got = f"an example of {type(dataset).__name__} is {describe(samples[0])}"
        fix = "wrap it: rho_train.IndexedDataset(dataset)"
        raise TypeError(f"check_loader: the data set adds no ids: {got}; {fix}")
    collate = loader.collate_fn
    name = getattr(collate, "__qualname__", type(collate).__name__).split(".")[-1]
    fields: Fields | None = None
    for step, batch, wanted in (
        (f"the collate_fn {name}", collate(samples), ids),
        (type(loader).__name__, next(iter(loader)), None),
    ):
        fields = None
        with suppress(ValueError):
            fields = split(batch, "check_loader")
        found = None if fields is None else fields.ids.tolist()
        if found is None or wanted not in (None, found):
            got = f"of examples with the ids {ids} it makes {describe(batch)} with {found}"
            fix = "keep them, as torch.tensor(ids)"
            raise ValueError(f"check_loader: {step} loses or changes the ids: {got}; {fix}")
    assert fields is not None
    return fields


def _id_of(sample: Any) -> int | None:
    """Return the id of an example, None if it has none."""
    found = sample.get("ids") if isinstance(sample, Mapping) else getattr(sample, "ids", None)
    if found is None and isinstance(sample, (tuple, list)) and len(sample) == 3:
        found = sample[2]
    return int(found) if isinstance(found, (int, Tensor)) else None
