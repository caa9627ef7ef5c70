"""Cross-entropy of linear heads over a large vocabulary, without ever holding all logits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

import rho_ext
from rho_train.batch import describe
from rho_train.checks import outside
from rho_train.linear_head import Head, select_rows
from rho_train.tokens import (
    TokenSelection,
    check_ignore_index,
    check_il,
    check_ratio,
    check_tensors,
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class LinearScores(NamedTuple):
    """Losses of tokens, and logsumexp if asked for: float32, of the shape of the labels."""

    losses: Tensor
    logsumexp: Tensor | None

    @property
    def log_p(self) -> Tensor:
        """The log-probability of every label; 0 where it is ignored."""
        return -self.losses


def _check_labels(op: str, labels: Tensor, vocabulary: int, ignore_index: int) -> None:
    """Refuse labels outside the vocabulary; not on CUDA, where the host would wait."""
    if labels.device.type != "cpu":
        return
    bad = outside(labels.masked_fill(labels == ignore_index, 0), vocabulary)
    if bad is not None:
        raise IndexError(
            f"{op}: labels must lie in [0, {vocabulary}), the rows of weight, or be ignore_index, "
            f"got {bad}"
        )


@torch.library.custom_op("rho_train::linear_cross_entropy", mutates_args=())
def _cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    il: Tensor | None,
    ratio: float,
    ignore_index: int,
    softcap: float | None,
    chunk: int | None,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return loss, mask, losses and k, and float32 gradients of the loss, empty if not wanted."""
    _check_labels("linear_cross_entropy", labels, len(weight), ignore_index)
    with torch.autocast(hidden.device.type, enabled=False):
        head = Head((hidden, weight, bias), labels, softcap, chunk, wanted)
        may_wait = hidden.device.type == "cpu"
        losses, mask = select_rows(head, il, ratio, ignore_index, may_wait)
    k = mask.sum()
    share = 1.0 / k.clamp(min=1)
    loss = torch.where(mask, losses, 0.0).sum(dtype=torch.float64) / k.clamp(min=1)
    gradients = [total.mul_(share) for total in head.sums]
    return loss.float(), mask, losses, k, *gradients  # type: ignore[return-value]


@_cross_entropy.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *others: Any
) -> tuple[Tensor, ...]:
    losses = torch.empty_like(labels, dtype=torch.float32)
    gradients = [
        losses.new_empty(tensor.shape if needed else 0)
        for tensor, needed in zip((hidden, weight, weight[:, 0]), others[-1], strict=True)
    ]
    mask, k = torch.empty_like(labels, dtype=torch.bool), labels.new_empty(())
    return losses.new_empty(()), mask, losses, k, *gradients


@torch.library.custom_op("rho_train::linear_score", mutates_args=())
def _scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    ignore_index: int,
    softcap: float | None,
    chunk: int | None,
    logsumexp: bool,
) -> tuple[Tensor, Tensor]:
    """Return losses, and logsumexp or an empty tensor."""
    _check_labels("linear_score", labels, len(weight), ignore_index)
    ignored = labels == ignore_index
    losses = torch.zeros_like(labels, dtype=torch.float32)
    total = losses.new_empty(len(labels) if logsumexp else 0)
    order = torch.arange(len(labels), device=labels.device)
    if not logsumexp and labels.device.type == "cpu":
        order = order[~ignored]
    # Rows with an ignored label have a logsumexp too.
    labels = labels.masked_fill(ignored, 0)
    options: Any = {"method": "logsumexp" if logsumexp else "loss", "ignore_index": -(2**63)}
    with torch.autocast(hidden.device.type, enabled=False):
        head = Head((hidden, weight, bias), labels, softcap, chunk, [False] * 3)
        for rows in torch.split(order, head.rows):
            sums, losses[rows] = rho_ext.score(head.logits(rows), labels[rows], None, **options)
            if logsumexp:
                total[rows] = sums
    return losses.masked_fill_(ignored, 0.0), total


@_scores.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *others: Any) -> Any:
    losses = torch.empty_like(labels, dtype=torch.float32)
    return losses, losses.new_empty(losses.shape if others[-1] else 0)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients were computed with the loss; backward scales them."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        loss, mask, losses, k, *gradients = _cross_entropy(*arguments)
        ctx.dtype = arguments[0].dtype
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(mask, losses, k)
        return loss, mask, losses, k

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        eager = not torch.compiler.is_compiling()
        if eager and torch.is_grad_enabled():
            raise RuntimeError(
                "linear_cross_entropy: there is no second derivative, and create_graph=True asks "
                "for one; for a gradient penalty pass the logits to select_tokens"
            )
        # A product with 1 would be a copy of the gradient of the weight. To ask, a GPU would wait.
        is_one = eager and grad.device.type == "cpu" and grad == 1
        # Only the product may be rounded: a loss scale brings it into the range of float16.
        gradients = [
            (own if is_one else own * grad).to(ctx.dtype) if needed else None
            for own, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
        ]
        return (*gradients, *[None] * 7)


