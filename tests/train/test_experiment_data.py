"""What an experiment trains on: the configuration, the setting of a seed, and a whole run."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rho_train.cli import main
from rho_train.data.corruption import Corruption
from rho_train.data.duplicates import find_duplicates
from rho_train.experiment import DataConfig, ExperimentConfig, Method
from rho_train.experiment.setting import Setting

from .command import records, train_arguments


def repeating(tmp_path: Path) -> Path:
    """A table of 200 rows with five repeated rows, two of them in the test set of 40."""
    features = np.random.default_rng(0).normal(size=(200, 3))
    features[[10, 20, 30, 170, 180]] = features[[1, 2, 3, 4, 5]]
    path = tmp_path / "mine.npz"
    np.savez(path, features=features, labels=np.arange(200) % 4)
    return path


def test_duplicates_are_dropped_on_demand(tmp_path: Path) -> None:
    config = DataConfig(path=repeating(tmp_path), test=40)
    found = find_duplicates(config.load())
    assert (len(found.test_rows), len(found.repeated)) == (2, 3)
    dropped = dataclasses.replace(config, drop_duplicates=True).load()
    assert (len(dropped.train_y), len(dropped.test_y)) == (155, 40)


def test_texts_of_your_own_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with open(path, "w", newline="") as file:
        rows = [[f"word{i % 5} and more", i % 2] for i in range(20)]
        csv.writer(file).writerows([["review", "stars"], *rows])
    config = DataConfig(path=path, test=5, text="review", label="stars", max_len=2, min_count=1)
    data = config.load()
    assert data.train_x.shape == (15, 2)
    assert data.words[2:4] == ("and", "more")


def test_an_identity_leads_back_to_its_configuration(tmp_path: Path) -> None:
    path = repeating(tmp_path)
    config = DataConfig(
        path=path, test=40, noise=0.5, noise_kind="structured", confused=((0, 1),), redundancy=0.1
    )
    identity = json.loads(json.dumps(config.identity()))
    assert identity == config.identity()
    assert DataConfig.like(identity, path) == config
    # As stores of earlier versions have it.
    old = {"path": path.name, "sha256": identity["sha256"], "test": 40, "noise": 0.1}
    assert DataConfig.like(old, path) == DataConfig(path=path, test=40, noise=0.1)
    np.savez(path, features=np.zeros((200, 3)), labels=np.arange(200) % 4)
    assert config.identity()["sha256"] != identity["sha256"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "cifar11"}, "name must be one of letters, fashion_mnist.*got 'cifar11'"),
        ({"test": 5}, "test = 5 needs data.path"),
        ({"path": Path("a.npz"), "name": "ocr"}, "a set of your own; leave out data.name"),
        ({"path": Path("a.npz"), "folder": Path("b")}, "leave out data.name and data.folder"),
        ({"folder": Path("b")}, "folder is not needed for letters"),
        ({"name": "ocr"}, "name = ocr needs data.folder"),
        ({"name": "ocr", "folder": Path("b"), "max_len": 3}, "max_len has no meaning for ocr"),
        ({"size": 3}, "size has no meaning for letters"),
        ({"path": Path("a.npz"), "min_count": 3}, r"min_count has no meaning for a \.npz file"),
        ({"name": "tweets", "folder": Path("b"), "max_len": 0}, "max_len must be at least 1"),
        ({"path": Path("a.npz"), "text": "review"}, "columns of a .csv or .jsonl"),
        ({"redundancy": 2.0}, "redundancy must lie"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**config)


def setting(seed: int, **data: Any) -> Setting:
    method = Method("rho", "", "rho", "holdout", "rest")
    config = ExperimentConfig("", "", (method,), "rho", (seed,), DataConfig(**data), holdout=0.4)
    return Setting.make(config, seed)


def test_no_copy_of_a_held_out_point_is_trained_on() -> None:
    lost = []
    for seed in range(6):
        made = setting(seed, redundancy=0.3, copies=7, noise=0.1)
        n = len(made.dataset)
        assert n == 14668 + 4400 * 6
        assert len(made.held_out) == round(0.4 * n)
        source = made.corruption.source
        assert not set(source[made.held_out].tolist()) & set(source[made.rest].tolist())
        assert made.dataset.labels.equal(made.corruption.label)
        lost.append(n - len(made.held_out) - len(made.rest))
    # Where the cut goes through the copies of one point, those on the other side are left out.
    assert min(lost) >= 0
    assert 0 < max(lost) < 7


def test_the_split_is_fair_without_copies() -> None:
    made = setting(0, noise=0.1)
    both = torch.cat([made.held_out, made.rest]).sort().values
    assert both.equal(torch.arange(14668))


def test_a_run_keeps_what_was_wrong_with_its_points(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corrupted = ["--data.noise=0.2", "--data.redundancy=0.5", "--data.copies=3"]
    arguments = train_arguments(table, tmp_path, *corrupted)
    assert main(arguments) == 0
    kept = Corruption.load(tmp_path / "corruption" / "seed0.safetensors")
    assert len(kept.row) == 600 + 300 * 2
    train = [record for record in records(tmp_path) if record["event"] == "train"]
    assert sum(record["selected"] for record in train) == 40 * 8
    for name in ("noisy", "redundant", "correct"):
        assert 0 < sum(record[name] for record in train) < 40 * 8
    # A run that goes on compares; a file that was swapped is not believed.
    Corruption.draw(
        torch.zeros(9, dtype=torch.int64), torch.zeros(9, dtype=torch.int64), 2, kept.config, seed=0
    ).save(tmp_path / "corruption" / "seed0.safetensors")
    assert main(arguments) == 1
    assert "seed0.safetensors: Corruption: it belongs to another data set" in capfd.readouterr().err


def test_images_are_trained_on_from_their_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for name, channel in (("blue", 2), ("red", 0)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    arguments = ["train", f"--out={tmp_path / 'out'}", "--hidden=[16]", "--recipe.epochs=2"]
    arguments += ["--data.name=image_folder", f"--data.folder={tmp_path / 'images'}"]
    arguments += ["--data.size=8", "--train.steps=30", "--train.large_batch=20", "--train.batch=10"]
    assert main(arguments) == 0
    last = [r for r in records(tmp_path / "out") if r["event"] == "eval"][-1]
    assert last["accuracy"] == 1.0
