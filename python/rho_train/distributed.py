"""The place of this process among those that torch.distributed joins."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of ranks, (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_gather(row: Tensor) -> Tensor:
    """Return the rows of all ranks, (world, *row.shape), which must agree in shape and dtype."""
    _, world = rank_and_world()
    rows = torch.empty((world, *row.shape), dtype=row.dtype, device=row.device)
    if world == 1:
        return rows.copy_(row)
    dist.all_gather(list(rows.unbind()), row)
    return rows
