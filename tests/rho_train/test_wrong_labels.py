"""Labels that look wrong are found by IL and class frequency, and shown as a page and a CSV."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from rho_train import ILStore, Task, find_wrong_labels
from rho_train.wrong_labels import write_wrong_labels


def made(n: int = 300) -> tuple[Task, ILStore]:
    """Return a task of a common and a rare class, and a store in which one IL is unknown."""
    labels = (torch.arange(n) % 10 == 0).long()
    il = torch.where(labels == 1, 1.5, 0.05)
    il[[7, 30, 11, 5]] = torch.tensor([4.0, 5.0, 0.2, torch.nan])
    data = TensorDataset(torch.arange(2.0 * n).view(n, 2), labels)
    task = Task(
        name="two <classes>",
        train=data,
        test=data,
        make_model=lambda seed: nn.Linear(2, 2),
        classes=("common", "=rare"),
        show=lambda i: f"text {i} " * 50,
    )
    return task, ILStore.of(task.dataset(), il, predicted=1 - labels.int())


def test_ids_are_ordered_by_what_the_class_does_not_explain() -> None:
    _, store = made()
    labels, known = store.labels, store.known.nonzero().flatten()
    assert labels is not None
    share = torch.stack([(labels[known] == c).double().mean() for c in (0, 1)])[labels.long()]
    above = store.il.double() + share.log()
    wanted = sorted((i for i in known.tolist() if above[i] > 0), key=lambda i: -float(above[i]))
    # An IL of 5 in the rare class is less suspicious than one of 4 in the common one.
    assert find_wrong_labels(store).tolist() == wanted == [7, 30, 11]
    # Examples without a label have no part in the shares.
    il, ignored = torch.cat([store.il, torch.zeros(300)]), torch.full((300,), -100).to(labels)
    form = {**store.fingerprint, "n": "600"}
    more = ILStore(il, form, labels=torch.cat([labels, ignored]))
    assert find_wrong_labels(more).tolist() == wanted
    for other, message in (
        (store.replace(labels=None), "the store has no labels"),
        (store.replace(info={"loss_function": "my.loss"}), "has losses of my.loss"),
    ):
        with pytest.raises(ValueError, match=message):
            find_wrong_labels(other)


def test_page_and_csv_show_the_most_suspicious(tmp_path: Path) -> None:
    task, store = made()
    picture = tmp_path / "picture.png"
    Image.new("RGB", (200, 100), "red").save(picture)
    for top, of, shows in (
        (2, task, lambda id: f"text {id} " * 50),
        (99, replace(task, show=lambda id: picture), lambda id: f"{picture}"),
        (99, replace(task, show=None), lambda id: f"{2 * id} {2 * id + 1}"),
        (98, replace(task, show=lambda id: "=1+1"), lambda id: "'=1+1"),
        (0, task, None),
    ):
        page = write_wrong_labels(store, of, tmp_path / f"{top}", top).read_text()
        with open(tmp_path / f"{top}" / "wrong_labels.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = [7, 30, 11][:top]
        assert [int(row["id"]) for row in rows] == wanted
        assert "3 of 299 labels (1.0%) look wrong" in page
        assert "two &lt;classes&gt;" in page
        assert page.count("predicted <strong>=rare</strong>") == sum(id != 30 for id in wanted)
        assert re.findall(r"id (\d+)</span>", page) == [f"{id}" for id in wanted]
        for row in rows:
            id = int(row["id"])
            assert row["example"] == shows(id)  # type: ignore[misc]
            # A name that begins as a formula is no formula in a spreadsheet.
            names = ("common", "'=rare")
            assert (row["class"], row["predicted_class"]) == (names[id == 30], names[id != 30])
            assert int(row["predicted"]) == 1 - int(row["label"]) == int(id != 30)
            assert float(row["il"]) == float(store.il[id])
        assert page.count("data:image/png") == (len(rows) if of.show and top == 99 else 0)
        # By class: 269 common examples, of which two look wrong, and 30 rare ones.
        assert not rows or re.search(r"common</th><td>2</td><td>269</td>", page)


def test_a_task_of_other_data_is_refused(tmp_path: Path) -> None:
    task, store = made()
    other = replace(task, train=TensorDataset(torch.zeros(300, 2), torch.arange(300) % 2))
    with pytest.raises(ValueError, match="belongs to another data set"):
        write_wrong_labels(store, other, tmp_path / "page")
    assert not (tmp_path / "page").exists()
