"""Plain values that tell objects apart, for checkpoints."""

from __future__ import annotations

import hashlib
from dataclasses import is_dataclass
from functools import partial

import torch
from torch import Tensor, nn


def digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of the content of tensors."""
    content = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content.update(flat.view(torch.uint8).numpy().data)
    return content.hexdigest()


def module_digest(module: nn.Module) -> str:
    """Return the SHA-256 of the parameters and buffers of a module."""
    return digest(*(value for value in module.state_dict().values() if isinstance(value, Tensor)))


def identity_of(part: object) -> object:
    """Return what decides the work of an object: its own `identity()`, its content, or its name."""
    if isinstance(part, Tensor):
        return digest(part)
    if isinstance(part, nn.Module):
        return module_digest(part)
    if hasattr(part, "identity"):
        return part.identity()
    if callable(part) and not is_dataclass(part):
        return name_of(part)
    return part if part is None or isinstance(part, (bool, int, float, str)) else repr(part)


def name_of(function: object) -> str:
    """Return the name of a function, or of the type of another callable.

    Example:
        >>> name_of(name_of), name_of(partial(round, ndigits=2))
        ('name_of', 'round(ndigits=2)')
    """
    if isinstance(function, partial):
        values = [_said(value) for value in function.args]
        values += [f"{key}={_said(value)}" for key, value in function.keywords.items()]
        return f"{name_of(function.func)}({', '.join(values)})"
    return getattr(function, "__qualname__", type(function).__qualname__)


def _said(value: object) -> str:
    # Not by repr: that of a function has its address, which is another one at every start.
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else name_of(value)
