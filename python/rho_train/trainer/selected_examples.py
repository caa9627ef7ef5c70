"""Files on what a run selected, so that the report never needs the data set."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from rho_train.dataset import fingerprint
from rho_train.files import atomic_write
from rho_train.history import History
from rho_train.run_folder import RunFolder
from rho_train.trainer.config import RunData
from rho_train.trainer.thumbnails import input_of, render

_SHOWN = 12


def save_selected(history: History, run: RunData, folder: RunFolder) -> None:
    """Write history.safetensors, with the fingerprint of the data, and chosen.json.

    Raises:
        OSError: a file cannot be written.
    """
    columns = {name: column.cpu() for name, column in history.state_dict().items()}
    # One entry: safetensors writes several in any order, and the same run gives the same file.
    entry = {"rho_ext history of": json.dumps(fingerprint(run.dataset))}
    atomic_write(folder / "history.safetensors", save(columns, entry))
    assert run.selector is not None
    il = run.selector.il_of(run.train_ids.to(history.seen.device))
    record = json.dumps(selected_record(history, run, il), allow_nan=False)
    atomic_write(folder / "chosen.json", record + "\n")


def selected_record(history: History, run: RunData, il: Tensor | None = None) -> dict[str, Any]:
    """Return which of the training examples were selected, as plain values.

    `points` and `chosen` count examples and selections by class, labels below 0 left out; `never`
    and `never_noisy` count examples that were seen and never selected. `most_chosen` are the 12
    examples selected most; `tied` were selected as often as the last of them. `never_chosen` are 12
    of the others. Where only some of those that tie, or were never selected, are shown, they lie
    evenly in the order of their last loss, so that they stand for all of them.

    Args:
        history: of the Selector.
        run: data set, training ids, flags, names of classes, and how to show an example.
        il: irreducible losses of the training ids, (n,).
    """
    show = partial(input_of, run.dataset) if run.show is None else run.show
    ids, order = run.train_ids.cpu().sort()
    columns = {name: column.cpu()[ids] for name, column in history.state_dict().items()}
    seen, chosen, loss = columns["seen"], columns["chosen"], columns["loss"]
    labels, noisy = run.dataset.labels.cpu(), run.flags.get("noisy")
    flags = None if noisy is None else noisy.cpu()
    known = None if il is None else il.cpu()[order]
    # The whole data set decides how many classes there are, whatever part is trained on.
    count = max(1, int(labels.max()) + 1)
    labelled = labels[ids] >= 0

    def by_class(weights: Tensor) -> list[int]:
        counts = torch.zeros(count, dtype=torch.int64)
        return counts.index_add_(0, labels[ids][labelled], weights[labelled].long()).tolist()

    def example(row: int) -> dict[str, Any]:
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
        "classes": list(run.classes) or None,
        "seen": int((seen > 0).sum()),
        "points": by_class(torch.ones_like(seen)),
        "chosen": by_class(chosen),
        "never": len(never),
        "never_noisy": None if flags is None else int(flags[ids[never]].sum()),
        "tied": len(tied),
        "most_chosen": [example(int(row)) for row in most],
        "never_chosen": [example(int(row)) for row in _evenly(never, loss, _SHOWN)],
    }


def _evenly(rows: Tensor, loss: Tensor, count: int) -> Tensor:
    """Return at most `count` of the rows, evenly spaced in the order of their loss."""
    ordered = rows[loss[rows].argsort(stable=True)]
    places = torch.linspace(0, max(0, len(rows) - 1), min(count, len(rows)))
    return ordered[places.round().long()]


def _finite(value: Tensor) -> float | None:
    """Return the number, None for what JSON cannot hold."""
    return float(value) if bool(value.isfinite()) else None
