"""Losses of logits whose classes are spread over ranks, as tensor-parallel heads give them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import rho_ext
from rho_train.linear import LinearScores


@torch.no_grad()
def vocabulary_parallel_score(
    logits: Tensor, labels: Tensor, *, group: Any = None, ignore_index: int = -100
) -> LinearScores:
    """Return the loss and the logsumexp of every row; no rank holds logits of all classes.

    Each rank reads its classes once. Ranks exchange two numbers a row, and all get the same
    results, so that `Selector(loss_fn=...)` selects the same examples on all of them.

    Args:
        logits: (n, c) or (B, T, c), the classes of this rank; those of rank 0 come first. Or a
            DTensor with the placement `Shard(-1)`, which knows its ranks.
        labels: (n,) or (B, T) int64 or int32, of all classes, the same on the ranks of `group`.
        group: the ranks that share the classes; None: all, or those of the DTensor.
        ignore_index: label of rows whose loss is 0.

    Returns:
        LinearScores, float32 of the shape of the labels.

    Raises:
        ValueError: the DTensor is not sharded by its classes, or as of `rho_ext.score`.
        IndexError: a label is out of range (on the CPU; on CUDA its loss is NaN).

    Examples:
        >>> def loss_fn(model, batch):
        ...     return vocabulary_parallel_score(model(batch.x), batch.y).losses
    """
    mesh = getattr(logits, "device_mesh", None)
    if mesh is not None:
        placements: Any = logits.placements  # type: ignore[attr-defined]
        of = [i for i, one in enumerate(placements) if one.is_shard(logits.ndim - 1)]
        if len(of) != 1:
            raise ValueError(
                "vocabulary_parallel_score: logits must be sharded in their last dimension, by one "
                f"dimension of the mesh, got {placements}"
            )
        group, logits = mesh.get_group(of[0]), logits.to_local()  # type: ignore[attr-defined]
    rank, world = dist.get_rank(group), dist.get_world_size(group)

    def gathered(own: Tensor) -> Tensor:
        rows = own.new_empty(world, *own.shape)
        dist.all_gather(list(rows.unbind()), own, group=group)
        return rows

    flat = labels.flatten().long()
    ends = gathered(flat.new_full((1,), logits.shape[-1])).cumsum(0)[:, 0]
    own = flat - (ends[rank] - logits.shape[-1])
    here, used = (own >= 0) & (own < logits.shape[-1]), flat != ignore_index
    wrong = used & ((flat < 0) | (flat >= ends[-1]))
    if not wrong.is_cuda and wrong.any():
        raise IndexError(
            f"vocabulary_parallel_score: labels must lie in [0, {int(ends[-1])}), the classes of "
            f"all ranks, or be ignore_index, got {int(flat[wrong][0])}"
        )
    local = torch.where(here, own, 0)
    part, losses = rho_ext.score(logits, local, None, method="logsumexp", ignore_index=-1)
    parts = gathered(part).double()
    total = parts.logsumexp(0)
    # The classes of the others add log(1 + their sum / own sum): the small loss of a learnt example
    # keeps its digits.
    parts[rank] = -torch.inf
    others = torch.logaddexp(torch.zeros_like(total), parts.logsumexp(0) - part)
    losses = losses.masked_fill(part == -torch.inf, torch.inf) + others
    losses = torch.where(here, losses, 0.0)
    dist.all_reduce(losses, group=group)
    losses = losses.masked_fill(wrong, torch.nan).masked_fill(~used, 0.0).float()
    return LinearScores(losses.view(labels.shape), total.float().view(labels.shape))
