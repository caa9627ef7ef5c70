"""Every path of the CUDA kernels on small inputs, against the reference: for the sanitizers.

compute-sanitizer --tool racecheck python benchmarks/gpu_subset.py
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

import rho_ext
from rho_ext import reference

LANE_GROUPS, SLICES = 1, 2
LAST_BLOCK, GRID = 2, 3
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Classes whose rows are aligned to 16, 8, 4 and 2 bytes, whole packs of 16 bytes and not.
CLASSES = (1, 3, 10, 50, 200, 1001)
IL = 1000


@dataclass(frozen=True)
class Forced:
    """The fields of ForcedPlan in csrc/cuda/plan.h; 0 leaves a field to the plan."""

    regime: int = 0
    top_k_stage: int = 0
    threads: int = 0
    blocks: int = 0
    slices: int = 0
    sort_tile: int = 0


def plans() -> Iterator[Forced]:
    yield Forced()
    for regime, stage, (threads, blocks) in itertools.product(
        (LANE_GROUPS, SLICES), (LAST_BLOCK, GRID), ((64, 1), (64, 5), (512, 3))
    ):
        yield Forced(regime, stage, threads, blocks)
        yield Forced(regime, stage, threads, blocks, sort_tile=8)
    yield Forced(SLICES, LAST_BLOCK, 64, 7, slices=5)


@contextmanager
def forced(plan: Forced) -> Iterator[None]:
    library = ctypes.CDLL(str(Path(rho_ext.__file__).with_name("_cuda.so")))
    if not hasattr(library, "rho_ext_force_plan"):
        raise SystemExit(
            "install rho_ext with -Ccmake.define.RHO_EXT_TEST_HOOKS=ON: no plan is forced"
        )
    library.rho_ext_force_plan(*astuple(plan))
    try:
        yield
    finally:
        library.rho_ext_force_plan(*astuple(Forced()))


def batch(n: int, classes: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """Logits, labels, ids and a table on the GPU, with ignored rows and unknown losses."""
    generator = torch.Generator().manual_seed(seed)
    # One logit in front, so that rows are not aligned to more than their size.
    flat = 3 * torch.randn(n * classes + 1, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[::11] = -100
    ids = torch.randint(IL, (n,), generator=generator)
    table = torch.rand(IL, generator=generator)
    table[::17] = torch.nan
    logits = flat.to(dtype).cuda()[1:].view(n, classes)
    return logits, labels.cuda(), ids.cuda(), table.cuda()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_subset.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="take one of so many batches")
    # The kernels read keys by fours and drop those behind the last row, which hold anything.
    parser.add_argument("--fours", action="store_true", help="rows in multiples of four")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("gpu_subset: torch sees no CUDA device here")
    checked = 0
    cases = itertools.product(plans(), DTYPES, enumerate(CLASSES))
    for plan, dtype, (seed, classes) in itertools.islice(cases, 0, None, arguments.every):
        n = 37 + 20 * seed - (1 if arguments.fours else 0)
        logits, labels, ids, table = batch(n, classes, dtype, seed)
        method = ("rho", "rho", "loss", "neg_il", "grad_norm", "entropy")[seed]
        options = {"il": table, "method": method, "label_smoothing": 0.1 * (seed % 2)}
        with forced(plan):
            got = rho_ext.select(logits, labels, ids, n // 2, **options)
            scores, _ = rho_ext.score(logits, labels, ids, **options)
        truth = reference.score(logits.double().cpu(), labels.cpu(), ids.cpu(),
                                **{**options, "il": table.cpu()})  # fmt: skip
        where = f"{plan}, {n} x {classes} {dtype}, {method}"
        torch.testing.assert_close(
            scores.double().cpu(), truth.scores, rtol=1e-5, atol=1e-5, equal_nan=True,
            msg=lambda text, where=where: f"{where}: {text}",
        )  # fmt: skip
        ranked = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        best = ranked.sort(descending=True, stable=True)
        indices = best.indices[: n // 2].clone()
        indices[best.values[: n // 2] == -torch.inf] = -1
        assert torch.equal(got.indices, indices), where
        assert got.invalid.item() == scores.isnan().sum().item(), where
        checked += 1
    print(f"{checked} batches right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