def _checked(
    op: str,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    softcap: float | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return hidden, weight and bias as the head takes them, or say what does not fit."""

    def refuse(message: str, got: object) -> None:
        raise ValueError(f"{op}: {message}, got {got}")

    inputs = {"hidden": hidden, "weight": weight, "labels": labels}
    if bias is not None:
        inputs["bias"] = bias
    check_tensors(op, **inputs)
    check_ignore_index(op, ignore_index)
    if weight.ndim != 2 or 0 in weight.shape:
        refuse("weight must have shape (V, H)", describe(weight))
    if hidden.ndim < 2 or hidden.shape[-1] != weight.shape[1]:
        refuse(f"hidden must have shape (..., {weight.shape[1]}), as weight", describe(hidden))
    if labels.shape != hidden.shape[:-1]:
        refuse(f"labels must have shape {tuple(hidden.shape[:-1])}, as hidden", describe(labels))
    if labels.dtype not in (torch.int64, torch.int32):
        refuse("labels must be int64 or int32", describe(labels))
    if bias is not None and bias.shape != weight.shape[:1]:
        refuse(f"bias must have shape ({len(weight)},), the rows of weight", describe(bias))
    is_number = isinstance(softcap, (int, float)) and not isinstance(softcap, bool)
    if softcap is not None and not (is_number and 0 < softcap < math.inf):
        refuse("softcap must be positive and finite, or None", repr(softcap))
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        refuse("chunk must be a number of rows, at least 1, or None", repr(chunk))
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype in _DTYPES:
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    for name, tensor in {"weight": weight, "bias": weight if bias is None else bias}.items():
        if tensor.dtype != hidden.dtype or tensor.dtype not in _DTYPES:
            wanted = "float32, bfloat16 or float16, the same as hidden"
            refuse(f"{name} must be {wanted} ({describe(hidden)})", describe(tensor))
    return hidden.flatten(0, -2), weight, bias


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    il: Tensor | None = None,
    ratio: float = 1.0,
    ignore_index: int = -100,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, TokenSelection]:
    """Return the mean loss of the tokens that are worth training on, and which ones these are.

    As `select_tokens` of the logits `softcap * tanh((hidden @ weight.T + bias) / softcap)`, but
    these are computed a block of rows at a time and never held. The gradients are computed with the
    loss, so that the logits of a selected token are computed once. They pay for the selected tokens
    alone, and sum up in float32. Under `torch.no_grad` only the losses are computed.

    Args:
        hidden: (..., H) float32, bfloat16 or float16: what the head is applied to.
        weight: (V, H) of the same dtype: the weight of the head, which may be tied.
        labels: (...) int64 or int32, in [0, V) or `ignore_index`; already shifted.
        bias: (V,) of the same dtype.
        il: (...) float32, float16 or bfloat16, the loss of a reference model for the same label,
            NaN where unknown; None: the score is the loss.
        ratio: in (0, 1], the share of the valid tokens to select; 1 trains on all.
        ignore_index: label of tokens that do not count, such as padding.
        softcap: bound of the logits, as in Gemma.
        chunk: rows of logits that are computed at a time; None: 1,024, or as many as fill 352 MB
            if these are fewer (on CUDA 1 GiB). On the CPU up to half as many wait beside them if
            `ratio` is below 1.

    Returns:
        The loss, float32 (), differentiable once by hidden, weight and bias; and TokenSelection.
        Without any valid token loss, k and gradients are 0. Until backward the gradients are held
        in float32; they are cast after the product with that of the loss, so that loss scales work.
        On the CPU halves are multiplied in float32, through a copy of the weight. On CUDA the host
        does not wait for the device.

    Raises:
        TypeError, ValueError: a shape, dtype or device does not fit; a tensor is sparse, meta, a
            DTensor, quantized or of torch.func.
        RuntimeError: backward with create_graph=True.
        IndexError: a label is out of range (on the CPU; on CUDA the loss is NaN).

    Examples:
        >>> hidden, weight = torch.eye(3), torch.eye(3, requires_grad=True)
        >>> loss, selection = linear_cross_entropy(
        ...     hidden, weight, torch.tensor([0, 2, -100]), ratio=0.5
        ... )
        >>> selection.mask
        tensor([False,  True, False])
    """
    op = "linear_cross_entropy"
    check_ratio(op, ratio)
    rows, weight, bias = _checked(op, hidden, weight, labels, bias, ignore_index, softcap, chunk)
    own = labels.long()
    if il is not None:
        check_il(op, il, labels)
        own = own.masked_fill(il.isnan(), ignore_index)
        il = il.detach().flatten().float()
    grad = torch.is_grad_enabled()
    wanted = [grad and t is not None and t.requires_grad for t in (rows, weight, bias)]
    loss, mask, losses, k = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        rows, weight, bias, own.flatten(), il, float(ratio), ignore_index, softcap, chunk, wanted
    )
    return loss, TokenSelection(loss, mask.view(labels.shape), losses.view(labels.shape), k)


def linear_score(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    chunk: int | None = None,
    logsumexp: bool = False,
) -> LinearScores:
    """Return the loss of every token under a linear head, without a gradient or all logits.

    It gives the reference losses of `linear_cross_entropy` and the log-probabilities of a policy.
    Arguments and errors are those of `linear_cross_entropy`.

    Args:
        logsumexp: also return that of the logits of every token, ignored ones included.

    Returns:
        LinearScores: `losses` (...) float32 in nats, 0 where the label is ignored; `log_p`, their
        negative; `logsumexp` (...) float32 or None.

    Examples:
        >>> scores = linear_score(torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([1, -100]))
        >>> scores.log_p
        tensor([-1.3863, -0.0000])
    """
    op = "linear_score"
    rows, weight, bias = _checked(op, hidden, weight, labels, bias, ignore_index, softcap, chunk)
    with torch.no_grad():
        losses, total = _scores(
            rows, weight, bias, labels.long().flatten(), ignore_index, softcap, chunk, logsumexp
        )
    found = total.view(labels.shape) if logsumexp else None
    return LinearScores(losses.view(labels.shape), found)
