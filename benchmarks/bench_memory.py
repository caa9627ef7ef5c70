"""Measure the peak extra memory of every provider, on the CPU each in a process of its own.

python benchmarks/bench_memory.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import torch

from common import BenchmarkFailed, CsvFile, Row, options, prepare, provenance, run, short
from providers import PROVIDERS, USUAL, Arguments, Inputs, distinct

SIZES = (
    (65536, 100, torch.float32),
    (4096, 1000, torch.float32),
    (4096, 32000, torch.float32),
    (65536, 1001, torch.bfloat16),
    (4096, 50257, torch.bfloat16),
    (4096, 50257, torch.float16),
)
QUICK = SIZES[1:2] + SIZES[4:5]
COLUMNS = (
    *("n", "classes", "dtype", "k", "provider"),
    *("logits_bytes", "extra_bytes", "over_logits"),
)
# What rho_ext may take: keys, losses and results by row, and what the measurement blurs (pages of
# code seen for the first time, stacks of threads, counters that the kernel keeps per thread).
ROW_BYTES = 64
BLUR = 4 << 20
# Blocks past this size go back to the system when they are freed, so that none hides in a heap
# that an earlier call has grown. By default glibc raises the bound as it goes.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def extra_bytes(provider: str, n: int, classes: int, dtype: torch.dtype, threads: int) -> int:
    """Call a provider once in this process and return how far its peak lay above the rest."""
    torch.set_num_threads(threads)
    one = _inputs(n, classes, dtype, "cpu")
    function = PROVIDERS[provider]()
    with torch.inference_mode():
        logits, labels, ids, il, _ = one
        # Compiled code holds for its shape only; the others warm up on a few rows, so that memory
        # they keep for later calls counts.
        function(*(one if "compile" in provider else (logits[:8], labels[:8], ids[:8], il, 1)))
        Path("/proc/self/clear_refs").write_text("5")  # Sets the peak back to what is in use.
        before = peak()
        function(*one)
        return peak() - before


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def extra_bytes_cuda(provider: str, n: int, classes: int, dtype: torch.dtype, threads: int) -> int:
    """Return the extra bytes of a call by the counters of torch's allocator."""
    one = _inputs(n, classes, dtype, "cuda")
    function = PROVIDERS[provider]()
    with torch.inference_mode():
        function(*one)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function(*one)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def _inputs(n: int, classes: int, dtype: torch.dtype, device: str) -> Arguments:
    inputs = Inputs(dtype, device, n * classes * dtype.itemsize)
    return inputs.sets(n, classes, max(1, n // 10), hot=True)[0]


def in_fresh_process(function: Callable[..., int], *arguments: object) -> int:
    spawn = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, MALLOC), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def check(row: Row) -> None:
    """Stop if rho_ext took memory of the size of the logits."""
    allowed = ROW_BYTES * int(str(row["n"])) + BLUR
    if row["provider"] == "rho_ext" and int(str(row["extra_bytes"])) > allowed:
        raise BenchmarkFailed(
            f"rho_ext took {_mib(row['extra_bytes'])} beside logits of "
            f"{_mib(row['logits_bytes'])} ({row['n']} x {row['classes']} {row['dtype']}); "
            f"{_mib(allowed)} are allowed"
        )


def _mib(size: object) -> str:
    return f"{int(str(size)) / (1 << 20):.1f} MiB"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_memory", str(__doc__).partition("\n")[0], tuple(PROVIDERS))
    parser.set_defaults(providers=USUAL)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    sizes = QUICK if arguments.quick else SIZES
    on_cpu = arguments.device == "cpu"
    with CsvFile(arguments.out, provenance("memory", arguments), COLUMNS) as file:
        print(f"{'n':>6} {'C':>7} {'dtype':>9} {'provider':>14} {'logits':>11} {'extra':>11}")
        for n, classes, dtype in sizes:
            for provider in distinct(arguments.providers, dtype):
                task = (provider, n, classes, dtype, arguments.threads)
                extra = in_fresh_process(extra_bytes, *task) if on_cpu else extra_bytes_cuda(*task)
                row: Row = {
                    "n": n,
                    "classes": classes,
                    "dtype": short(dtype),
                    "k": max(1, n // 10),
                    "provider": provider,
                    "logits_bytes": n * classes * dtype.itemsize,
                    "extra_bytes": extra,
                    "over_logits": f"{extra / (n * classes * dtype.itemsize):.4f}",
                }
                file.write(row)
                print(
                    f"{n:>6} {classes:>7} {row['dtype']:>9} {provider:>14} "
                    f"{_mib(row['logits_bytes']):>11} {_mib(extra):>11}",
                    flush=True,
                )
                check(row)
    return 0


if __name__ == "__main__":
    run("bench_memory", main)
