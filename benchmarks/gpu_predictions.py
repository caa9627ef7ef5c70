"""The sizes for which a time was predicted before any GPU ran the op, beside what it takes.

python benchmarks/gpu_predictions.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench_select import cold_calls
from common import BenchmarkFailed, CsvFile, prepare, provenance
from providers import PROVIDERS, Arguments, Inputs, Truth, batch_bytes, distinct, moved_bytes
from timing import MAX_CALLS, GraphTimer, interleaved

COLUMNS = (
    *("n", "classes", "dtype", "k", "provider", "cache", "repeats", "median_us", "p20_us"),
    *("p80_us", "host_us", "bytes", "share_of_read", "predicted_us"),
)
CALLS = 100
# A time holds up to this multiple of its prediction.
TOLERATED = 1.3


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


def host_us(function: Callable[..., object], inputs: Sequence[Arguments]) -> float:
    """Wall-clock of a call, the device waited for once in a hundred."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for call in range(CALLS):
        function(*inputs[call % len(inputs)])
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / CALLS * 1e6


def ceilings() -> dict[str, float]:
    """Bytes a microsecond of a read and of a copy, and the microseconds of an empty kernel."""
    source = torch.ones(1 << 28, device="cuda")
    target = torch.empty_like(source)
    one = torch.zeros(1, device="cuda")
    functions = {
        "read": source.sum,
        "copy": lambda: target.copy_(source),
        "empty": lambda: one.add_(0),
    }
    for function in functions.values():
        function()
    times = interleaved(functions, [()], GraphTimer(), seconds=2)
    return {
        "read": source.nbytes / times["read"].median,
        "copy": 2 * source.nbytes / times["copy"].median,
        "empty": times["empty"].median,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "gpu_predictions.csv")
    parser.add_argument("--quick", action="store_true", help="less time for each size")
    arguments = parser.parse_args(argv)
    arguments.device, arguments.threads, arguments.clock = "cuda", torch.get_num_threads(), "graph"
    arguments.providers = ("eager", "eager_float32", "compile", "compile_autotuned", "rho_ext")
    prepare(arguments)
    seconds = 0.2 if arguments.quick else 0.5
    missed = 0
    with (
        CsvFile(arguments.out, provenance("gpu_predictions", arguments), COLUMNS) as file,
        torch.inference_mode(),
    ):
        ceiling = ceilings()
        print(
            f"read {ceiling['read'] / 1e6:.2f} TB/s, copy {ceiling['copy'] / 1e6:.2f} TB/s, empty "
            f"kernel {ceiling['empty']:.1f} us"
        )
        for size in PREDICTIONS:
            k = size.n // 10
            batches = Inputs(size.dtype, "cuda", 8 << 30)
            names = distinct(arguments.providers, size.dtype)
            functions = {name: PROVIDERS[name]() for name in names}
            (first,) = batches.sets(size.n, size.classes, k, hot=True)
            truth = Truth.of(first)
            for name, function in functions.items():
                truth.check(name, function(*first), first[0])
            for hot in (False, True):
                inputs = batches.sets(size.n, size.classes, k, hot=hot)
                times = interleaved(
                    functions,
                    inputs,
                    GraphTimer(),
                    seconds=seconds,
                    round_calls=cold_calls(inputs, "cuda"),
                )
                for name, spent in times.items():
                    moved = moved_bytes(inputs[0])
                    total = min(len(inputs), MAX_CALLS) * batch_bytes(inputs[0])
                    cold = total >= 3 * torch.cuda.get_device_properties(0).L2_cache_size
                    file.write(
                        {
                            "n": size.n,
                            "classes": size.classes,
                            "dtype": str(size.dtype).removeprefix("torch."),
                            "k": k,
                            "provider": name,
                            "cache": "hot" if hot else "cold" if cold else "rotated",
                            **spent.columns(),
                            "host_us": f"{host_us(functions[name], inputs):.1f}",
                            "bytes": moved,
                            "share_of_read": f"{moved / spent.median / ceiling['read']:.3f}",
                            "predicted_us": size.us if name == "rho_ext" else "",
                        }
                    )
                ours = times["rho_ext"].median
                share = moved_bytes(inputs[0]) / ours / ceiling["read"]
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
    try:
        sys.exit(main())
    except BenchmarkFailed as failure:
        sys.exit(f"gpu_predictions: {failure}")
