"""The built-in tasks on files good and bad, and what a Task of one's own must be."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from rho_train import Task
from rho_train.tasks import (
    images,
    letters,
    load_task,
    mlp,
    table,
    text,
)
from rho_train.tasks.text import token_ids, vocabulary, words_of

from .test_images import paint

SHIPPED = letters(noise=0.1)


def columns(task: Task) -> tuple[torch.Tensor, ...]:
    assert isinstance(task.train, TensorDataset)
    assert isinstance(task.test, TensorDataset)
    return *task.train.tensors, *task.test.tensors


def test_letters_are_the_shipped_rows_standardised_by_the_training_rows() -> None:
    with files("rho_train.tasks").joinpath("letter_recognition.npz").open("rb") as file:
        arrays = np.load(file)
        raw, labels = arrays["features"].astype(np.float64), arrays["labels"]
    expected = (raw - raw[:-4000].mean(0)) / raw[:-4000].std(0)
    train_x, train_y, test_x, test_y = columns(letters())
    np.testing.assert_array_equal(train_x.numpy(), expected[:-4000].astype(np.float32))
    np.testing.assert_array_equal(test_x.numpy(), expected[-4000:].astype(np.float32))
    np.testing.assert_array_equal(torch.cat([train_y, test_y]).numpy(), labels)
    assert len({tuple(row) for row in torch.cat([train_x, test_x]).tolist()}) == 18_668
    # The data set's author reports 80 %; its nearest neighbours are known to do far better.
    nearest = torch.cdist(test_x[:500], train_x).argmin(1)
    assert (train_y[nearest] == test_y[:500]).float().mean() > 0.9
    licence = files("rho_train.tasks").joinpath("letter_recognition.LICENSE").read_text()
    for part in ("Slate, D. (1991)", "10.24432/C5ZP40", "CC BY 4.0"):
        assert part in licence
        assert part in SHIPPED.attribution


def test_noise_of_letters_is_that_of_a_seed() -> None:
    clean, noisy = columns(letters())[1], columns(SHIPPED)[1]
    assert torch.equal(SHIPPED.flags["noisy"], clean != noisy)
    # round(0.1 * 14668) are drawn anew, one of 26 to the label that it had.
    assert 1360 < int((clean != noisy).sum()) < 1467
    assert torch.equal(columns(letters(seed=0, noise=0.1))[1], noisy)
    assert not torch.equal(columns(letters(seed=1, noise=0.1))[1], noisy)
    assert torch.equal(columns(SHIPPED)[3], columns(letters())[3])
    assert not letters().flags


def rows(**changes: Any) -> dict[str, Any]:
    features = np.random.default_rng(0).normal(3.0, 2.0, (20, 4))
    return {"features": features, "labels": np.arange(20) % 3} | changes


def load(tmp_path: Path, arrays: dict[str, Any], test: int = 5) -> Task:
    path = tmp_path / "mine.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return table(path, test)


def test_a_table_is_split_and_standardised(tmp_path: Path) -> None:
    features = rows()["features"]
    features[:, 1] = 0.1
    features[-1, 1] = 5.1
    made = load(tmp_path, rows(features=features))
    train_x, _, test_x, test_y = columns(made)
    assert made.name == "mine"
    assert test_y.tolist() == [0, 1, 2, 0, 1]
    varying = train_x[:, [0, 2, 3]]
    torch.testing.assert_close(varying.mean(0), torch.zeros(3))
    torch.testing.assert_close(varying.std(0, correction=0), torch.ones(3))
    # One that is constant is only centred.
    torch.testing.assert_close(train_x[:, 1], torch.zeros(15))
    torch.testing.assert_close(test_x[:, 1], torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0]))
    assert made.make_model(0)(train_x).shape == (15, 3)


def test_a_csv_is_the_same_table(tmp_path: Path) -> None:
    arrays, path = rows(), tmp_path / "mine.csv"
    wanted = columns(load(tmp_path, arrays))
    lines = ["a,b,c,d,class"]
    lines += [
        ",".join(map(repr, map(float, (*x, y)))) for x, y in zip(*arrays.values(), strict=True)
    ]
    for first, encoding in ((0, "utf-8"), (1, "utf-8"), (0, "utf-8-sig"), (1, "utf-8-sig")):
        path.write_text("\n".join(lines[first:]), encoding)
        for one, other in zip(columns(table(path, 5)), wanted, strict=True):
            assert torch.equal(one, other)
    for content, message in (
        (
            "1,2,0\n1,two,1",
            "not a table of numbers .*'two' .*; all columns but the last",
        ),
        ("1,2,0\n1,2", "not a table of numbers .*columns"),
        ("a;b;c\n1,5;2;cat\n", "not a table of numbers .*'1,5'"),
        ("1,5;cat\n2,5;cat\n", "not a table of numbers .*'1,5'"),
        ("0,1,label\n1,2,cat\n3,4,cat\n", r"\(line 1 alone has the label 'label'; let line 1 name"),
        ("1,2,0.5\n1,2,0.5", "labels must be words or whole numbers, got '0.5'"),
        ("a,b,c\n1,2,1\n1,2, \n", "labels must be words or whole numbers, got ''"),
        ("a,b,c\n1,2,cat\n1,2,NaN", "labels must be words or whole numbers, got 'NaN'"),
        ("a,b,c\n1,2,9007199254740993", "labels must be words or whole numbers, got '9007"),
        ("a,b,c\n", r"not a table of numbers \(it has no rows\)"),
        (",b,c\n0,2,cat\n1,3,cat\n", r"\(its first column has no name; if it is an index"),
        ('""\tb\tc\n0\t2\tcat\n1\t3\tcat\n', r"\(its first column has no name"),
        ("cat\n1\n2\n", r"features must be numbers of shape \(n, d\), got float64 \(2, 0\)"),
        ('"1",2,cat\n"3",4,"dog"\n3,5,dog', r"\(line 1 alone has the label 'cat'"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"mine\.csv.* {message}"):
            table(path, 1)


def test_words_are_numbered_as_those_of_texts(tmp_path: Path) -> None:
    labels = ["dog", "C#", "10", "C", "cat, big", " dog", "9", "1_0"] * 2
    path = tmp_path / "mine.csv"
    for mark in ",;\t|":
        found = []
        for names, values, task in (
            (["text", "label"], ["fine day"], lambda: text(path, 3)),
            (["width; mm", "height", "kind"], [0.5, -2.0], lambda: table(path, 3)),
        ):
            with open(path, "w", newline="") as file:
                file.write("# measured by hand\n" if len(names) == 3 else "")
                lines = [[*values, label] for label in labels]
                csv.writer(file, delimiter=mark).writerows([names, *lines])
            made = task()
            found.append((made.classes, columns(made)[1].tolist(), columns(made)[3].tolist()))
        classes = "9", "10", "1_0", "C", "C#", "cat, big", "dog"
        wanted = [classes.index(label.strip()) for label in labels]
        assert found == [(classes, wanted[:-3], wanted[-3:])] * 2, mark
        assert made.make_model(0)(columns(made)[0]).shape == (13, 7)
        assert made.show is not None
        assert made.show(0) == "0.5 -2"
    named = load(tmp_path, rows(labels=np.array(["b", "a"] * 10)))
    assert (named.classes, columns(named)[3].tolist()) == (("a", "b"), [0, 1, 0, 1, 0])
    # Whole numbers in any form are one class; where they are 0, 1, 2, ... they are its index.
    path = tmp_path / "mine.data"
    path.write_text("a,b\n" + "1,2.0\n1,0\n1,1e0\n1,2\n1,1\n1,0.\n")
    named = table(path, 1)
    assert (named.classes, columns(named)[1].tolist()) == (("0", "1", "2"), [2, 0, 1, 2, 1])
    path.write_text("a,b\n" + "1,cat\n2,dog\n3,emu\n")
    with pytest.warns(UserWarning, match=r"classes \['emu'\] are only in the test set, .* 0; sh"):
        table(path, 1)


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    nan = np.full((20, 4), np.nan)
    huge = np.concatenate([rows()["features"][:15], np.full((5, 4), 1e300)])
    for arrays, test, message in (
        (rows(features=None), 5, r"lacks the array features, it has: labels\)"),
        (rows(features=None, labels=None), 5, r"features and labels, it has: none\)"),
        (rows(features=np.zeros(20)), 5, r"numbers of shape \(n, d\), got float64 \(20,\)"),
        (rows(features=np.zeros((20, 2, 2))), 5, r"reshape the rows"),
        (rows(features=np.zeros((20, 0))), 5, r"shape \(n, d\), got float64 \(20, 0\)"),
        (rows(features=np.full((20, 4), "a")), 5, "must be numbers"),
        (rows(features=np.zeros((20, 4), complex)), 5, "must be numbers"),
        (rows(features=nan), 5, "must be finite, row 0 is not"),
        (rows(features=huge), 5, "too large to standardise"),
        (rows(features=np.full((20, 4), {}, object)), 5, "not a readable .npz file of plain"),
        (rows(labels=np.zeros(19, int)), 5, r"integers of shape \(20,\), got int64 \(19,\)"),
        (rows(labels=np.full((20, 1), "a")), 5, r"labels must be words or integers .* got <U1"),
        (rows(labels=np.full(20, "")), 5, "labels must be words or whole numbers, got ''"),
        (rows(labels=np.arange(20) % 2 + 0.5), 5, r"\[0, 20\), got 0.5 in row 0"),
        (rows(labels=np.full(20, np.nan)), 5, r"\[0, 20\), got nan in row 0"),
        (rows(labels=np.arange(20) - 1), 5, r"\[0, 20\), got -1 in row 0"),
        (rows(labels=np.arange(20) * 2), 5, r"\[0, 20\), got 20 in row 10"),
        (rows(), 20, r"test must lie in \[1, 20\), the number of rows, got 20"),
        ({"features": np.ones((1, 2)), "labels": np.zeros(1)}, 1, r"test must lie in \[1, 1\)"),
        (rows(), 0, r"test must lie in \[1, 20\), the number of rows, got 0"),
    ):
        with pytest.raises(ValueError, match=r"^table: \S+mine\.npz(?!.*table:).*" + message):
            load(tmp_path, arrays, test)


def test_labels_of_any_number_type_are_read_and_odd_classes_are_named(tmp_path: Path) -> None:
    wanted = load(tmp_path, rows()).dataset().labels
    for dtype in (">i4", ">f8", "f2", "u8", "i1"):
        arrays = {name: array.astype(dtype) for name, array in rows().items()}
        assert torch.equal(load(tmp_path, arrays).dataset().labels, wanted), dtype
    for labels, warning in (
        (
            np.arange(20) % 3 + 1,
            r"classes \[0\] are without an example; add some, or number classes 0",
        ),
        (np.arange(20) % 2 * 3, r"classes \[1, 2\] are without an example"),
        (
            np.where(np.arange(20) < 17, np.arange(20) % 2, 2),
            r"classes \[2\] are only in the test set, first in its example 2; shuffle",
        ),
        (np.zeros(20), r"classes \[0\] are all that is trained on"),
    ):
        with pytest.warns(UserWarning, match=r"^Task mine: .*" + warning):
            load(tmp_path, rows(labels=labels))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    path, npy = tmp_path / "mine.npz", tmp_path / "array.npy"
    load(tmp_path, rows())
    whole = path.read_bytes()
    np.save(npy, np.zeros(3))
    flipped = bytearray(whole)
    flipped[flipped.index(b"NUMPY") + 300] ^= 1
    contents = [b"", b"text", npy.read_bytes(), b"\x80\x04N.", *(whole[:n] for n in (9, 400, 1000))]
    for content in (*contents, bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mine\.npz is not a readable \.npz file"):
            table(path, 5)
    with zipfile.ZipFile(path, "w") as raw:
        raw.writestr("features", b"no array")
        raw.writestr("labels", b"no array")
    with pytest.raises(ValueError, match=r"mine\.npz: features must be numbers .* got \|S8 \(\)"):
        table(path, 5)
    with pytest.raises(FileNotFoundError, match=r"no file .*other\.npz"):
        table(tmp_path / "other.npz", 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't PANIC!", ["don't", "panic"]),
        ("'quoted' 42nd_street", ["quoted", "42nd", "street"]),
        ("Ünï-çødé 東京", ["ünï", "çødé", "東京"]),
        (" \n\t...", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_token_ids_are_ranks_by_count_then_alphabet() -> None:
    words = vocabulary(["b b a", "c a d"], min_count=1)
    assert list(words)[2:] == ["a", "b", "c", "d"]
    assert vocabulary(["c a d", "b b a"], min_count=1) == words
    assert list(vocabulary(["b b a", "c a d"], min_count=2))[2:] == ["a", "b"]
    ids = token_ids(["d B e", "a", ""], words, max_len=2)
    assert ids.tolist() == [[5, 3], [2, 0], [0, 0]]
    assert ids.dtype == torch.int64


@given(st.lists(st.text("aAb c'.", max_size=12), min_size=1, max_size=6))
def test_the_ids_of_known_texts_say_their_words(texts: list[str]) -> None:
    words = vocabulary(texts)
    for one, row in zip(texts, token_ids(texts, words, max_len=12).tolist(), strict=True):
        assert [list(words)[i] for i in row if i] == words_of(one)
        assert 1 not in row


ROWS = [("Fine, thanks", 10), ("bad", 9), ("all\nfine", 10), ("fine? new", 9)]


def write_texts(path: Path, pairs: list[tuple[str, int]] = ROWS) -> Path:
    if path.suffix == ".jsonl":
        lines = (json.dumps({"id": 1, "review": text, "stars": y}) for text, y in pairs)
        path.write_text("\n".join(lines) + "\n")
    else:
        with open(path, "w", newline="") as file:
            content = [["id", "review", "stars"], *([1, text, y] for text, y in pairs)]
            csv.writer(file).writerows(content)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_texts_of_a_file(tmp_path: Path, ending: str) -> None:
    path = write_texts(tmp_path / f"mine{ending}")
    made = text(path, 1, text="review", label="stars", min_count=1, max_len=3)
    # Numbers in the order of numbers: 9 before 10.
    assert made.classes == ("9", "10")
    train_x, train_y, test_x, _ = columns(made)
    assert train_y.tolist() == [1, 0, 1]
    assert made.show is not None
    assert made.show(2) == "all\nfine"
    # The vocabulary is that of the training part: 1 is an unknown word.
    assert test_x.tolist() == [[2, 1, 0]]
    assert made.make_model(0)(train_x).shape == (3, 2)
    for options, message in (
        ({"text": "text", "label": "stars"}, "'text' must .* the columns id, review, stars; fill"),
        ({"text": "review", "label": "label"}, "'label' must be a text or a number, got None"),
        ({"text": "review", "label": "stars", "test": 4}, r"test must lie in \[1, 4\)"),
        ({"text": "review", "label": "stars", "min_count": 0}, "min_count must be at least 1"),
        ({"text": "review", "label": "stars", "max_len": 0}, "max_len must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            text(path, **{"test": 1, **options})  # type: ignore[arg-type]


MARK, HEAD = b"\xef\xbb\xbf", b"text,label\n"
FINE = HEAD + b"fine day,1\nbad day,0\nfine bad,1\n"
JSON = b'{"text": "fine day", "label": 1.0}\n\n{"text": "bad", "label": 0}\n'
TEXT_FILES: list[tuple[str, bytes, str]] = [
    ("a.CSV", FINE, "0 1"),
    ("a.csv", MARK + FINE, "0 1"),
    ("a.csv", FINE.replace(b"\n", b"\r"), "0 1"),
    ("a.csv", FINE.replace(b"\n", b"\r\n") + b"\r\n", "0 1"),
    ("a.csv", FINE.replace(b",", b";"), "0 1"),
    ("a.tsv", FINE.replace(b",", b"\t").replace(b"label", b'"label"'), "0 1"),
    ("a.csv", HEAD + b"a,--1\nb,1\nc,\xc2\xb2\na,--1\nb,10\nc,9\nb,9\n", "1 9 10 --1 \u00b2"),
    ("a.jsonl", MARK + JSON + JSON, "0 1"),
    ("a.jsonl", b'{"text": "a\xe2\x80\xa8b", "label": true}\n' + JSON + JSON, "0 1 True"),
    ("a.txt", FINE, r"must end in \.csv, \.tsv or \.jsonl \(one JSON"),
    ("a.json", FINE, r"must end in \.csv, \.tsv or \.jsonl \(one JSON"),
    ("a.csv", FINE.decode().encode("utf-16"), "decode byte 0xff in position 0: .* as UTF-8"),
    ("a.csv", FINE.decode().encode("utf-16-le"), "'text' must .* got None; it has the columns"),
    ("a.jsonl", JSON.decode().encode("utf-16-le"), "line 1 is no JSON object"),
    ("a.csv", FINE.replace(b"bad", b"b\xe9d"), "decode byte 0xe9 in position 23: .* as UTF-8"),
    ("a.csv", HEAD + b"fine,1,2\n", "line 2 has more columns than the header"),
    ("a.csv", HEAD + b"fine\n", "line 2: 'label' must be a text or a number, got None; it has"),
    ("a.csv", FINE.replace(b",", b":"), "'text' must .* got None; it has the columns text:label;"),
    ("a.csv", b"text,label,label\nfine,1,2\n", "the header has a column twice: text,label,label"),
    ("a.csv", HEAD + b'good,1\n"fine,1\n', "line 3: unexpected end of data; check its quot"),
    ("a.csv", HEAD + b"a" * 200_000 + b",1\n", "line 2: field larger .*or write .jsonl"),
    ("a.csv", b"", r"test must lie in \[1, 0\), the number of rows"),
    (
        "a.jsonl",
        JSON + b'{"text"\n',
        r"line 4 is no JSON object \(Expecting ':' delimiter\); w",
    ),
    ("a.jsonl", b"[1]\n", "line 1 is no JSON object"),
    ("a.jsonl", b"[" * 200_000, "line 1 is no JSON object"),
    ("a.jsonl", JSON + b'{"text": "a", "label": ["b"]}', r"line 4: 'label' must .* got \['b'\]"),
    ("a.jsonl", b'{"text": "a", "label": NaN}', "line 1: 'label' must be .* got nan"),
    ("a.jsonl", b'{"text": ["a", "b"], "label": 1}', r"line 1: 'text' must .* got \['a', 'b'\]"),
]


def read_texts(path: Path) -> str:
    """The classes of a file, or the error."""
    try:
        return " ".join(text(path, 1, min_count=1).classes)
    except ValueError as error:
        return str(error)


def test_files_of_texts_are_read_or_refused_with_the_line_and_the_fix(tmp_path: Path) -> None:
    for name, content, wanted in TEXT_FILES:
        path = tmp_path / name
        path.write_bytes(content)
        found = read_texts(path)
        refused = found.startswith(f"text: {path}")
        assert (re.search if refused else re.fullmatch)(wanted, found), (found, wanted)


def test_labels_are_sorted_by_value_and_odd_classes_named(tmp_path: Path) -> None:
    labels = ["b", "01", "10", "2", " 001", "b "] * 3
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b"".join(f"a,{label}\n".encode() for label in labels))
    assert text(path, 1, min_count=1).classes == ("001", "01", "2", "10", "b")
    path.write_bytes(HEAD + b"a,x\n" * 3 + b"a,y\na,z\n")
    with (
        pytest.warns(UserWarning, match=r"classes \['y', 'z'\] are only in the test set, .* 0; s"),
        pytest.warns(UserWarning, match=r"classes \['x'\] are all that is trained on; there"),
    ):
        text(path, 2, min_count=1)


def test_tasks_are_the_same_with_any_default_dtype_and_device(tmp_path: Path) -> None:
    for place in ("train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/d.png"):
        paint(tmp_path / place, (1, 2, 3))
    (tmp_path / "a.csv").write_bytes(FINE * 2)

    def made() -> list[torch.Tensor]:
        tasks = [letters(noise=0.1), images(tmp_path, size=8)]
        tasks.append(text(tmp_path / "a.csv", 1, label="label", min_count=1))
        found = []
        for task in tasks:
            data = task.dataset()
            batch = data.collate(data.__getitems__([0, 1]))
            model = nn.utils.parameters_to_vector(task.model(0).parameters()).detach()
            found += [batch.x, batch.y, batch.ids, data.labels, model, task.eval_set().labels]
        return found

    wanted = made()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            found = made()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(wanted, found, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


X, Y = torch.randn(12, 3), torch.arange(12) % 2


def own(seed: int, width: int = 4, path: Path | None = None) -> Task:
    """A task of a user; its labels are in the order of the seed."""
    assert path is None or isinstance(path, Path)
    return Task(
        name=f"own {width}",
        train=TensorDataset(X, Y.roll(seed)),
        test=TensorDataset(X, Y),
        make_model=lambda seed: mlp(3, [width], 2, seed=seed),
    )


def test_a_task_is_named_in_three_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_task("letters", {"hidden": [8]}).make_model(0)[0].out_features == 8  # type: ignore[index]
    made = load_task(own, {"width": 5, "path": "a.npz"}, seed=1)
    assert made.name == "own 5"
    assert made.dataset().labels.tolist() == Y.roll(1).tolist()
    (tmp_path / "mine.py").write_text(
        "from rho_train.tasks import letters\n"
        "def task(): return letters()\n"
        "def pair(): return (1, 2)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_task("mine:task", seed=3).name == "Letter Recognition"
    for source, options, message in (
        ("leters", {}, "one of letters, table, images, text or module:function, got 'leters'"),
        ("mine:gone", {}, "task mine:gone: mine has no function 'gone'"),
        ("mine:number", {}, "has no function 'number'"),
        ("not_there:task", {}, "No module named 'not_there'"),
        ("mine:task", {"width": 3}, "unexpected keyword argument 'width'; its options are none"),
        ("table", {}, "missing a required argument: 'path'; its options are path"),
        ("letters", {"noise": 2.0}, r"letters: noise must lie in \[0, 1\], got 2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task(source, options)
    with pytest.raises(ValueError, match=r"must return a rho_train\.Task, got tuple"):
        load_task("mine:pair")


def test_a_task_that_does_not_fit_itself_is_refused() -> None:
    options: dict[str, Any] = {
        "name": "t",
        "train": TensorDataset(X, Y),
        "test": TensorDataset(X, Y),
        "make_model": lambda seed: mlp(3, [4], 2, seed=seed),
    }
    Task(**options)
    for changes, message in (
        ({"groups": torch.zeros(3)}, r"groups must be int64 \(12,\), .*got float32 tensor \(3,\)"),
        (
            {"flags": {"noisy": torch.zeros(3, dtype=torch.bool)}},
            r"flags must be bool \(12,\).*bool tensor \(3,\)",
        ),
        ({"flags": {"noisy": torch.zeros(12)}}, r"flags must be bool .* float32 tensor \(12,\)"),
        ({"labels": Y[:3]}, r"of shape \(12,\)"),
        ({"test": TensorDataset(X[:0], Y[:0])}, "train and test must have examples"),
        ({"train": {"train": X}}, "Task t: train, labels: .* must be map-style .* data.'train'."),
        (
            {"test": [(x, 0) for x in X]},
            "Task t: test, test_labels: .* pass the labels of the examples, as labels=",
        ),
        ({"classes": ["one"]}, "Task t: there are 1 names of classes, the labels go to 1"),
        ({"make_model": nn.Linear(3, 2)}, "Task t: make_model must be .* seed, got a Linear; pass"),
        (
            {"make_il_model": lambda: nn.ReLU()},
            r"got a function \(too many pos.*\); pass lambda seed: Model",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Task(**options | changes)
    for make in ("model", "il_model"):
        with pytest.raises(
            ValueError, match="Task t: make_model must return an nn.Module, got str"
        ):
            getattr(Task(**options | {"make_model": lambda seed: "model"}), make)(0)


def test_a_batch_is_joined_by_the_collate_function_of_the_task() -> None:
    def collate(examples: Any) -> dict[str, Any]:
        return {"x": torch.stack([x for x, _ in examples])}

    made = Task(
        name="t",
        train=TensorDataset(X, Y),
        test=TensorDataset(X, Y),
        make_model=lambda seed: nn.Linear(3, 2),
        collate_fn=collate,
    )
    dataset = made.dataset(torch.tensor([3, 5, 7]))
    batch = dataset.collate(dataset.__getitems__([2, 0]))
    assert batch["ids"].tolist() == [2, 0]
    assert torch.equal(batch["x"], X[[7, 3]])


def test_options_have_the_type_of_their_default() -> None:
    def made(share: float = 0.5, text: str = "", sizes: tuple[int, ...] = (1,), n: int = 1) -> Task:
        assert [type(value) for value in (share, text, sizes, n)] == [float, str, tuple, int]
        return load_task("letters")

    load_task(made, {"share": 1, "text": 5, "sizes": [2, 3], "n": 4})
    for option in ({"share": "yes"}, {"share": True}, {"n": 0.5}, {"n": True}, {"sizes": 8}):
        with pytest.raises(ValueError, match=rf"made: {next(iter(option))} must be"):
            load_task(made, option)


def test_groups_flags_and_all_rows_tell_data_apart() -> None:
    x, y = torch.randn(100, 3), torch.arange(100) % 2

    def identity(x: torch.Tensor = x, y: torch.Tensor = y, n: int = 100, **known: Any) -> str:
        data, test = TensorDataset(x, y), TensorDataset(x[:n], y[:n])
        make = lambda seed: nn.Linear(3, 2)  # noqa: E731
        made = Task(name="t", train=data, test=test, make_model=make, **known)
        return str(made.data_identity)

    changed = x + (torch.arange(100) == 1)[:, None]
    others = [
        identity(),
        identity(groups=torch.arange(100) // 2),
        identity(flags={"noisy": y == 0}),
        identity(changed),
        identity(y=y.roll(1)),
        identity(n=99),
    ]
    assert identity() == others[0]
    assert len({*others}) == 6
