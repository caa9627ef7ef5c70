"""Training on the tokens of a language model that are worth it (Rho-1, Lin et al., 2024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

import rho_ext
from rho_train.batch import describe
from rho_train.scoring import share_of


class TokenSelection(NamedTuple):
    """The mean loss of the selected tokens, and which ones these are.

    `loss` () is differentiable; `mask` bool, `losses` float32 in nats and 0 where ignored, both
    without a gradient and of the shape of the labels; `k` () int64, the number of selected tokens.
    """

    loss: Tensor
    mask: Tensor
    losses: Tensor
    k: Tensor


def token_share(valid: Tensor, ratio: float) -> Tensor:
    """Return k = max(1, round(ratio * valid)), halves upwards; 0 of 0."""
    wanted = (valid.double() * ratio + 0.5).floor().long().clamp(min=1)
    return torch.minimum(wanted, valid)


def top_share(scores: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the mask (m, T) of the best share of every row of scores, and its flat positions.

    k is `token_share` of the v scores of a row above -inf; ties in favour of the lower one, as in
    `rho_ext.select`. NaN ranks first, so that a broken model gives a loss of NaN and no smaller
    batch. The positions are int64, ascending. On CUDA and under `torch.compile` there are
    m * max(1, round(ratio * T)), with -1 at the end: the host never waits for k.
    """
    m, length = scores.shape
    valid = (scores != -torch.inf).sum(1)
    k = token_share(valid, ratio)
    # +0 makes -0 equal to it.
    order = (scores + 0.0).sort(dim=1, descending=True, stable=True).indices
    best = torch.arange(length, device=scores.device) < k[:, None]
    mask = torch.zeros_like(best).scatter(1, order, best)
    if scores.is_cuda or torch.compiler.is_compiling():
        most = m * min(share_of(length, ratio), length)
        return mask, mask.flatten().nonzero_static(size=most, fill_value=-1)[:, 0]
    return mask, mask.flatten().nonzero()[:, 0]


def check_ratio(op: str, ratio: float) -> None:
    """Refuse a ratio that is no number in (0, 1]."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise ValueError(f"{op}: ratio must be in (0, 1], got {ratio!r}")


def check_ignore_index(op: str, ignore_index: int) -> None:
    """Refuse an ignore_index that is no integer."""
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"{op}: ignore_index must be an int, got {ignore_index!r}")


def check_tensors(op: str, **inputs: Tensor) -> None:
    """Refuse what is no plain dense tensor, or on another device than the first."""
    first = next(iter(inputs))
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {describe(tensor)}")
        eager, kind = not torch.compiler.is_compiling(), type(tensor).__name__
        if eager and is_traceable_wrapper_subclass(tensor):
            raise TypeError(
                f"{op}: {name} must be a plain tensor, got a {kind}; pass full_tensor() of a "
                "DTensor or dequantize() of a quantized one, or unshard the module"
            )
        if eager and is_functorch_wrapped_tensor(tensor):
            raise TypeError(
                f"{op}: {name} must be a plain tensor, got one of torch.func or vmap, which do not "
                "work here; call it outside, and use backward()"
            )
        if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
            layout = "nested" if tensor.is_nested else tensor.layout
            kind = "on the meta device" if tensor.is_meta else f"{layout}"
            raise ValueError(f"{op}: {name} must be a dense tensor that holds values, got {kind}")
        if tensor.device != inputs[first].device:
            raise ValueError(
                f"{op}: {name} must be on the device of {first}, {inputs[first].device}, got "
                f"{tensor.device}"
            )


def check_il(op: str, il: Tensor, labels: Tensor) -> None:
    """Refuse reference losses that do not fit the labels."""
    check_tensors(op, labels=labels, il=il)
    if il.shape != labels.shape:
        raise ValueError(
            f"{op}: il must have the shape of labels, {tuple(labels.shape)}, got {describe(il)}; "
            "give the reference loss of the label in the same place"
        )
    if il.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{op}: il must be float32, float16 or bfloat16, got {describe(il)}")


def _score(
    op: str, logits: Tensor, labels: Tensor, il: Tensor | None, ignore_index: int, shift: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the labels that are predicted (B, T), or (B, T - 1), their scores and their losses."""
    check_ignore_index(op, ignore_index)
    check_tensors(op, logits=logits, labels=labels)
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"{op}: logits must have shape (B, T, C) and labels (B, T), got {describe(logits)} and "
            f"{describe(labels)}"
        )
    if il is not None:
        check_il(op, il, labels)
    if shift:
        # The last token predicts nothing, and nothing predicts the first.
        logits, labels, il = logits[:, :-1], labels[:, 1:], None if il is None else il[:, 1:]
    if il is not None:
        labels = labels.masked_fill(il.isnan(), ignore_index)
    method = "loss" if il is None else "rho"
    scored = rho_ext.score(
        logits.detach(), labels, None, il=il, method=method, ignore_index=ignore_index
    )
    return labels, scored.scores.view(labels.shape), scored.losses.view(labels.shape)


