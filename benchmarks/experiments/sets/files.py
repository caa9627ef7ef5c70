"""Finding the files of a data set."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TextIO


def find(where: str, folder: Path, *names: str) -> Path:
    """Return the first of `names` that is a file in `folder`, plain or with .gz added.

    Raises:
        FileNotFoundError: none is there.
    """
    folder = Path(folder)
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"{where}: there is no file {' or '.join(names)} in {folder}; give the folder that holds "
        "the files of the data set"
    )


def read(where: str, path: Path) -> bytes:
    """Return the content of a file, unpacked if its name ends in .gz.

    Raises:
        ValueError: it is damaged.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{where}: {path} is no whole gzip file ({error}); fetch it again"
        ) from error


def open_text(path: Path) -> TextIO:
    """Open a UTF-8 file of lines; bytes that are none become the replacement character."""
    return open(path, encoding="utf-8", errors="replace", newline="")
