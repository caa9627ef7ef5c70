"""The device of this process, and its place among those that torch.distributed joins."""

from __future__ import annotations

import os
import re

import torch
import torch.distributed as dist
from torch import Tensor


def device_named(name: str) -> torch.device:
    """Return the device for "cpu", "cuda", "cuda:1", or "auto": CUDA if there is a GPU.

    Under torchrun "cuda" is the GPU of the local rank. ValueError if there is no such device.
    """
    ranks, count = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device(name)
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if not torch.cuda.is_available():
        build = "sees no GPU" if torch.version.cuda else "is built without CUDA"
        raise ValueError(f"device {name}: torch {torch.__version__} {build}; give auto or cpu")
    device = torch.device(name)
    if device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    elif ranks > 1:
        raise ValueError(f"device {name}: {ranks} ranks need a GPU each; give cuda")
    if device.index >= count:
        raise ValueError(f"device {device}: torch sees {count} GPUs, from cuda:0; give one of them")
    return device


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
