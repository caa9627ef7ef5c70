"""Inputs of the op and forced launch plans, by torch and rho_ext alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

import rho_ext

LANE_GROUPS, SLICES = 1, 2
LAST_BLOCK, GRID = 2, 3
IL = 1000
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # logits, labels, ids, table


@dataclass(frozen=True)
class Forced:
    """The fields of ForcedPlan in csrc/cuda/plan.h; 0 leaves a field to the plan."""

    regime: int = 0
    top_k_stage: int = 0
    threads: int = 0
    blocks: int = 0
    slices: int = 0
    sort_tile: int = 0


@contextmanager
def forced(plan: Forced) -> Iterator[None]:
    if plan == Forced():
        yield
        return
    library = ctypes.CDLL(str(Path(rho_ext._library._C.__file__).with_name("_cuda.so")))
    if not hasattr(library, "rho_ext_force_plan"):
        raise RuntimeError("install rho_ext with -Ccmake.define.RHO_EXT_TEST_HOOKS=ON")
    library.rho_ext_force_plan(*astuple(plan))
    try:
        yield
    finally:
        library.rho_ext_force_plan(*astuple(Forced()))


def small(n: int, classes: int, dtype: torch.dtype, seed: int, device: str) -> Inputs:
    """Inputs with ignored rows, unknown losses and rows that are not aligned."""
    generator = torch.Generator().manual_seed(seed)
    # One logit in front, so that rows are not aligned to more than their size.
    flat = 3 * torch.randn(n * classes + 1, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[::11] = -100
    ids = torch.randint(IL, (n,), generator=generator)
    table = torch.rand(IL, generator=generator)
    table[::17] = torch.nan
    logits = flat.to(dtype).to(device)[1:].view(n, classes)
    return logits, labels.to(device), ids.to(device), table.to(device)


def large(n: int, classes: int, dtype: torch.dtype, device: str) -> list[Inputs]:
    """Sets of inputs that together no cache holds; large logits repeat a block."""
    generator = torch.Generator(device).manual_seed(0)
    options = {"device": device, "generator": generator}
    table = torch.rand(1_000_000, **options)
    size = n * classes
    sets = max(1, min(64, (200 << 20) // (size * dtype.itemsize) + 1))

    def one() -> Inputs:
        block = torch.randn(min(size, 1 << 24), **options).mul_(3).to(dtype)
        logits = block.repeat(-(-size // len(block)))[:size].view(n, classes)
        labels, ids = (torch.randint(end, (n,), **options) for end in (classes, len(table)))
        return logits, labels, ids, table

    return [one() for _ in range(sets)]