def token_losses(
    logits: Tensor, labels: Tensor, *, ignore_index: int = -100, shift: bool = False
) -> Tensor:
    """Return the loss of every token, without a gradient: with a reference model, the `il` of it.

    The arguments and errors are those of `select_tokens`. No tensor of the size of the logits is
    made.

    Returns:
        float32 (B, T) in nats, 0 where there is no label; with `shift` also for the first token.

    Examples:
        >>> token_losses(torch.zeros(1, 3, 5), torch.tensor([[1, 4, -100]]), shift=True)
        tensor([[0.0000, 1.6094, 0.0000]])
    """
    losses = _score("token_losses", logits, labels, None, ignore_index, shift)[2]
    return F.pad(losses, (labels.shape[1] - losses.shape[1], 0))


def select_tokens(
    logits: Tensor,
    labels: Tensor,
    *,
    il: Tensor | None = None,
    ratio: float,
    ignore_index: int = -100,
    shift: bool = False,
    per_sequence: bool = False,
) -> TokenSelection:
    """Return the mean loss of the tokens that are worth training on, and which ones these are.

    The score of a token is `CE(logits_bt, labels_bt) - il_bt`, its excess over a reference model
    (Rho-1, Lin et al., NeurIPS 2024). Of the v tokens with a label and a known `il` the
    k = max(1, round(ratio * v)) with the highest score are selected, ties in favour of the earlier
    one. The pass that trains gives the scores, so that selection costs no second one. The logits
    are not copied, and only the selected tokens enter the softmax of the backward pass.

    Args:
        logits: (B, T, C) floating point; on CUDA no float64.
        labels: (B, T) int64 or int32, in [0, C) or `ignore_index`.
        il: (B, T) float32, float16 or bfloat16, NaN where unknown: the loss of a reference model
            for the label in the same place (`token_losses`); None: the score is the loss.
        ratio: in (0, 1], the share of the valid tokens to select; 1 is plain training.
        ignore_index: label of tokens that do not count, such as padding.
        shift: the logits at t predict the label at t + 1, as in causal models of Hugging Face.
        per_sequence: select the share of each sequence instead of the batch, so that every one has
            a part in every step.

    Returns:
        TokenSelection: `loss`, `mask`, `losses` and `k`. Without any valid token the loss, k and
        the gradient are 0. A token whose loss is NaN ranks first, so that `loss` is NaN as in plain
        training. On CUDA k stays on the device, and the memory is that of ratio * B * T rows, as
        under `torch.compile(fullgraph=True)`.

    Raises:
        TypeError, ValueError: a kind, shape, dtype or device does not fit, or ratio is outside
            (0, 1].
        IndexError: a label is out of range (on the CPU; on CUDA the loss is NaN).

    Examples:
        >>> labels, il = torch.tensor([[1, 0, 3, -100]]), torch.tensor([[0.1, 1.9, 0.2, 0.0]])
        >>> select_tokens(torch.zeros(1, 4, 5), labels, il=il, ratio=0.6).mask
        tensor([[ True, False,  True, False]])
    """
    check_ratio("select_tokens", ratio)
    targets, scores, losses = _score("select_tokens", logits, labels, il, ignore_index, shift)
    mask, rows = top_share(scores if per_sequence else scores.view(1, -1), ratio)
    k = mask.sum()
    past, rows = rows < 0, rows.clamp(min=0)
    at = rows // targets.shape[1], rows % targets.shape[1]
    own, classes = targets[at].long(), logits.shape[2]
    selected = logits[at] if logits.dtype == torch.float64 else logits[at].float()
    if past.is_cuda or torch.compiler.is_compiling():
        # The row in the place of none may hold NaN, which a factor of 0 would let through.
        selected.masked_fill_(past[:, None], 0.0)
    ce = F.cross_entropy(selected, own.clamp(0, classes - 1), reduction="none")
    # Only on CUDA is a label out of range here. It would end the process.
    weights = torch.ones_like(ce).masked_fill((own < 0) | (own >= classes), torch.nan)
    loss = (ce * weights).masked_fill(past, 0.0).sum() / k.clamp(min=1)
    first = (labels.shape[1] - targets.shape[1], 0)
    return TokenSelection(loss, F.pad(mask.view(targets.shape), first), F.pad(losses, first), k)
