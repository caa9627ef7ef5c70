"""The device of this process, and its place among those that torch.distributed joins."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from rho_train.progress import Stopped

T = TypeVar("T")
_LONG = timedelta(days=30)  # a rank may train for long before the others hear of it


def device_named(name: str) -> torch.device:
    """Return the device for "cpu", "cuda", "cuda:1", or "auto": CUDA if there is a GPU.

    Under torchrun "cuda" is the GPU of the local rank. ValueError if there is no such device.
    """
    ranks, count = started_ranks(), torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device(name)
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if not torch.cuda.is_available():
        build = "sees no GPU" if torch.version.cuda else "is built without CUDA"
        raise ValueError(f"device {name}: torch {torch.__version__} {build}; give auto or cpu")
    device, rank = torch.device(name), int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", rank + 1))
    if ranks > 1 and (here > count or device.index is not None):
        raise ValueError(
            f"device {name}: {ranks} ranks need a GPU each and torch sees {count}; give cuda, "
            f"start at most {count} ranks on this machine, or give cpu"
        )
    if device.index is None:
        device = torch.device("cuda", rank)
    if device.index >= count:
        raise ValueError(f"device {device}: torch sees {count} GPUs, from cuda:0; give one of them")
    return device


def started_ranks() -> int:
    """Return the number of processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def started_first() -> bool:
    """Return True in the first of the processes that torchrun started, and without it."""
    return os.environ.get("RANK", "0") == "0"


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of ranks, (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if it did: by gloo, and by nccl on CUDA."""
    if started_ranks() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def agree(where: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that differ between ranks, and a rank that does not come in 30 minutes.

    All ranks call it together at the start of shared work, which may then last for long.
    """
    rank, world = rank_and_world()
    if world == 1:
        return
    own: dict[str, Any] = {"call": where}
    for name, value in settings.items():
        nested = isinstance(value, dict)
        own |= {f"{name}.{key}": one for key, one in value.items()} if nested else {name: value}
    found = [own] * world
    try:
        dist.all_gather_object(found, own, group=_gloo(None))
    except RuntimeError as error:
        raise RuntimeError(
            f"{where}: rank {rank} did not hear of the others: all {world} ranks must call it "
            "together, not one alone as under `if rank == 0:`"
        ) from error
    for other, theirs in enumerate(found):
        for name in sorted(found[0].keys() | theirs.keys()):
            if (first := found[0].get(name)) != (second := theirs.get(name)):
                raise ValueError(
                    f"{where}: {name} must be the same on all ranks, got {first} on rank 0 and "
                    f"{second} on rank {other}"
                )


def on_all(work: Callable[[], T]) -> list[T]:
    """Work on every rank and return all results; an error of one rank is raised on all.

    All ranks call it together, whatever time each needs. Results travel on the CPU.
    """
    world = rank_and_world()[1]
    if world == 1:
        return [work()]
    own = _attempt(work)
    found: list[Any] = [own] * world
    dist.all_gather_object(found, own, group=_gloo(_LONG))
    errors = [error for _, error in (own, *found) if error is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Stopped))
    return [result for result, _ in found]


def on_first(work: Callable[[], T]) -> T:
    """Work on rank 0 alone and return its result on all; its error is raised on all."""
    rank, _ = rank_and_world()
    return on_all(lambda: work() if rank == 0 else None)[0]  # type: ignore[return-value]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # then the others would not hear of it
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def any_rank(stop: bool) -> bool:
    """Return whether a flag of the host is set on any rank; no rank waits for its GPU."""
    if rank_and_world()[1] == 1:
        return stop
    flag = torch.tensor(int(stop), dtype=torch.uint8, device="cpu")
    dist.all_reduce(flag, dist.ReduceOp.MAX, group=_gloo(_LONG))
    return bool(flag)


# Torch alone holds a group: one that outlives `destroy_process_group` aborts the process when it
# ends, and DistributedDataParallel keeps the key, the group of all ranks.
_groups = WeakKeyDictionary[Any, WeakValueDictionary[timedelta | None, Any]]()


def _gloo(timeout: timedelta | None) -> Any:
    """Return all ranks as a group of gloo that waits so long, None: as torch usually does."""
    groups = _groups.setdefault(dist.group.WORLD, WeakValueDictionary())
    if (group := groups.get(timeout)) is None:
        groups[timeout] = group = dist.new_group(timeout=timeout, backend="gloo")
    return group


def all_gather(row: Tensor) -> Tensor:
    """Return the rows of all ranks, (world, *row.shape), which must agree in shape and dtype."""
    _, world = rank_and_world()
    rows = torch.empty((world, *row.shape), dtype=row.dtype, device=row.device)
    if world == 1:
        return rows.copy_(row)
    dist.all_gather(list(rows.unbind()), row)
    return rows
