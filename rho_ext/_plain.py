"""Let the ops run on devices without kernels of ours, by the plain torch of `rho_ext.reference`."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rho_ext import reference
from rho_ext._library import METHODS, cuda_missing

_NAMES = list(METHODS)


@cache
def warn(device: str) -> None:
    """Say once that the ops are slow on this type of device, and how to make them fast."""
    reason = cuda_missing() if device == "cuda" else f"there are no kernels for {device}"
    warnings.warn(
        f"rho_ext: on {device} select and score run as plain torch, which reads the logits several "
        f"times: {reason}",
        stacklevel=2,
    )


def _options(
    il: Tensor | None, method: int, bias: Tensor | None, ignore_index: int, label_smoothing: float
) -> dict[str, Any]:
    """Name what the ops take by position."""
    options = {"il": il, "bias": bias, "ignore_index": ignore_index}
    return {**options, "method": _NAMES[method], "label_smoothing": label_smoothing}


def _select(logits: Tensor, *arguments: Any, workspace: Tensor | None = None) -> tuple[Tensor, ...]:
    warn(logits.device.type)
    labels, ids, k, *options = arguments
    found = reference.select(logits, labels, ids, k, **_options(*options))
    return found.values.float(), found.indices, found.losses.float(), found.invalid


def _score(logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    warn(logits.device.type)
    labels, ids, *options = arguments
    found = reference.score(logits, labels, ids, **_options(*options))
    return found.scores.float(), found.losses.float()


# Its destructor undoes the registrations. Tensors of ROCm have the key of CUDA.
_ops = torch.library.Library("rho_ext", "IMPL")
for _device in ("MPS", "XPU", *(("CUDA",) if cuda_missing() else ())):
    for _name, _op in (("select", _select), ("select.workspace", _select), ("score", _score)):
        _ops.impl(_name, _op, _device)
