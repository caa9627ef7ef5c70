"""The built-in task `text`: texts with labels, as lower-cased words."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rho_train.tasks.models import embedding_bag
from rho_train.tasks.task import Task

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
    path = Path(path)
    rows = _read(path, text, label)
    if not 1 <= test < len(rows):
        limit = f"[1, {len(rows)}), the number of rows"
        raise ValueError(f"text: {path}: test must lie in {limit}, got {test}")
    train, n = rows[:-test], len(rows) - test
    classes = sorted({label for _, label in rows}, key=_order)
    missing = set(classes) - {label for _, label in train}
    if len(classes) < 2 or missing:
        got = ", ".join(classes) + (f" without {', '.join(missing)}" if missing else "")
        raise ValueError(
            f"text: {path}: the training part must have all classes and at least two, got {got}"
        )
    words = vocabulary((text for text, _ in train), min_count)
    x = token_ids([text for text, _ in rows], words, max_len)
    number = {label: i for i, label in enumerate(classes)}
    y = torch.tensor([number[label] for _, label in rows])
    sizes = len(words), len(classes)
    return Task(
        name=path.stem,
        train=TensorDataset(x[:n], y[:n]),
        test=TensorDataset(x[n:], y[n:]),
        make_model=lambda seed: embedding_bag(*sizes, hidden, seed=seed),
        make_il_model=lambda seed: embedding_bag(*sizes, il_hidden or hidden, seed=seed),
        classes=tuple(classes),
        show=lambda index: rows[index][0],
    )


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
        for line, row in _rows(path):
            if any(row.get(column) in (None, "") for column in (text, label)):
                has = ", ".join(map(str, row)) or "nothing"
                raise ValueError(
                    f"line {line} has no {text!r} or no {label!r} (it has {has}); name the columns"
                )
            rows.append((str(row[text]), str(row[label])))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"text: {path}: {error}") from error
    return rows


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with open(path, encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row:
                    raise ValueError(f"line {reader.line_num} has more columns than the header")
                yield reader.line_num, dict(row)
            return
        for number, line in enumerate(file, start=1):
            found = json.loads(line) if line.strip() else {}
            if not isinstance(found, dict):
                raise ValueError(f"line {number} is no JSON object")
            yield number, found
