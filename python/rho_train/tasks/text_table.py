"""Texts with labels from a file of your own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from rho_train.tasks.classification import ClassificationData
from rho_train.tasks.text import text_data


def load_text_table(
    path: Path,
    test: int,
    *,
    text: str = "text",
    label: str = "label",
    min_count: int = 2,
    max_len: int = 128,
) -> ClassificationData:
    """Load texts and labels from a CSV file with a header or from lines of JSON (.jsonl).

    The last `test` rows are the test set, so shuffle the file first if it is in order.

    Args:
        path: of the file, UTF-8.
        test: rows of the test set.
        text, label: the columns; labels may be names or numbers.
        min_count: words that the training part has less often are unknown.
        max_len: words of a text that are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither .csv nor .jsonl, damaged, lacks a column, has a row without text
            or label, or `test` leaves no row.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text("text,label\\nfine,1\\nbad,0\\nfine,1\\n")
        >>> load_text_table(path, test=1, min_count=1).train_y
        tensor([1, 0])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_text_table: there is no file {path}; check the path")
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"load_text_table: {path} must end in .csv or .jsonl")
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
        raise ValueError(f"load_text_table: {path}: {error}") from error
    if not 1 <= test < len(rows):
        raise ValueError(
            f"load_text_table: {path}: test must lie in [1, {len(rows)}), the number of rows, got "
            f"{test}"
        )
    return text_data(
        rows[:-test],
        rows[-test:],
        min_count=min_count,
        max_len=max_len,
        name=path.stem,
        split=f"the last {test:,} rows are the test set",
    )


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
