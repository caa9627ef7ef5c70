"""Standard streams that cannot end a command: ASCII or narrow, closed, or without a reader."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Stream:
    """A text stream that shows "?" for what its encoding has not, and drops what nobody reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        with suppress(OSError):
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


warned = set[str]()  # the texts that are said already


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print the text of a warning once, in place of `warnings.showwarning`."""
    if f"{message}" not in warned:
        warned.add(f"{message}")
        print(f"rho-ext: warning: {message}", file=sys.stderr)


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Let whatever is printed to standard output and error raise nothing; say a warning once."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest free number; else a checkpoint would, and get what is printed.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    usable = [stream for stream in before if stream is not None and not stream.closed]
    with open(os.devnull, "w", encoding="utf-8") as nowhere, warnings.catch_warnings():
        warned.clear()
        warnings.showwarning = show_warning
        streams: Any = [_Stream(stream if stream in usable else nowhere) for stream in before]
        sys.stdout, sys.stderr = streams
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
    for stream in usable:
        try:
            stream.flush()
        except OSError:
            # Python would try again when it ends, and change the exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
