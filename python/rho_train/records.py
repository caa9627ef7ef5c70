"""Records with a checksum: a JSON object on a line, the form of all JSON files of runs."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENTRY = rb'"crc32": "[0-9a-f]{8}"\}'


def to_line(values: Mapping[str, Any]) -> str:
    r"""Return values as a line of JSON whose last entry is the CRC-32 of the bytes before it.

    Raises:
        ValueError: a number is NaN or infinite, which JSON has not.
        TypeError: JSON has no form for a value.

    Examples:
        >>> to_line({"step": 5, "loss": 0.25})
        '{"step": 5, "loss": 0.25, "crc32": "ce956f7f"}\n'
    """
    text = json.dumps(values, allow_nan=False)[:-1] + (", " if values else "")
    return f'{text}"crc32": "{zlib.crc32(text.encode()):08x}"}}\n'


def from_line(line: bytes, place: object) -> dict[str, Any]:
    """Return the values of a line, or of a file of one line, that `to_line` made.

    Raises:
        ValueError: any bit of the line, its newline included, is another one; `place` is named.

    Examples:
        >>> line = to_line({"step": 5, "loss": 0.25}).encode()
        >>> from_line(line, "metrics.jsonl, line 1")
        {'step': 5, 'loss': 0.25}
        >>> from_line(line.replace(b"0.25", b"0.35"), "metrics.jsonl, line 1")
        Traceback (most recent call last):
        ValueError: metrics.jsonl, line 1: the record is damaged: its checksum is missing or ...
    """
    text = line.rpartition(b'"crc32": ')[0]
    if not text or line != text + f'"crc32": "{zlib.crc32(text):08x}"}}\n'.encode():
        raise ValueError(
            f"{place}: the record is damaged: its checksum is missing or wrong, by a fault of the "
            "disk, by hand, or by another version of rho_ext; restore the file, or delete its "
            "folder and run the same command again"
        )
    values: dict[str, Any] = json.loads(line)
    del values["crc32"]
    return values


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; a last line that a kill cut short is left out.

    Raises:
        ValueError: a record is damaged, see `from_line`.
        OSError: the file cannot be read.
    """
    *lines, rest = path.read_bytes().split(b"\n")
    # A cut line ends with its entry or before: other bytes behind it were a newline.
    if re.search(_ENTRY + rb".", rest, re.DOTALL):
        lines.append(rest)
    return [from_line(line + b"\n", f"{path}, line {i}") for i, line in enumerate(lines, 1)]
