"""What a run chose: a record for the report, so that it never needs the data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.files import atomic_write
from rho_train.history import History
from rho_train.trainer.thumbnails import input_of, render

_SHOWN = 12


def save_history(history: History, dataset: IndexedDataset, path: Path) -> None:
    """Write the four columns of a history as one safetensors file with the data's fingerprint.

    Raises:
        OSError: the file cannot be written.
    """
    columns = {name: column.cpu() for name, column in history.state_dict().items()}
    # One entry: safetensors writes several in any order, and the same run gives the same file.
    atomic_write(path, save(columns, {"rho_ext history of": json.dumps(fingerprint(dataset))}))


def save_chosen(record: dict[str, Any], path: Path) -> None:
    """Write what `chosen_record` returned.

    Raises:
        OSError: the file cannot be written.
    """
    atomic_write(path, json.dumps(record, allow_nan=False) + "\n")


def chosen_record(
    history: History,
    dataset: IndexedDataset,
    ids: Tensor,
    *,
    il: Tensor | None = None,
    noisy: Tensor | None = None,
    classes: Sequence[str] = (),
    show: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Return which of the points `ids`, int64 (n,), were chosen, as plain values.

    `points` and `chosen` count points and choices by class, labels below 0 left out; `never` and
    `never_noisy` count the points that were seen and never chosen. `most_chosen` are the 12 points
    chosen most; `tied` were chosen as often as the last of them. `never_chosen` are 12 of the
    others. Where not all that tie, or were never chosen, are shown, those that are lie evenly in
    the order of their last loss, so that they stand for all of them.

    Args:
        history: of the Selector.
        dataset: for the labels and a view of the points shown.
        ids: the points that were trained on.
        il: irreducible losses of these points, (n,).
        noisy: bool by id, (N,), labels known to be wrong.
        classes: their names.
        show: what people see of an id, a text or a tensor; None: what the model gets.
    """
    show = partial(input_of, dataset) if show is None else show
    ids, order = ids.cpu().sort()
    columns = {name: column.cpu()[ids] for name, column in history.state_dict().items()}
    seen, chosen, loss = columns["seen"], columns["chosen"], columns["loss"]
    labels = dataset.labels.cpu()
    flags = None if noisy is None else noisy.cpu()
    known = None if il is None else il.cpu()[order]
    # The whole data set decides how many classes there are, whatever part is trained on.
    count = max(1, int(labels.max()) + 1)
    classed = labels[ids] >= 0

    def by_class(weights: Tensor) -> list[int]:
        counts = torch.zeros(count, dtype=torch.int64)
        return counts.index_add_(0, labels[ids][classed], weights[classed].long()).tolist()

    def point(row: int) -> dict[str, Any]:
        i = int(ids[row])
        return {
            "id": i,
            "label": int(labels[i]),
            "noisy": None if flags is None else bool(flags[i]),
            "il": None if known is None else _finite(known[row]),
            "loss": _finite(loss[row]),
            "seen": int(seen[row]),
            "chosen": int(chosen[row]),
            **render(show(i)),
        }

    ranked = chosen.argsort(stable=True, descending=True)[: int((chosen > 0).sum())]
    least = chosen[ranked[:_SHOWN]].min() if len(ranked) else 0
    tied = ranked[chosen[ranked] == least]
    most = ranked[:_SHOWN]
    above = most[chosen[most] > least]
    if len(above) + len(tied) > _SHOWN:
        most = torch.cat([above, _evenly(tied, loss, _SHOWN - len(above))])
    never = ((seen > 0) & (chosen == 0)).nonzero().flatten()
    return {
        "classes": list(classes) or None,
        "seen": int((seen > 0).sum()),
        "points": by_class(torch.ones_like(seen)),
        "chosen": by_class(chosen),
        "never": len(never),
        "never_noisy": None if flags is None else int(flags[ids[never]].sum()),
        "tied": len(tied),
        "most_chosen": [point(int(row)) for row in most],
        "never_chosen": [point(int(row)) for row in _evenly(never, loss, _SHOWN)],
    }


def _evenly(rows: Tensor, loss: Tensor, count: int) -> Tensor:
    """At most `count` of the rows, evenly spaced in the order of their loss."""
    ordered = rows[loss[rows].argsort(stable=True)]
    spots = torch.linspace(0, max(0, len(rows) - 1), min(count, len(rows)))
    return ordered[spots.round().long()]


def _finite(value: Tensor) -> float | None:
    """The number, or None for what JSON cannot hold."""
    return float(value) if bool(value.isfinite()) else None
