"""Let the ops run on devices without kernels of ours, by the plain torch of `rho_ext.reference`."""

from __future__ import annotations

import warnings
from functools import cache

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


def _select(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    k: int,
    il: Tensor | None,
    method: int,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    workspace: Tensor | None = None,
) -> tuple[Tensor, ...]:
    warn(logits.device.type)
    found = reference.select(
        logits,
        labels,
        ids,
        k,
        il=il,
        method=_NAMES[method],
        bias=bias,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return found.values.float(), found.indices, found.losses.float(), found.invalid


def _score(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    il: Tensor | None,
    method: int,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, ...]:
    warn(logits.device.type)
    found = reference.score(
        logits,
        labels,
        ids,
        il=il,
        method=_NAMES[method],
        bias=bias,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return found.scores.float(), found.losses.float()


# Its destructor undoes the registrations. Tensors of ROCm have the key of CUDA.
_ops = torch.library.Library("rho_ext", "IMPL")
for _device in ("MPS", "XPU", *(("CUDA",) if cuda_missing() else ())):
    for _name, _op in (("select", _select), ("select.workspace", _select), ("score", _score)):
        _ops.impl(_name, _op, _device)
