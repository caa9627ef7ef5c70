"""The built-in task `text`: texts with labels, as lower-cased words."""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rho_train.checks import check_test
from rho_train.tasks.models import embedding_bag
from rho_train.tasks.table import number_classes
from rho_train.tasks.task import Task

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text: letters and digits, lower-cased, apostrophes inside kept."""
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], min_count: int = 1) -> dict[str, int]:
    """Number words: 0 padding, 1 unknown, then words by their count and the alphabet."""
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
    ids = np.zeros((len(texts), max_len), np.int64)
    for row, text in enumerate(texts):
        found = [words.get(word, 1) for word in words_of(text)[:max_len]]
        ids[row, : len(found)] = found
    return torch.from_numpy(ids)


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
    """Make a task from a .csv or .tsv file with a header, or from lines of JSON (.jsonl), in UTF-8.

    Columns are separated by whichever of comma, tab, semicolon and bar gives the header its names.
    Classes are in the order of numbers, then of the alphabet.

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
        ValueError: it is of another kind or encoding, damaged, lacks a column, has a row without
            text or label, or `test` leaves no row; the message names the line and the fix.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("text,label\\nfine,1\\nbad,0\\nfine,1\\n")
        >>> text(path, test=1, min_count=1).dataset().labels
        tensor([1, 0])
    """
    path = Path(path)
    rows = _read(path, text, label)
    check_test(f"text: {path}", test, len(rows))
    train, n = rows[:-test], len(rows) - test
    classes, y = number_classes([label for _, label in rows])
    words = vocabulary((text for text, _ in train), min_count)
    x = token_ids([text for text, _ in rows], words, max_len)
    sizes = len(words), len(classes)
    return Task(
        name=path.stem,
        train=TensorDataset(x[:n], y[:n]),
        test=TensorDataset(x[n:], y[n:]),
        make_model=lambda seed: embedding_bag(*sizes, hidden, seed=seed),
        make_il_model=lambda seed: embedding_bag(*sizes, il_hidden or hidden, seed=seed),
        classes=classes,
        show=lambda index: rows[index][0],
    )


def _read(path: Path, text: str, label: str) -> list[tuple[str, str]]:
    """Read the texts and labels of a file."""
    if not path.is_file():
        raise FileNotFoundError(f"text: there is no file {path}; check the path")
    read = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"text: {path} must end in .csv, .tsv or .jsonl (one JSON object a line)")
    rows: list[tuple[str, str]] = []
    try:
        content = path.read_bytes().decode("utf-8-sig")
        for line, row in read(content, (text, label)):
            for column in (text, label):
                value = row.get(column)
                if not isinstance(value, (str, int, float)) or f"{value}".strip() in ("", "nan"):
                    got = f"{reprlib.repr(value)}; it has the columns {', '.join(map(str, row))}"
                    wanted = f"{column!r} must be a text or a number"
                    fix = "fill it, or name the columns by text= and label="
                    raise ValueError(f"line {line}: {wanted}, got {got}; {fix}")
            name = row[label]
            whole = isinstance(name, float) and name.is_integer()  # 1.0 is the class 1
            rows.append((str(row[text]), str(int(name) if whole else name).strip()))
    except UnicodeDecodeError as error:
        raise ValueError(f"text: {path}: {error}; save the file as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"text: {path}: {error}") from error
    return rows


def _csv_rows(content: str, columns: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows, separated by what gives the header the names of the columns."""
    header = content[: re.search(r"[\r\n]|$", content).start()]  # type: ignore[union-attr]
    names = {c: [name.strip('"') for name in header.split(c)] for c in ",\t;|"}
    delimiter = next((c for c, found in names.items() if set(columns) <= set(found)), ",")
    if any(names[delimiter].count(column) > 1 for column in columns):
        raise ValueError(f"the header has a column twice: {header}; rename one")
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more columns than the header")
            yield reader.line_num, row
    except csv.Error as error:
        problem = f"{error}; check its quotation marks, or write .jsonl"
        raise ValueError(f"line {reader.reader.line_num}: {problem}") from error


def _json_rows(content: str, _: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects, one a line."""
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                yield number, dict(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                problem = f"is no JSON object ({str(error).partition(': line')[0]}); write one"
                raise ValueError(f"line {number} {problem} a line") from error
