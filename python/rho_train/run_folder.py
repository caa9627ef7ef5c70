"""A folder of resumable work: its identity, its lock, its checkpoints and its progress."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rho_train.checkpoint import load_checkpoint, save_checkpoint
from rho_train.distributed import on_first
from rho_train.files import make_folder, remove_unfinished
from rho_train.progress import OnStep, no_op


class RunFolder:
    """A folder of work that can be stopped, killed and resumed.

    Args:
        path: of the folder, which is made; None: `save` does nothing and `load` finds nothing.
        where: the caller, named in errors.
        identity: what decides the result of the work, as plain JSON values. Every checkpoint
            carries it, and one with another is refused.
        on_step: called with the number of steps just made; returns whether to stop.

    Raises:
        OSError: the folder cannot be made or written.

    Examples:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp(), where="example", identity={"seed": 3})
        >>> folder.save("half.pt", {"step": 5})
        >>> folder.load("half.pt")["step"], folder.load("other.pt"), folder.on_step(5)
        (5, None, False)
        >>> RunFolder(folder.path, where="example", identity={"seed": 4}).load("half.pt")
        Traceback (most recent call last):
        ValueError: load_checkpoint: ...half.pt belongs to a run with another seed: it has 3, ...
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        where: str,
        identity: Mapping[str, Any] | None = None,
        on_step: OnStep = no_op,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.where, self.on_step = where, on_step
        self.identity = dict(identity or {})
        if self.path is not None:
            make_folder(self.path, where)

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        assert self.path is not None
        return self.path / name

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint with the identity, see `save_checkpoint`."""
        if self.path is not None:
            save_checkpoint(self.path / name, {**self.identity, **state})

    def load(self, name: str) -> dict[str, Any] | None:
        """Read a checkpoint, None if there is none, see `load_checkpoint`."""
        if self.path is None or not (self.path / name).exists():
            return None
        return load_checkpoint(self.path / name, self.identity)

    @contextmanager
    def lock(self, fix: str, *, below: bool = False) -> Iterator[None]:
        """Hold the folder for this process, and delete what killed writes left in it (and below).

        Of several ranks the first holds it for all. If another process does, a ValueError ends in
        `fix`.
        """
        with ExitStack() as held:
            on_first(lambda: held.enter_context(self._lock(fix, below)))
            yield

    @contextmanager
    def _lock(self, fix: str, below: bool) -> Iterator[None]:
        folder = self / "."
        with open(folder / ".lock", "wb") as lock:
            try:
                # Not flock: workers that a killed process leaves for a while would hold it too.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some file systems have no locks; the run is then unprotected.
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise ValueError(f"another process is running in {folder}; {fix}") from error
            remove_unfinished(folder, below=below)
            yield
