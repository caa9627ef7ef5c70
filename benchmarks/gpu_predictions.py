"""The sizes for which a time was predicted before any GPU ran the op, beside what it takes.

python benchmarks/gpu_predictions.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench_select import cache_bytes, cold_calls
from common import CsvFile, Row, prepare, provenance, run, short
from providers import PROVIDERS, Inputs, Truth, batch_bytes, distinct, moved_bytes
from timing import MAX_CALLS, interleaved, timer

COLUMNS = (
    *("n", "classes", "dtype", "k", "provider", "cache", "repeats", "median_us", "p20_us"),
    *("p80_us", "host_us", "bytes", "share_of_read", "predicted_us", "limit_us"),
)
# Where the predictions hold, and who is measured there.
DEVICE, RIVALS = "cuda", ("eager", "eager_float32", "compile", "compile_autotuned")
# A time holds up to this multiple of its prediction.
TOLERATED = 1.3
# Of the square matrix of float32 whose reads and copies are the ceilings: 1 GiB.
SIDE = 1 << 14
# Of the inputs, cut into sets.
POOL_BYTES = 8 << 30
# Between two waits for the device, where the host's time is measured.
CALLS = 100


@dataclass(frozen=True)
class Prediction:
    """Microseconds on an H200 with the launch, from bytes, instructions and latencies."""

    n: int
    classes: int
    dtype: torch.dtype
    us: float


PREDICTIONS = (
    Prediction(320, 10, torch.float32, 5),
    Prediction(320, 1000, torch.bfloat16, 6.5),
    Prediction(4096, 1000, torch.bfloat16, 10),
    Prediction(8192, 32000, torch.bfloat16, 132),
    Prediction(65536, 1000, torch.bfloat16, 44),
    Prediction(1048576, 100, torch.bfloat16, 105),
    Prediction(16384, 128256, torch.bfloat16, 1020),
)


def ceilings() -> dict[str, Row]:
    """Measure what bounds every kernel here: reads and a copy of a matrix, and an empty kernel.

    The fastest read is the ceiling: which of torch's kernels reads at the speed of the memory
    differs from device to device.
    """
    source = torch.ones(SIDE, SIDE, device=DEVICE)
    target = torch.empty_like(source)
    vector, one = torch.ones(SIDE, device=DEVICE), torch.zeros(1, device=DEVICE)
    functions = {
        "read_sum": source.sum,
        "read_largest": source.amax,
        "read_product": lambda: source @ vector,
        "copy": lambda: target.copy_(source),
        "empty": lambda: one.add_(0),
    }
    for function in functions.values():
        function()
    times = interleaved(functions, [()], timer(DEVICE, "graph"), seconds=2)
    moved = {"copy": 2 * source.nbytes, "empty": 0}
    return {
        name: {
            **{"n": SIDE, "classes": SIDE, "dtype": "float32", "provider": name, "cache": "cold"},
            **spent.columns(),
            "bytes": moved.get(name, source.nbytes),
        }
        for name, spent in times.items()
    }


def speed(row: Row) -> float:
    """Bytes a microsecond."""
    return int(str(row["bytes"])) / float(str(row["median_us"]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "gpu_predictions.csv")
    parser.add_argument("--quick", action="store_true", help="less time for each size")
    arguments = parser.parse_args(argv)
    arguments.device, arguments.threads, arguments.clock = DEVICE, torch.get_num_threads(), "graph"
    arguments.providers = (*RIVALS, "rho_ext")
    prepare(arguments)
    seconds = 0.2 if arguments.quick else 0.5
    gpu, wall = timer(DEVICE, "graph"), timer(DEVICE, "wall")
    missed = 0
    with (
        CsvFile(arguments.out, provenance("gpu_predictions", arguments), COLUMNS) as file,
        torch.inference_mode(),
    ):
        bounds = ceilings()
        for row in bounds.values():
            file.write(row)
        read = max(speed(row) for name, row in bounds.items() if name.startswith("read"))
        print(
            f"read {read / 1e6:.2f} TB/s, copy {speed(bounds['copy']) / 1e6:.2f} TB/s, empty "
            f"kernel {bounds['empty']['median_us']} us"
        )
        for size in PREDICTIONS:
            k = size.n // 10
            batches = Inputs(size.dtype, DEVICE, POOL_BYTES)
            names = distinct(arguments.providers, size.dtype)
            functions = {name: PROVIDERS[name]() for name in names}
            (first,) = batches.sets(size.n, size.classes, k, hot=True)
            truth = Truth.of(first)
            for name, function in functions.items():
                truth.check(name, function(*first), first[0])
            for hot in (False, True):
                inputs = batches.sets(size.n, size.classes, k, hot=hot)
                endless = itertools.cycle(inputs)
                times = interleaved(
                    functions,
                    inputs,
                    gpu,
                    seconds=seconds,
                    round_calls=cold_calls(inputs, DEVICE),
                )
                held = {"predicted_us": size.us, "limit_us": f"{TOLERATED * size.us:g}"}
                for name, spent in times.items():
                    moved = moved_bytes(inputs[0])
                    total = min(len(inputs), MAX_CALLS) * batch_bytes(inputs[0])
                    cold = total >= 3 * cache_bytes(DEVICE)
                    file.write(
                        {
                            "n": size.n,
                            "classes": size.classes,
                            "dtype": short(size.dtype),
                            "k": k,
                            "provider": name,
                            "cache": "hot" if hot else "cold" if cold else "rotated",
                            **spent.columns(),
                            "host_us": f"{wall.sampler(functions[name], endless, CALLS)():.1f}",
                            "bytes": moved,
                            "share_of_read": f"{moved / spent.median / read:.3f}",
                            **(held if name == "rho_ext" else {}),
                        }
                    )
                ours = times["rho_ext"].median
                share = moved_bytes(inputs[0]) / ours / read
                missed += ours > TOLERATED * size.us
                print(
                    f"{size.n:>8} x {size.classes:<7} {'hot ' if hot else 'cold'} "
                    f"rho_ext {ours:9.1f} us, predicted {size.us:g} ({ours / size.us:.2f}x"
                    f"{', MISSED' if ours > TOLERATED * size.us else ''}), "
                    f"{share:.0%} of read; "
                    + ", ".join(
                        f"{name} {spent.median:.1f} ({spent.median / ours:.1f}x)"
                        for name, spent in times.items()
                        if name != "rho_ext"
                    ),
                    flush=True,
                )
            del batches, inputs, first
    print(
        f"{missed} of {2 * len(PREDICTIONS)} times missed their prediction; rows: {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    run("gpu_predictions", main)
