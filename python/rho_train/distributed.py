"""The device of this process, and its place among those that torch.distributed joins."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rho_train.progress import Stopped

T = TypeVar("T")
_HOURS = timedelta(days=30)  # a rank may train for long before the others hear of it


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


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if it did: by gloo, and by nccl on CUDA."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def on_all(work: Callable[[], T]) -> list[T]:
    """Work on every rank and return all results; an error of one rank is raised on all.

    All ranks call it together, whatever time each needs. Results travel on the CPU.
    """
    world = rank_and_world()[1]
    if world == 1:
        return [work()]
    own = _attempt(work)
    found: list[Any] = [own] * world
    dist.all_gather_object(found, own, group=_patient(dist.group.WORLD))
    errors = [error for _, error in (own, *found) if error is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Stopped))
    return [result for result, _ in found]


def on_first(work: Callable[[], T]) -> T:
    """Work on rank 0 alone and return its result on all; its error is raised on all."""
    rank, world = rank_and_world()
    if world == 1:
        return work()
    found: list[Any] = [_attempt(work) if rank == 0 else None]
    dist.broadcast_object_list(found, 0, group=_patient(dist.group.WORLD))
    result, error = found[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def any_rank(stop: bool) -> bool:
    """Return whether a flag of the host is set on any rank; no rank waits for its GPU."""
    if rank_and_world()[1] == 1:
        return stop
    flag = torch.tensor(int(stop), dtype=torch.uint8, device="cpu")
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=_patient(dist.group.WORLD))
    return bool(flag)


@lru_cache(maxsize=1)
def _patient(world: object) -> Any:
    """Return all ranks as a group of gloo that waits for long."""
    return dist.new_group(timeout=_HOURS, backend="gloo")


def summed(tensor: Tensor) -> Tensor:
    """Add a tensor over the ranks, in place, and return it."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def all_gather(row: Tensor) -> Tensor:
    """Return the rows of all ranks, (world, *row.shape), which must agree in shape and dtype."""
    _, world = rank_and_world()
    rows = torch.empty((world, *row.shape), dtype=row.dtype, device=row.device)
    if world == 1:
        return rows.copy_(row)
    dist.all_gather(list(rows.unbind()), row)
    return rows
