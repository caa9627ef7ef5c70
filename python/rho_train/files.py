"""Files that are complete or absent, and records with a checksum, as lines of JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_FIXES = {
    errno.ENOSPC: "free some space or choose a folder on another disk",
    errno.EDQUOT: "free some space within the quota or choose a folder on another disk",
    errno.EACCES: "choose a folder that this user may write to",
    errno.EROFS: "choose a folder on a disk that is not mounted read-only",
    errno.EINVAL: "choose a path of a regular file",
    errno.ENOENT: "create its folder first, or check the path",
    errno.ENOTDIR: "choose a path whose parent is a folder",
    errno.EEXIST: "choose a path that is not a file",
    errno.EISDIR: "choose a file name that is not a folder",
}
_TEMPORARY = f".{'[0-9a-f]' * 16}.tmp"


def atomic_write(
    path: str | Path, data: str | bytes | memoryview | Iterable[bytes | memoryview]
) -> None:
    """Replace the file `path` by `data` in one step.

    Readers, and a run killed at any moment, see either the previous file or the whole new one: a
    temporary file in the same folder takes its name after it was flushed to the disk. Through a
    symlink its target is written. Text is stored as UTF-8. An iterable is written piece by piece.
    After an OSError, what was there is untouched and no other file is left.
    """
    data = data.encode() if isinstance(data, str) else data
    pieces = [data] if isinstance(data, (bytes, memoryview)) else data
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.lexists(target) and not target.is_file():
            raise OSError(errno.EINVAL, "it is a device, a FIFO, a socket or a loop of links")
        try:
            with open(temporary, "xb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise explained(error, f"atomic_write: cannot write {path}") from error


def _sync_folder(folder: Path) -> None:
    # The new name is an entry of the folder: only a flush of it survives a power cut.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder; the file itself is complete.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path, where: str) -> None:
    """Make a folder, and test that files can be made in it; if not, an OSError names the caller."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise explained(error, f"{where}: cannot write to the folder {folder}") from error


def explained(error: OSError, what: str) -> OSError:
    """Return the error with what failed, the cause and a fix."""
    fix = _FIXES.get(error.errno or 0, "check the disk and the permissions of the folder")
    return OSError(error.errno, f"{what}: {error.strerror or error}; {fix}")


def remove_unfinished(folder: Path, *, below: bool = False) -> None:
    """Delete what killed writes left in a folder (and below), where nobody else is writing."""
    for path in folder.rglob(_TEMPORARY) if below else folder.glob(_TEMPORARY):
        path.unlink(missing_ok=True)


def error_text(error: Exception) -> str:
    """Return the text of an error; of a system error without "[Errno 28]", and with a fix."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is not None:
            error = explained(error, f"cannot open {error.filename}")
        return str(error.strerror)
    return str(error)


def to_line(values: Mapping[str, Any]) -> str:
    """Return values as a line of JSON whose last entry is the CRC-32 of the bytes before it."""
    text = json.dumps(values, allow_nan=False)[:-1] + (", " if values else "")
    return f'{text}"crc32": "{zlib.crc32(text.encode()):08x}"}}\n'


def from_line(line: bytes, place: object) -> dict[str, Any]:
    """Return the values of a line of `to_line`; a ValueError names `place` if a bit differs."""
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
    """Return the records of a file; a last line that a kill cut short is left out."""
    *lines, rest = path.read_bytes().split(b"\n")
    # A cut line ends with its entry or before: other bytes behind it were a newline.
    if re.search(rb'"crc32": "[0-9a-f]{8}"\}.', rest, re.DOTALL):
        lines.append(rest)
    return [from_line(line + b"\n", f"{path}, line {i}") for i, line in enumerate(lines, 1)]
