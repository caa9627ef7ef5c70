"""A folder of resumable work: its identity, its lock and its checkpoints."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from rho_train.distributed import on_first
from rho_train.files import atomic_write, make_folder, remove_unfinished

_FIX = "restore it from a copy, or delete it: the same command then does its work again"
_FOOTER = b"rho_ext6"  # with the version of the format


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint in one step; the previous one survives any failure, an OSError.

    The file is that of `torch.save`, followed by its SHA-256, which `torch.load` ignores.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getbuffer()
    atomic_write(path, [content, _FOOTER + hashlib.sha256(content).digest()])


def load_checkpoint(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint whose entries `expected`, such as the configuration, are as they were.

    A ValueError says that it is damaged, of another version, or another run's, by which entry.
    """
    content, end = path.read_bytes(), len(_FOOTER) + hashlib.sha256().digest_size
    if content[-end:] != _FOOTER + hashlib.sha256(memoryview(content)[:-end]).digest():
        raise ValueError(f"load_checkpoint: {path} is damaged or of another version; {_FIX}")
    # weights_only: a checkpoint is data, loading it must not run code.
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    state: dict[str, Any] = loaded
    for name, wanted in expected.items():
        if (found := state.get(name)) != wanted:
            raise ValueError(
                f"load_checkpoint: {path} belongs to a run with another {name}: it has {found}, "
                f"this run has {wanted}; use another output folder, or delete this one"
            )
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's global generators of the CPU and of one device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the global generators to what `random_state` returned, there or on another device."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


class RunFolder:
    """A folder of work that can be stopped, killed and resumed.

    Args:
        path: of the folder, which is made; None: `save` does nothing and `load` finds nothing.
        where: the caller, named in errors.
        identity: what decides the result of the work, as plain JSON values. Every checkpoint
            carries it, and one with another is refused.
    """

    def __init__(
        self, path: str | Path | None, *, where: str, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.path = None if path is None else Path(path)
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
        folder = self / "."

        def hold() -> None:
            lock = held.enter_context(open(folder / ".lock", "wb"))  # noqa: SIM115
            try:
                # Not flock: workers that a killed process leaves for a while would hold it too.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Some file systems have no locks; the run is then unprotected.
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise ValueError(f"another process is running in {folder}; {fix}") from error
            remove_unfinished(folder, below=below)

        with ExitStack() as held:
            on_first(hold)
            yield
