"""Metrics as lines of JSON, which a kill can shorten by one line at most."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class MetricsFile:
    """Append-only `metrics.jsonl` of one run.

    Args:
        path: of the file; it is created, or cut back to `size` bytes.
        size: length at the last checkpoint; the steps of later records are made again.
        common: fields that every record carries.

    Raises:
        OSError: the file cannot be written; the message names it and the fix.
        ValueError: the file is shorter than `size`.
    """

    def __init__(self, path: Path, size: int, common: dict[str, Any]) -> None:
        self.path, self.common = path, common
        try:
            path.touch()
            if self.size() < size:
                raise ValueError(
                    f"{path} is shorter than its checkpoint says ({self.size()} of {size} bytes); "
                    "restore it, or delete the run's folder to start again"
                )
            os.truncate(path, size)
        except OSError as error:
            raise self._cannot_write(error) from error

    def write(self, event: str, **values: Any) -> None:
        """Append one record; it is in the file when this returns."""
        line = json.dumps({"event": event, **self.common, **values}, allow_nan=False) + "\n"
        size = self.size()
        try:
            with open(self.path, "ab", buffering=0) as file:
                data = memoryview(line.encode())
                while data:
                    data = data[file.write(data) :]
        except OSError as error:
            # Half a line would make the next record unreadable.
            os.truncate(self.path, size)
            raise self._cannot_write(error) from error

    def flush(self) -> None:
        """Make all records so far survive a power cut."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def size(self) -> int:
        """Return the length of the file in bytes."""
        return self.path.stat().st_size

    def _cannot_write(self, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"cannot write {self.path}: {error.strerror}; make room or the folder writable, then "
            "run the same command again: it goes on from the last checkpoint",
        )
