"""The plain-torch definition of the ops: the truth of the tests and the eager baseline.

Arguments, results and checks are those of `rho_ext.select` and `rho_ext.score`. float64 logits give
float64 results. A label or an id out of range makes its row invalid instead of raising.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rho_ext._library import NEEDS_IL
from rho_ext._meta import check_arguments, check_k, flat
from rho_ext.ops import Scores, Selection, active_il, integer_k, method_number


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
    """Score every row; invalid rows have score NaN, ignored rows -inf and loss 0.

    The formulas of `rho_ext.select`, in float32, or in float64 for float64 logits.

    Examples:
        >>> import torch
        >>> from rho_ext import reference
        >>> reference.score(torch.zeros(1, 2), torch.tensor([0]), None, method="loss").scores
        tensor([0.6931])
    """
    op = "reference"
    number = method_number(op, method)
    if il is None:
        il = active_il(op, method, ids)
    if getattr(logits, "ndim", 2) == 3:
        labels, ids, il, bias = flat(logits, labels, ids, il, bias)
    check_arguments(
        *(op, logits, labels, ids, il, number, bias, label_smoothing),
        ignore_index=ignore_index,
        any_device=True,
    )
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logits, labels = logits.flatten(0, -2).to(real), labels.long()
    classes = logits.shape[1]
    ignored = labels == ignore_index
    bad = ~ignored & ((labels < 0) | (labels >= classes))
    safe = labels.masked_fill(ignored | bad, 0)
    losses = F.cross_entropy(logits, safe, reduction="none", label_smoothing=label_smoothing)

    row_il = torch.zeros_like(losses)
    if il is not None and method in NEEDS_IL:
        rows = torch.arange(len(il), device=il.device) if ids is None else ids.long()
        outside = (rows < 0) | (rows >= len(il))
        bad |= ~ignored & outside
        if len(il) > 0:
            row_il = il[rows.masked_fill(outside, 0)].to(real)

    if method == "rho":
        scores = losses - row_il
    elif method == "loss":
        scores = losses.clone()
    elif method == "neg_il":
        scores = -row_il
    elif method == "grad_norm":
        # 1 - p_y as the sum of the other probabilities keeps the digits of a row almost learnt.
        p, label = logits.softmax(1), safe[:, None]
        # Times 0, not 0: a NaN row must stay NaN, even with one class.
        others = p.scatter(1, label, 0.0 * p.gather(1, label))
        # Dividing by the largest keeps the squares from underflowing.
        largest = others.amax(1)
        ratio = others / largest.where(largest > 0, 1.0)[:, None]
        scores = largest * (ratio.sum(1).square() + ratio.square().sum(1)).sqrt()
    elif method == "logsumexp":
        # Of rows with the logit inf NaN, as the loss is.
        scores = logits.logsumexp(1).masked_fill((logits == torch.inf).any(1), torch.nan)
    else:
        p = logits.softmax(1)
        scores = -torch.special.xlogy(p, p).sum(1)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(bad, torch.nan).masked_fill(ignored, -torch.inf)
    return Scores(scores, losses.masked_fill(bad, torch.nan).masked_fill(ignored, 0.0))


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
) -> Selection:
    """Return the k best rows: score descending, ties in favour of the lower row.

    Examples:
        >>> import torch
        >>> from rho_ext import reference
        >>> logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, -100])
        >>> reference.select(logits, labels, None, 3, method="loss").indices
        tensor([ 0,  1, -1])
    """
    k = integer_k("reference", k)
    scores, losses = score(
        logits,
        labels,
        ids,
        il=il,
        method=method,
        bias=bias,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    check_k("reference", k, len(scores))
    usable = ~scores.isnan() & (scores != -torch.inf)
    ranked = scores.masked_fill(~usable, -torch.inf)
    # +0 makes -0 equal to it, and a stable sort keeps equal scores in row order.
    values, indices = (ranked + 0.0).sort(descending=True, stable=True)
    values, indices = values[:k], indices[:k]
    indices = indices.masked_fill(values == -torch.inf, -1)
    return Selection(values, indices, losses, scores.isnan().sum().int())
