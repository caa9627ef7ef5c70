"""Checkpoints with a checksum, so that a run resumes as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.files import atomic_write
from rho_train.identity import name_of

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

    Raises:
        ValueError: it is damaged, of another version, or another run's: the entry is named.
        OSError: it cannot be read.
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


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the architecture of a model, whatever its weights.

    It covers names, types and shapes of the parts and their public attributes that are numbers,
    texts or functions, not code.

    Examples:
        >>> one, other = nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2))
        >>> architecture_digest(one) == architecture_digest(other)
        False
    """
    named, state = model.named_modules(), model.state_dict().items()
    parts = [
        (name, type(one).__qualname__, sorted(_attributes(one).items())) for name, one in named
    ]
    shapes = [(name, tuple(value.shape)) for name, value in state if isinstance(value, Tensor)]
    return hashlib.sha256(repr((parts, shapes)).encode()).hexdigest()


def _attributes(part: nn.Module) -> dict[str, str]:
    found, plain = {}, (bool, int, float, str)
    for key, value in vars(part).items():
        if key.startswith("_") or key == "training":
            continue
        if callable(value):
            found[key] = name_of(value)
        elif isinstance(value, (*plain, torch.Size)) or (
            isinstance(value, tuple) and all(isinstance(v, plain) for v in value)
        ):
            found[key] = repr(value)
    return found


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's global generators of the CPU and of one device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore the global generators to what `random_state` returned, there or on another device."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
