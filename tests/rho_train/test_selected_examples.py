"""The record of selected examples, and their thumbnails."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import IndexedDataset, Selector, TrainConfig, Trainer
from rho_train.history import History
from rho_train.progress import Stopped
from rho_train.trainer.selected_examples import render, selected_record


def decode(uri: str) -> Tensor:
    """The pixels of a PNG, (H, W, C)."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data))))
    return pixels if pixels.ndim == 3 else pixels.unsqueeze(2)


def test_small_images_of_bytes_are_shown_as_they_are() -> None:
    image = torch.randint(0, 256, (3, 5, 9), dtype=torch.uint8)
    for x in (image, image.permute(1, 2, 0), image.permute(1, 2, 0).numpy()):
        assert torch.equal(decode(render(x)["image"]), image.permute(1, 2, 0))
    assert torch.equal(decode(render(image[0])["image"])[:, :, 0], image[0])


def test_other_images_get_the_full_range_and_at_most_32_pixels() -> None:
    ramp = torch.linspace(-2.0, 3.0, 64).expand(128, 64)
    shown = decode(render(ramp)["image"])[:, :, 0]
    assert shown.shape == (32, 16)
    # The lowest becomes 0 and the highest 255, then four by four pixels are averaged.
    means = (torch.arange(16.0) * 4 + 1.5) / 63 * 255
    assert (shown - means.expand(32, 16)).abs().max() <= 1
    assert not decode(render(torch.full((4, 4), 7.0))["image"]).any()


def test_tables_texts_and_what_cannot_be_shown() -> None:
    assert render(torch.tensor([1.0, 1 / 3, torch.nan])) == {"text": "1 0.333 nan"}
    assert render("word " * 100)["text"] == ("word " * 100)[:239] + "…"
    assert render(torch.arange(50))["text"].endswith("46 47 …")
    assert render(torch.zeros(2, 3, 4, 5)) == {"text": "(float32 (2, 3, 4, 5))"}
    assert render(object()) == {"text": "(object)"}


def run_data(dataset: IndexedDataset, train_ids: Tensor, il: Any = None, **options: Any) -> Any:
    selector = Selector(il=il, k=1, method="loss" if il is None else "rho")
    more: dict[str, Any] = {"show": None, "flags": {}, "classes": (), "selector": selector}
    more |= {"device": torch.device("cpu"), **options}
    return SimpleNamespace(dataset=dataset, train_ids=train_ids, **more)


def test_record_by_hand() -> None:
    labels = torch.tensor([0, 1, 1, -100, 0, 1])
    dataset = IndexedDataset(TensorDataset(torch.arange(12.0).reshape(6, 2), labels))
    history = History(6)
    history.seen[:] = torch.tensor([3, 3, 3, 2, 0, 3])
    history.selected[:] = torch.tensor([0, 2, 3, 0, 0, 3])
    history.loss[:] = torch.tensor([0.5, 0.1, 0.2, torch.nan, torch.nan, 0.3])
    noisy = torch.tensor([True, False, False, False, True, True])
    il = torch.tensor([0.0, 0.1, 0.2, torch.nan, 0.4, 0.5])
    run = run_data(dataset, torch.arange(6).flip(0), il, flags={"noisy": noisy})
    record = selected_record(run, [history.state_dict()])
    # Point 4 was never in a large batch, which is not the same as never selected.
    assert record["never"] == 2
    assert [point["id"] for point in record["most_selected"]] == [2, 5, 1]
    assert [point["id"] for point in record["never_selected"]] == [0, 3]
    assert record["most_selected"][1] == {
        "id": 5,
        "label": 1,
        "noisy": True,
        "il": 0.5,
        "loss": pytest.approx(0.3),
        "seen": 3,
        "selected": 3,
        "text": "10 11",
    }
    unknown = record["never_selected"][1]
    assert (unknown["label"], unknown["loss"], unknown["il"]) == (-100, None, None)


def test_points_never_selected_stand_for_all_of_them() -> None:
    n = 1000
    dataset = IndexedDataset(TensorDataset(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64)))
    history = History(n)
    history.seen[:] = 1
    history.loss[:] = torch.randperm(n).float()
    run = run_data(dataset, torch.arange(n), show=lambda i: f"point {i}")
    record = selected_record(run, [history.state_dict()])
    losses = [point["loss"] for point in record["never_selected"]]
    assert losses == [round(i * (n - 1) / 11) for i in range(12)]
    assert record["never_selected"][0]["text"] == f"point {int(history.loss.argmin())}"
    assert record["most_selected"] == []


def make_trainer(folder: Path) -> Trainer:
    torch.manual_seed(0)
    x, y = torch.randn(60, 3), torch.arange(60) % 4
    data = IndexedDataset(TensorDataset(x, y))
    selector = Selector(il=torch.rand(60), k=4, history=History(60))
    config = TrainConfig(steps=20, large_batch=10, batch=4)
    return Trainer(
        nn.Linear(3, 4),
        data,
        torch.arange(50),
        TensorDataset(x, y),
        config,
        folder,
        name="rho",
        selector=selector,
        flags={"noisy": y == 0},
        classes=("a", "b", "c", "d"),
    )


def test_a_run_leaves_its_history_and_what_it_chose(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "whole")
    trainer.fit()
    assert trainer.selector is not None
    assert trainer.selector.history is not None
    history = trainer.selector.history
    assert int(history.selected.sum()) == trainer.trained == 80
    assert int(history.seen.sum()) == trainer.selector.scored == 200
    record: dict[str, Any] = json.loads((tmp_path / "whole" / "selected.json").read_text())
    assert record["classes"] == ["a", "b", "c", "d"]
    part = make_trainer(tmp_path / "parts")
    with pytest.raises(Stopped):
        part.fit(lambda steps: part.step == 7)
    assert not (tmp_path / "parts" / "selected.json").exists()
    make_trainer(tmp_path / "parts").fit()
    whole, parts = ((tmp_path / run / "selected.json").read_bytes() for run in ("whole", "parts"))
    assert whole == parts


def test_classes_of_the_last_evaluation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    evals = [one for one in map(json.loads, lines) if one["event"] == "eval"]
    assert ["class_accuracy" in one for one in evals] == [False] * (len(evals) - 1) + [True]
    x, y = trainer.eval_set.dataset.tensors
    right = trainer.model(x).argmax(1) == y
    wanted = [float(right[y == c].double().mean()) for c in range(4)]
    assert evals[-1]["class_accuracy"] == wanted
