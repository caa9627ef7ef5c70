"""Plain values that tell objects apart, for checkpoints."""

from __future__ import annotations

import hashlib
from dataclasses import is_dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PLAIN = (bool, int, float, str, type(None))


def digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of the content of tensors."""
    content = hashlib.sha256()
    for tensor in tensors:
        if is_traceable_wrapper_subclass(tensor):  # weights of few bits, or in parts
            inner = digest(*(getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]))
            content.update(inner.encode())
            continue
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content.update(flat.view(torch.uint8).numpy().data)
    return content.hexdigest()


def digest_of(values: object) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def module_digest(module: nn.Module) -> str:
    """Return the SHA-256 of the parameters and buffers of a module."""
    return digest(*(value for value in module.state_dict().values() if isinstance(value, Tensor)))


def architecture_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the architecture of a model, whatever its weights.

    It covers names, types and shapes of the parts and their public attributes that are numbers,
    texts or functions, not code.
    """
    named, state = model.named_modules(), model.state_dict().items()
    parts = [
        (name, type(one).__qualname__, sorted(_attributes(one).items())) for name, one in named
    ]
    shapes = [(name, tuple(value.shape)) for name, value in state if isinstance(value, Tensor)]
    return hashlib.sha256(repr((parts, shapes)).encode()).hexdigest()


def _attributes(part: nn.Module) -> dict[str, str]:
    found, plain = {}, _PLAIN[:4]
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
    return part if isinstance(part, _PLAIN) else repr(part)


def name_of(function: object) -> str:
    """Return the name of a function, such as "round(ndigits=2)", or of another callable's type."""
    if isinstance(function, partial):
        values = [_said(value) for value in function.args]
        values += [f"{key}={_said(value)}" for key, value in function.keywords.items()]
        return f"{name_of(function.func)}({', '.join(values)})"
    return getattr(function, "__qualname__", type(function).__qualname__)


def _said(value: object) -> str:
    # Not by repr: that of a function has its address, which is another one at every start.
    return repr(value) if isinstance(value, _PLAIN) else name_of(value)
