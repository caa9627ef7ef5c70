"""The built-in task `text`: texts with labels, as lower-cased words."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rho_train.tasks.models import embedding_bag
from rho_train.tasks.task import Task

Pairs = Sequence[tuple[str, str]]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text: letters and digits, lower-cased, apostrophes inside kept."""
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], min_count: int = 1) -> dict[str, int]:
    """Number words: 0 padding, 1 unknown, then words by their count and the alphabet.

    Example:
        >>> vocabulary(["to be or not to be"], min_count=2)
        {'<padding>': 0, '<unknown>': 1, 'be': 2, 'to': 3}
    """
    if min_count < 1:
        raise ValueError(f"text: min_count must be at least 1, got {min_count}")
    counts = Counter(word for text in texts for word in words_of(text))
    frequent = [word for word, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda word: (-counts[word], word))
    return {word: i for i, word in enumerate(("<padding>", "<unknown>", *frequent))}


def token_ids(texts: Sequence[str], words: Mapping[str, int], max_len: int) -> Tensor:
    """Return the ids of the first `max_len` words of each text, int64 (n, max_len)."""
    if max_len < 1:
        raise ValueError(f"text: max_len must be at least 1, got {max_len}")
    ids = torch.zeros(len(texts), max_len, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = [words.get(word, 1) for word in words_of(text)[:max_len]]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return ids


class Texts(NamedTuple):
    """Token ids int64 (n, length) and labels int64 (n,) of both parts, classes and vocabulary."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    words: tuple[str, ...]


def text(
    path: Path,
    test: int = 4000,
    text: str = "text",
    label: str = "label",
    min_count: int = 2,
    max_len: int = 128,
    hidden: Sequence[int] = (64,),
    il_hidden: Sequence[int] = (),
) -> Task:
    """Make a task from a CSV file with a header, or from lines of JSON (.jsonl), in UTF-8.

    Args:
        path: of the file.
        test: how many of the last rows are the test set; shuffle a file that is in order.
        text: column of the texts.
        label: column of the labels, names or numbers.
        min_count: words that the training part has less often are unknown.
        max_len: words of a text that are read.
        hidden: widths of the bag of embeddings, see `embedding_bag`.
        il_hidden: widths of the model of the irreducible losses; none: as `hidden`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither .csv nor .jsonl, damaged, lacks a column, has a row without text
            or label, or `test` leaves no row; a class occurs in the test set alone.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("text,label\\nfine,1\\nbad,0\\nfine,1\\n")
        >>> text(path, test=1, min_count=1).dataset().labels
        tensor([1, 0])
    """
    rows = _read(Path(path), text, label)
    if not 1 <= test < len(rows):
        raise ValueError(
            f"text: {path}: test must lie in [1, {len(rows)}), the number of rows, got {test}"
        )
    name = Path(path).stem
    found = encode(name, rows[:-test], rows[-test:], min_count=min_count, max_len=max_len)
    sizes = len(found.words), len(found.classes)
    return Task(
        name=name,
        train=TensorDataset(found.train_x, found.train_y),
        test=TensorDataset(found.test_x, found.test_y),
        make_model=lambda seed: embedding_bag(*sizes, hidden, seed=seed),
        make_il_model=lambda seed: embedding_bag(*sizes, il_hidden or hidden, seed=seed),
        classes=found.classes,
        show=lambda index: rows[index][0],
    )


def encode(where: str, train: Pairs, test: Pairs, *, min_count: int, max_len: int) -> Texts:
    """Encode pairs (text, label); vocabulary from the training part, classes are sorted labels."""
    if not train or not test:
        raise ValueError(
            f"{where}: both parts need texts, got {len(train)} to train and {len(test)} to test on"
        )
    classes = sorted({label for _, label in (*train, *test)}, key=_order)
    missing = set(classes) - {label for _, label in train}
    if len(classes) < 2 or missing:
        raise ValueError(
            f"{where}: the training part must have all classes and at least two, got "
            f"{', '.join(classes)}" + (f" without {', '.join(missing)}" if missing else "")
        )
    number = {label: i for i, label in enumerate(classes)}
    words = vocabulary((text for text, _ in train), min_count)
    (train_x, train_y), (test_x, test_y) = (
        (
            token_ids([text for text, _ in part], words, max_len),
            torch.tensor([number[label] for _, label in part]),
        )
        for part in (train, test)
    )
    return Texts(train_x, train_y, test_x, test_y, tuple(classes), tuple(words))


def _order(label: str) -> tuple[int, int, str]:
    """Sort numbers as numbers, before names."""
    return (0, int(label), "") if label.lstrip("-").isdecimal() else (1, 0, label)


def _read(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"text: there is no file {path}; check the path")
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"text: {path} must end in .csv or .jsonl")
    rows: list[tuple[str, str]] = []
    try:
        for line, row in _csv(path) if path.suffix == ".csv" else _jsonl(path):
            if any(row.get(column) in (None, "") for column in (text, label)):
                raise ValueError(
                    f"line {line} has no {text!r} or no {label!r} (it has "
                    f"{', '.join(map(str, row)) or 'nothing'}); name the columns"
                )
            rows.append((str(row[text]), str(row[label])))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"text: {path}: {error}") from error
    return rows


def _csv(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more columns than the header")
            yield reader.line_num, dict(row)


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            row = json.loads(line) if line.strip() else {}
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield number, row
