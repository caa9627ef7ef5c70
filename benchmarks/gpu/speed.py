"""Time the op alone: the ceilings of the device, rows and top-k stage apart, then forced plans.

python -m gpu.speed --device cuda --out speed.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import rho_ext
from common import CsvFile, Row, prepare, provenance, run, short
from gpu.inputs import GRID, LANE_GROUPS, LAST_BLOCK, SLICES, Forced, forced, large
from gpu.model import select_us
from timing import interleaved, timer

COLUMNS = (
    *("stage", "n", "classes", "dtype", "k", "plan", "repeats", "median_us", "p20_us", "p80_us"),
    *("bytes", "share_of_read", "predicted_us", "error"),
)
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Long rows first.
SIZES = (
    (16384, 128256, BF16),
    (8192, 32000, BF16),
    (8192, 32000, F32),
    (8192, 50257, BF16),
    (8192, 50256, BF16),
    (8192, 50257, F32),
    (320, 50257, BF16),
    (16384, 5000, BF16),
    (16384, 4096, BF16),
    (65536, 1000, BF16),
    (65536, 1000, F32),
    (65536, 1001, BF16),
    (4096, 1000, BF16),
    (4096, 1000, F16),
    (320, 1000, BF16),
    (1 << 20, 100, BF16),
    (65536, 10, F32),
    (320, 10, F32),
)
PLANS = {
    "512 threads": Forced(threads=512),
    "256 threads": Forced(threads=256),
    "128 threads": Forced(threads=128),
    "tile 1024": Forced(sort_tile=1024),
    "last block": Forced(top_k_stage=LAST_BLOCK),
    "grid": Forced(top_k_stage=GRID),
    "lane groups": Forced(regime=LANE_GROUPS),
    "slices": Forced(regime=SLICES),
}
PLANNED = ((8192, 32000), (16384, 5000), (65536, 1000), (4096, 1000), (1 << 20, 100))
CEILING = 1 << 28  # float32 that are read, 1 GiB


def ceilings(device: str) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return what bounds every kernel, and the bytes that it moves.

    The fastest read is the ceiling: which of torch's kernels reads at the speed of the memory
    differs from device to device.
    """
    source = torch.ones(CEILING, device=device)
    half, one = len(source) // 2, torch.zeros(1, device=device)
    return {
        "read_sum": (source.sum, source.nbytes),
        "read_largest": (source.amax, source.nbytes),
        "copy": (lambda: source[:half].copy_(source[half:]), source.nbytes),
        "empty": (lambda: one.add_(0), 0),
    }


def stages(n: int) -> dict[tuple[str, int], Callable[..., Any]]:
    """Return the rows alone, then with the least and a usual top-k stage."""

    def selecting(k: int) -> Callable[..., Any]:
        return lambda x, y, ids, table: rho_ext.select(x, y, ids, k, il=table)

    return {
        ("score", 0): lambda x, y, ids, table: rho_ext.score(x, y, ids, il=table),
        **{("select", k): selecting(k) for k in (1, max(2, n // 10))},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu.speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("speed.csv"))
    parser.add_argument("--seconds", type=float, default=0.2, help="for each time")
    arguments = parser.parse_args(argv)
    device, seconds = arguments.device, arguments.seconds
    arguments.threads, arguments.clock = torch.get_num_threads(), "graph"
    arguments.providers = ("rho_ext",)
    prepare(arguments)
    clock, read = timer(device, "graph"), 0.0

    def write(row: Row, function: Callable[..., Any], inputs: Sequence[Any], moved: int) -> None:
        nonlocal read
        try:
            function(*inputs[0])
            one, calls = {"": function}, len(inputs)
            times = interleaved(one, inputs, clock, seconds=seconds, round_calls=calls)[""]
        except (RuntimeError, ValueError) as error:  # those after it may still be measured
            file.write({**row, "error": str(error).partition("\n")[0]})
            print(row, error, flush=True)
            return
        speed = moved / times.median
        if str(row["plan"]).startswith("read"):
            read = max(read, speed)
        share = f"{speed / read:.3f}" if read else ""
        file.write({**row, **times.columns(), "bytes": moved, "share_of_read": share})
        print(*row.values(), f"{times.median:.2f} us, {share} of the read", flush=True)

    with (
        CsvFile(arguments.out, provenance("gpu_speed", arguments), COLUMNS) as file,
        torch.inference_mode(),
    ):
        for name, (function, moved) in ceilings(device).items():
            row: Row = {"stage": "ceiling", "n": CEILING, "classes": 1, "dtype": "float32"}
            write({**row, "plan": name}, function, [()], moved)
        for n, classes, dtype in SIZES:
            inputs = large(n, classes, dtype, device)
            row = {"n": n, "classes": classes, "dtype": short(dtype)}
            for (stage, k), function in stages(n).items():
                told = f"{select_us(n, classes, dtype.itemsize, k):.1f}" if k > 1 else ""
                one = {"stage": stage, **row, "k": k, "plan": "", "predicted_us": told}
                write(one, function, inputs, inputs[0][0].nbytes)
            del inputs
        for n, classes in PLANNED if device == "cuda" else ():
            inputs, k = large(n, classes, BF16, device), n // 10
            row = {"stage": "select", "n": n, "classes": classes, "dtype": "bfloat16", "k": k}
            function, moved = stages(n)["select", k], inputs[0][0].nbytes
            for name, plan in PLANS.items():
                with forced(plan):
                    write({**row, "plan": name}, function, inputs, moved)
            del inputs
    return 0


if __name__ == "__main__":
    run("gpu.speed", main)
