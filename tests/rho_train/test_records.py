"""Records: what comes back is what was written, or an error that names the place."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from rho_train.files import from_line, read_lines, to_line

VALUES = [
    {"event": "train", "step": 10, "loss": 0.1, "noisy": None, "cost": {"il": 1e-6}},
    {"event": "eval", "step": 10, "accuracy": 1.0, "class_accuracy": [0.5, None, 1.0]},
    {"event": "end", "step": 20, "text": 'é\ud800 "crc32": "00000000"}\n*'},
]


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "little") ^ (1 << bit)).to_bytes(len(data), "little")


def test_no_flipped_bit_of_a_record_is_accepted() -> None:
    for values in (*VALUES, {}):
        line = to_line(values).encode()
        assert from_line(line, "here") == values
        # Every bit, the newline's too.
        for bit in range(8 * len(line)):
            with pytest.raises(ValueError, match="^here: the record is damaged"):
                from_line(flipped(line, bit), "here")
        for other in (line[:-1], line + b"\n", line * 2, b"", b"{}\n", b'{"crc32": ""}\n'):
            with pytest.raises(ValueError, match="is damaged: .*; restore the file, or delete"):
                from_line(other, "here")


def test_no_flipped_bit_of_a_file_of_records_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [to_line(values).encode() for values in VALUES]
    whole = b"".join(lines)
    # With and without a line that a kill cut short: its bytes are never believed.
    for data, kept in ((whole, len(whole)), (whole + lines[0][:40], len(whole))):
        ends = [i for i, byte in enumerate(data) if byte == 10]
        newlines = [8 * end + bit for end in ends for bit in range(8)]
        for bit in [*random.Random(0).sample(range(8 * kept), 1000), *newlines]:
            path.write_bytes(flipped(data, bit))
            with pytest.raises(ValueError, match=r"metrics.jsonl, line \d: .* is damaged"):
                read_lines(path)
    cut = 8 * len(whole)
    for bit in range(cut, cut + 320):
        path.write_bytes(flipped(whole + lines[0][:40], bit))
        # A flip that makes a newline is an error.
        with suppress(ValueError):
            assert read_lines(path) == VALUES


def test_a_line_that_a_kill_cut_short_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    one, two = (to_line(values).encode() for values in VALUES[:2])
    for kept in range(len(two)):
        path.write_bytes(one + two[:kept])
        assert read_lines(path) == VALUES[:1]
    path.write_bytes(one + two)
    assert read_lines(path) == VALUES[:2]


def test_what_json_cannot_hold_is_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            to_line({"loss": value})
