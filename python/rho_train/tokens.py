"""Training on the tokens of a language model that are worth it (Rho-1, Lin et al., 2024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


def top_share(scores: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the mask (m, T) of the best share of every row of scores, and its flat positions.

    k = max(1, round(ratio * v)), halves upwards, of the v scores of a row above -inf; ties in
    favour of the lower one, as in `rho_ext.select`. NaN ranks first, so that a broken model gives
    a loss of NaN and no smaller batch. The positions are int64, ascending. On CUDA and under
    `torch.compile` there are m * max(1, round(ratio * T)), with -1 at the end: the host never waits
    for k.
    """
    m, length = scores.shape
    valid = (scores != -torch.inf).sum(1)
    wanted = (valid.double() * ratio + 0.5).floor().long().clamp(min=1)
    k = torch.minimum(wanted, valid)
    # +0 makes -0 equal to it.
    order = (scores + 0.0).sort(dim=1, descending=True, stable=True).indices
    best = torch.arange(length, device=scores.device) < k[:, None]
    mask = torch.zeros_like(best).scatter(1, order, best)
    if scores.is_cuda or torch.compiler.is_compiling():
        most = m * min(share_of(length, ratio), length)
        return mask, mask.flatten().nonzero_static(size=most, fill_value=-1)[:, 0]
    return mask, mask.flatten().nonzero()[:, 0]
