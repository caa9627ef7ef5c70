"""Files that are either complete or absent, whatever interrupts the writing."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

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

    Raises:
        OSError: the file cannot be written, or the path is a folder, a device, a FIFO or a socket;
            what was there is untouched, no other file is left.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> atomic_write(folder / "summary.json", "{}")
        >>> (folder / "summary.json").read_text()
        '{}'
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
