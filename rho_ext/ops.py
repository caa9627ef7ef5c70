"""The public ops. Options are checked here, tensors in C++ (csrc/common/checks.h)."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from rho_ext import _meta
from rho_ext._autograd import refuse_derivatives
from rho_ext._library import METHODS, NEEDS_IL, WORKSPACE_WORDS

_select = torch.ops.rho_ext.select.default
_select_workspace = torch.ops.rho_ext.select.workspace
_score = torch.ops.rho_ext.score.default

# Bound once: every call asks.
_transforms_active = torch._C._are_functorch_transforms_active

_active_il: Tensor | None = None


class Selection(NamedTuple):
    """The k best rows of a batch; `values` and `indices` come first, as in `torch.topk`."""

    values: Tensor
    indices: Tensor
    losses: Tensor
    invalid: Tensor


class Scores(NamedTuple):
    """The score and the loss of every row of a batch."""

    scores: Tensor
    losses: Tensor


class use_il:
    """Activate a table of irreducible losses, which `select` and `score` use without `il`.

    As a call it holds for the rest of the process. As a context manager it holds inside: on exit
    the previous table is active again, unless a call inside has activated another one. One table
    is active for all threads; contexts must not overlap between threads. CUDA graphs read it where
    it is, those of `torch.compile(mode="reduce-overhead")` too. A graph captured by hand goes on
    reading the table of its capture, which must stay alive.

    Args:
        table: (N,) float32, float16 or bfloat16; row i is the irreducible loss of the example
            with id i, NaN where it is unknown. None: no table is active.

    Raises:
        TypeError: the table is not a tensor.
        ValueError: the table is not 1-D, or its dtype is not one of the three.

    Examples:
        >>> import torch, rho_ext
        >>> with rho_ext.use_il(torch.tensor([0.1, 2.0])):
        ...     logits, labels, ids = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([1, 0])
        ...     rho_ext.select(logits, labels, ids, 1).indices
        tensor([1])
    """

    def __init__(self, table: Tensor | None) -> None:
        if table is not None:
            _meta.check_table("use_il", table)
            # torch._dynamo.mark_static_address, whose import takes seconds: a CUDA graph of
            # torch.compile reads the table where it is, and copies it at no replay.
            table._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]
        self._table = table
        self._previous: list[Tensor | None] = []
        self._entered = False
        self._activate()

    def _activate(self) -> None:
        global _active_il
        self._previous.append(_active_il)
        _active_il = self._table

    def __enter__(self) -> Tensor | None:
        # In `with use_il(table):` the table is active already.
        if self._entered or _active_il is not self._table:
            self._activate()
        self._entered = True
        return self._table

    def __exit__(self, *error: object) -> None:
        global _active_il
        previous = self._previous.pop()
        if _active_il is self._table:
            _active_il = previous


def workspace(device: torch.device | str) -> Tensor:
    """Allocate memory for `select(workspace=...)`: 25 KB of zeros, zeroed again by each launch.

    Without it every CUDA stream has a workspace of its own. Passing one saves a memset in a
    captured CUDA graph. It serves one launch at a time: graphs and streams that may run at the same
    time need one each.

    Returns:
        (6208,) int32 zeros on the device.

    Examples:
        >>> import rho_ext
        >>> rho_ext.workspace("cpu").dtype
        torch.int32
    """
    return torch.zeros(WORKSPACE_WORDS, dtype=torch.int32, device=device)


def method_number(op: str, method: str) -> int:
    """Return the number that the op takes for a method."""
    try:
        return METHODS[method]
    except (KeyError, TypeError):
        names = ", ".join(METHODS)
        raise ValueError(f"{op}: method must be one of {names}, got {method!r}") from None


def active_il(op: str, method: str, ids: Tensor | None) -> Tensor | None:
    """Return the active table if the method needs one."""
    if method not in NEEDS_IL or _active_il is None:
        return None
    if ids is None:
        raise ValueError(
            f"{op}: the table of rho_ext.use_il is read by ids, and ids is None; pass ids, or pass "
            "il with one value a row"
        )
    return _active_il


def integer_k(op: str, k: object) -> int:
    """Return k as an int; refuse bool and float."""
    if isinstance(k, torch.SymInt):
        return k  # type: ignore[return-value]
    is_bool = isinstance(k, bool) or (isinstance(k, Tensor) and k.dtype == torch.bool)
    if not is_bool and not isinstance(k, float):
        try:
            return operator.index(k)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(
        f"{op}: k must be an int, the number of rows to select, got {k!r}; for a share of "
        "the batch use rho_train.Selector(ratio=...)"
    )


def _clearer_error(
    error: Exception,
    op: str,
    arguments: tuple[Any, ...],
    ignore_index: object,
    k: int | None = None,
) -> Exception:
    """Return the error of the checks in Python, or the error of the op if they pass.

    torch refuses non-tensors, non-integers and rare dtypes before the checks in C++ run, and its
    error shows the schema of the op.
    """
    try:
        _meta.check_arguments(op, *arguments, ignore_index=ignore_index)
        if k is not None:
            _meta.check_k(op, k, _meta.rows_of(arguments[0]))
    except (TypeError, ValueError) as clearer:
        return clearer
    return error


def select(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    k: int,
    *,
    il: Tensor | None = None,
    method: str = "rho",
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    workspace: Tensor | None = None,
) -> Selection:
    r"""Score every row of a batch and return the k rows with the highest scores.

    `score_i = CE_i - IL_i` with `CE_i = logsumexp(logits_i) - logits_i[labels_i]` and
    `IL_i = il[ids_i]` for the default method `rho` (Mindermann et al., ICML 2022, eq. 3), computed
    in one pass over the logits. Nothing here is differentiable: score under
    `torch.inference_mode`, then train on the selected rows.

    Args:
        logits: (n, C) float32, float16, bfloat16 or float64, unnormalised; or (B, T, C), tokens of
            sequences, of which n = B * T are scored: token t of sequence b is row b * T + t. The
            first dimensions may have any stride, so that `logits[:, :-1]` is not copied; a last
            one with a stride other than 1 costs one copy.
        labels: (n,) int64 or int32, in [0, C) or `ignore_index`. With logits (B, T, C) they, and
            all else that is (n,), may be (B, T).
        ids: (n,) int64 or int32, the rows of the table; None: `il` has one value a row.
        k: number of rows, 0 <= k <= n.
        il: (N,) float32, float16 or bfloat16, NaN where unknown; None: the table of `use_il`.
            Methods that need none check `il` and `ids` for shape, dtype and device and do not
            read their values.
        method: `rho` = CE - IL; `loss` = CE; `neg_il` = -IL;
            `grad_norm` = ||softmax(logits) - onehot(label)||_2 (label smoothing does not enter);
            `entropy` = that of softmax(logits), in nats; `logsumexp` = that of the logits: in
            `score` beside the losses, which are -log p of the labels.
        bias: (n,) float32 added to the score: Gumbel noise, class weights, quotas. A row whose
            score becomes -inf is masked: it is never returned.
        ignore_index: rows with this label are never selected and their loss is 0.
        label_smoothing: in [0, 1], as in `torch.nn.functional.cross_entropy`.
        workspace: on CUDA, memory of `rho_ext.workspace`; the CPU needs none and ignores it.

    Returns:
        Selection: `values` (k,) float32, scores in descending order; `indices` (k,) int64, rows of
        the batch, ties in favour of the lower row; `losses` (n,) float32, the cross-entropy of
        every row; `invalid` () int32, the number of rows whose score is NaN. Such rows, masked rows
        and ignored rows are never returned: when fewer than k remain, `indices` ends in -1 and
        `values` in -inf. Arithmetic is float32 (float64 for float64 logits), and the result is the
        same to the bit for any number of threads; on CUDA for the same inputs, while the losses of
        rows of more than 8 KB may differ in their last bit between batches of different sizes.

    Raises:
        TypeError: k or ignore_index is no integer, label_smoothing is no number, or an argument
            that must be a tensor is none.
        ValueError: shape, dtype, device or range of an argument, or il is missing.
        IndexError: a label or an id is out of range (on the CPU). On CUDA the check would
            wait for the device, so such a row is counted in `invalid`.
        RuntimeError: logits, il or bias is being differentiated by `torch.func` or forward-mode AD.

    On CUDA without kernels (`rho_ext.build_info()["cuda_ops"]` says why), ROCm, MPS and XPU plain
    torch computes the same, slower, after one warning.

    Examples:
        >>> import torch, rho_ext
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> labels, ids = torch.tensor([0, 0, 1]), torch.tensor([7, 3, 5])
        >>> rho_ext.select(logits, labels, ids, 2, il=torch.full((8,), 0.1)).indices
        tensor([1, 2])
    """
    if type(k) is not int:
        k = integer_k("select", k)
    try:
        number = METHODS[method]  # The call would cost 0.1 microseconds.
    except (KeyError, TypeError):
        number = method_number("select", method)
    if il is None:
        il = active_il("select", method, ids)
    if _transforms_active() or forward_ad._current_level >= 0:
        refuse_derivatives("select", logits=logits, il=il, bias=bias)
    try:
        if logits.ndim == 3:
            labels, ids, il, bias = _meta.flat(logits, labels, ids, il, bias)
        if workspace is None or not getattr(logits, "is_cuda", False):
            # Calling `_op` skips a layer of Python, 0.3 microseconds. torch.compile traces the op.
            call = _select if is_dynamo_compiling() else _select._op
            results = call(logits, labels, ids, k, il, number, bias, ignore_index, label_smoothing)
        else:
            results = _select_workspace(
                logits, labels, ids, k, il, number, bias, ignore_index, label_smoothing,
                workspace=workspace,
            )  # fmt: skip
    except (AttributeError, RuntimeError, ValueError) as error:
        arguments = (logits, labels, ids, il, number, bias, label_smoothing)
        raise _clearer_error(error, "select", arguments, ignore_index, k) from None
    # Faster than Selection(*results), which calls a function in Python.
    return tuple.__new__(Selection, results)


def score(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor | None,
    *,
    il: Tensor | None = None,
    method: str = "rho",
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Scores:
    """Score every row of a batch without selecting.

    The arguments, the formula and the errors are those of `select`.

    Returns:
        Scores: `scores` (n,) float32, NaN for invalid rows and -inf for ignored ones; `losses`
        (n,) float32, the cross-entropy of every row.

    Examples:
        >>> import torch, rho_ext
        >>> rho_ext.score(torch.zeros(1, 2), torch.tensor([0]), None, method="loss").scores
        tensor([0.6931])
    """
    try:
        number = METHODS[method]  # The call would cost 0.1 microseconds.
    except (KeyError, TypeError):
        number = method_number("score", method)
    if il is None:
        il = active_il("score", method, ids)
    if _transforms_active() or forward_ad._current_level >= 0:
        refuse_derivatives("score", logits=logits, il=il, bias=bias)
    try:
        if logits.ndim == 3:
            labels, ids, il, bias = _meta.flat(logits, labels, ids, il, bias)
        call = _score if is_dynamo_compiling() else _score._op
        results = call(logits, labels, ids, il, number, bias, ignore_index, label_smoothing)
    except (AttributeError, RuntimeError, ValueError) as error:
        arguments = (logits, labels, ids, il, number, bias, label_smoothing)
        raise _clearer_error(error, "score", arguments, ignore_index) from None
    return tuple.__new__(Scores, results)
