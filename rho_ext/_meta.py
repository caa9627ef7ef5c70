"""Fake kernels: shapes and dtypes of the results, and the rules of csrc/common/checks.h.

The rules have the same words and order as in C++; tests/ops/test_bad_inputs.py compares the two.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from rho_ext._library import METHODS, NEEDS_IL, WORKSPACE_WORDS

_NAMES = list(METHODS)
_LOGITS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TABLE = (torch.float32, torch.float16, torch.bfloat16)
_INDEX = (torch.int64, torch.int32)
_MAX_ROWS = 2**31
_MAX_GPU_CLASSES = 2**30


def _check(condition: bool, message: str) -> None:
    if isinstance(condition, torch.SymBool):
        # On symbolic sizes this records the fact for the compiler instead of failing.
        torch._check_value(condition, lambda: message)
    elif not condition:
        raise ValueError(message)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_tensor(op: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}")


def _check_device(op: str, name: str, tensor: Tensor, logits: Tensor) -> None:
    _check(
        tensor.device == logits.device,
        f"{op}: {name} must be on the device of logits; move it with {name}.to(logits.device)",
    )


def rows_of(logits: Tensor) -> int:
    """Return the number of rows of logits (n, C) or (B, T, C)."""
    return logits.shape[0] * logits.shape[1] if logits.dim() == 3 else logits.shape[0]


def flat(logits: Any, labels: Any, ids: Any, il: Any, bias: Any) -> tuple[Any, ...]:
    """Return labels, ids, il and bias; those of one value a row (B, T) as (B * T,)."""

    def flat_rows(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.shape == logits.shape[:2]
        return value.flatten() if fits else value

    table = il if ids is not None else flat_rows(il)
    return flat_rows(labels), flat_rows(ids), table, flat_rows(bias)


def _check_length(op: str, name: str, tensor: Tensor, logits: Tensor) -> None:
    n = rows_of(logits)
    sequences = f"{tuple(logits.shape[:2])} or " if logits.dim() == 3 else ""
    message = f"{op}: {name} must have shape {sequences}({n},), got {tuple(tensor.shape)}"
    _check(tensor.dim() == 1, message)
    _check(tensor.shape[0] == n, message)


def _check_index(op: str, name: str, tensor: Tensor) -> None:
    _check(tensor.dtype in _INDEX, f"{op}: {name} must be int64 or int32, got {_dtype(tensor)}")


def _check_table_dtype(op: str, il: Tensor) -> None:
    _check(il.dtype in _TABLE, f"{op}: il must be float32, float16 or bfloat16, got {_dtype(il)}")


def check_table(op: str, table: Tensor) -> None:
    """Check a table of irreducible losses by itself."""
    _check_tensor(op, "il", table)
    _check(table.dim() == 1, f"{op}: il must have shape (N,), got {tuple(table.shape)}")
    _check_table_dtype(op, table)


def on_gpu(logits: Tensor) -> bool:
    """Return whether the kernels of csrc/cuda compute these logits."""
    return logits.device.type == "cuda"


def _check_gpu(op: str, logits: Tensor) -> None:
    _check(
        logits.dtype != torch.float64,
        f"{op}: logits on a GPU must be float32, float16 or bfloat16, got float64, which only the "
        "CPU computes; convert them with logits.float()",
    )
    _check(
        logits.shape[-1] <= _MAX_GPU_CLASSES,
        f"{op}: logits on a GPU must have at most {_MAX_GPU_CLASSES} classes, got "
        f"{logits.shape[-1]}",
    )


def _check_il(op: str, il: Tensor | None, ids: Tensor | None, logits: Tensor, method: int) -> None:
    if il is None:
        name = _NAMES[method]
        _check(
            name not in NEEDS_IL,
            f"{op}: method '{name}' needs il; pass il=table or activate one with "
            "rho_ext.use_il(table)",
        )
        return
    _check_device(op, "il", il, logits)
    if ids is not None:
        _check(il.dim() == 1, f"{op}: il must have shape (N,), got {tuple(il.shape)}")
    else:
        _check_length(op, "il", il, logits)
    _check_table_dtype(op, il)


def check_arguments(
    op: str,
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    il: Tensor | None,
    method: int,
    bias: Tensor | None,
    label_smoothing: float,
    *,
    ignore_index: object = -100,
    any_device: bool = False,
) -> None:
    """Check all arguments except k and the values of labels and ids.

    `any_device`: skip the limits of the GPU kernels, as `rho_ext.reference` has none.
    """
    _check_tensor(op, "logits", logits)
    _check_tensor(op, "labels", labels)
    for name, optional in (("ids", ids), ("il", il), ("bias", bias)):
        if optional is not None:
            _check_tensor(op, name, optional)
    if not isinstance(ignore_index, (Integral, torch.SymInt)):
        kind = type(ignore_index).__name__
        raise TypeError(f"{op}: ignore_index must be an int, got {kind}")
    if not isinstance(label_smoothing, (Real, torch.SymFloat)):
        kind = type(label_smoothing).__name__
        raise TypeError(f"{op}: label_smoothing must be a number, got {kind}")
    _check(0 <= method < len(_NAMES), f"{op}: method must be in [0, {len(_NAMES)}), got {method}")
    _check(
        logits.dim() in (2, 3),
        f"{op}: logits must have shape (n, C) or (B, T, C), got {tuple(logits.shape)}",
    )
    _check(
        logits.dtype in _LOGITS,
        f"{op}: logits must be float32, float16, bfloat16 or float64, got {_dtype(logits)}",
    )
    _check(
        logits.shape[-1] != 0,
        f"{op}: logits must have at least one class, got {tuple(logits.shape)}",
    )
    if not any_device and on_gpu(logits):
        _check_gpu(op, logits)
    n = rows_of(logits)
    _check(n < _MAX_ROWS, f"{op}: logits must have fewer than {_MAX_ROWS} rows, got {n}")
    _check_device(op, "labels", labels, logits)
    _check_length(op, "labels", labels, logits)
    _check_index(op, "labels", labels)
    if ids is not None:
        _check_device(op, "ids", ids, logits)
        _check_length(op, "ids", ids, logits)
        _check_index(op, "ids", ids)
    _check_il(op, il, ids, logits, method)
    if bias is not None:
        _check_device(op, "bias", bias, logits)
        _check_length(op, "bias", bias, logits)
        _check(bias.dtype == torch.float32, f"{op}: bias must be float32, got {_dtype(bias)}")
    _check(
        0.0 <= label_smoothing <= 1.0,
        f"{op}: label_smoothing must be in [0, 1], got {label_smoothing:g}",
    )


def check_k(op: str, k: int, n: int) -> None:
    """Check the number of rows to select from n."""
    message = f"{op}: k must be in [0, {n}], the rows of logits, got {k}"
    _check(k >= 0, message)
    _check(k <= n, message)


@torch.library.register_fake("rho_ext::select")
def _select_fake(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    k: int,
    il: Tensor | None,
    method: int,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_arguments("select", logits, labels, ids, il, method, bias, label_smoothing)
    n = rows_of(logits)
    check_k("select", k, n)
    return (
        logits.new_empty((k,), dtype=torch.float32),
        logits.new_empty((k,), dtype=torch.int64),
        logits.new_empty((n,), dtype=torch.float32),
        logits.new_empty((), dtype=torch.int32),
    )


@torch.library.register_fake("rho_ext::select.workspace")
def _select_workspace_fake(*arguments: Any, workspace: Tensor) -> Any:
    results = _select_fake(*arguments)
    _check_device("select", "workspace", workspace, arguments[0])
    _check(
        workspace.dtype == torch.int32
        and tuple(workspace.shape) == (WORKSPACE_WORDS,)
        and workspace.is_contiguous(),
        "select: workspace must come from rho_ext.workspace(device), got "
        f"{_dtype(workspace)} of shape {tuple(workspace.shape)}",
    )
    return results


@torch.library.register_fake("rho_ext::score")
def _score_fake(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    il: Tensor | None,
    method: int,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    check_arguments("score", logits, labels, ids, il, method, bias, label_smoothing)
    n = rows_of(logits)
    return logits.new_empty((n,), dtype=torch.float32), logits.new_empty((n,), dtype=torch.float32)
