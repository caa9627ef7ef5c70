"""Labels that look wrong, by their irreducible losses: their ids, and a page of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rho_train.files import atomic_write, make_folder
from rho_train.il.store import ILStore
from rho_train.report.page import rendered_page
from rho_train.tasks.task import Task
from rho_train.trainer.selected_examples import render, shown

_SIDE, _CLASSES = 96, 20
_COLUMNS = ("id", "label", "class", "predicted", "predicted_class", "il", "example")


def find_wrong_labels(store: ILStore) -> Tensor:
    """Return the ids of examples whose label looks wrong, int64 (m,), most suspicious first.

    A label looks wrong if the IL model, which never saw the example, finds it less likely than the
    share of its class in the data: `IL + log(share) > 0`, by which the ids are ordered (Ethayarajh
    et al. 2022). So rare classes, whose IL is high, do not come first. With noise that hits all
    classes alike they should: `store.il.argsort(descending=True)` finds more of it then.

    Raises:
        ValueError: the store has no labels, or its losses are of a `loss_fn` of your own.

    Examples:
        >>> data = {"n": "4", "labels": "", "ids": "position"}
        >>> il, labels = torch.tensor([0.1, 2.5, 0.2, 0.9]), torch.tensor([0, 0, 1, 1])
        >>> find_wrong_labels(ILStore(il, data, labels=labels))
        tensor([1, 3])
    """
    ids, _, place, guess = _guess(store)
    above = store.il[ids].double() - guess[place]
    order = above.argsort(descending=True, stable=True)
    return ids[order[: int((above > 0).sum())]]


def write_wrong_labels(store: ILStore, task: Task, out: Path, top: int = 100) -> Path:
    """Write wrong_labels.html, one file without network use, and .csv; return the page's path.

    In the CSV a text that a spreadsheet would run as a formula has an apostrophe before it.

    Args:
        store: of the training set of the task.
        task: shows the examples.
        out: folder that gets both.
        top: how many of the most suspicious examples they list.
    """
    found, data = find_wrong_labels(store), task.dataset()
    store.verify(data)
    assert store.labels is not None
    noisy, rows = task.flags.get("noisy"), []
    for id in found[:top].tolist():
        label, il, example = int(store.labels[id]), float(store.il[id]), shown(data, task.show, id)
        drawn = render(example, _SIDE)
        text = f"{example}" if isinstance(example, (str, Path)) else drawn.get("text", "")
        row: dict[str, Any] = {"id": id, "label": label, "il": il}
        row["class"] = class_name(task.classes, label)
        if store.predicted is not None:
            row["predicted"] = says = int(store.predicted[id])
            row["predicted_class"] = class_name(task.classes, says)
        row["noisy"] = noisy is not None and bool(noisy[id])
        rows.append({**row, "example": text, **drawn})
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    page = rendered_page(
        "wrong_labels.html",
        task=task,
        said=summary_of(store, found),
        rows=rows,
        classes=_classes(store, found, task)[:_CLASSES],
    )
    make_folder(out, "il inspect")
    # Texts may hold lone surrogates, which UTF-8 has not.
    for name, content in (("wrong_labels.csv", text.getvalue()), ("wrong_labels.html", page)):
        atomic_write(out / name, content.encode("utf-8", "replace"))
    return out / "wrong_labels.html"


def summary_of(store: ILStore, found: Tensor) -> str:
    """Return in a sentence how many labels look wrong."""
    count, known = len(found), len(_guess(store)[0])
    return (
        f"{count:,} of {known:,} labels ({count / max(known, 1):.1%}) look wrong: a model that "
        "never saw the example finds them less likely than the share of their class"
    )


def _guess(store: ILStore) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ids with a label and an IL, all classes, that of each id, the loss of guessing."""
    loss, labels = store.info.get("loss_function", "cross-entropy"), store.labels
    if labels is None or loss != "cross-entropy":
        problem = "has no labels" if labels is None else f"has losses of {loss}, no cross-entropies"
        raise ValueError(
            f"find_wrong_labels: the store {problem}; compute it for a data set with labels "
            "(ILStore.of) and without loss_fn"
        )
    ids = (store.known & (labels != -100)).nonzero().flatten()
    found: tuple[Tensor, ...] = labels[ids].unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    classes, place, counts = found
    return ids, classes, place, -(counts.double() / max(len(ids), 1)).log()


def _classes(store: ILStore, found: Tensor, task: Task) -> list[dict[str, Any]]:
    """Return for each class how many labels look wrong and what the IL model knows of it."""
    (ids, classes, place, guess), labels = _guess(store), store.labels
    assert labels is not None
    counts = place.bincount(minlength=len(classes))
    mean = place.bincount(store.il[ids].double(), minlength=len(classes)) / counts
    wrong = torch.searchsorted(classes, labels[found]).bincount(minlength=len(classes))
    learnt = torch.where(guess > 0, 1 - mean / guess, 0.0)
    columns = (column.tolist() for column in (classes, wrong, counts, learnt))
    rows = [
        {"class": class_name(task.classes, label), "wrong": wrong, "n": n, "learnt": learnt}
        for label, wrong, n, learnt in zip(*columns, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["wrong"])


def _plain(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def class_name(names: Sequence[str], label: int) -> str:
    """Return the name of a class, its number where none is known."""
    return f"{names[label]}" if 0 <= label < len(names) else f"{label}"
