"""Parts that all benchmarks share: options, the origin of their numbers, and the CSV file."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch

import rho_ext
from keep import read_csv

Row = dict[str, object]

# The origin of a row; the columns after these are the benchmark's own.
PROVENANCE = (
    "benchmark",
    "date",
    "commit",
    "machine",
    "cores",
    "threads",
    "busy",
    "isa",
    "torch",
    "rho_ext",
    "clock",
)


class BenchmarkFailed(Exception):
    """A result is wrong, or something is missing that the benchmark needs."""


def options(benchmark: str, description: str, providers: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(prog=f"{benchmark}.py", description=description)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=int, default=min(2, torch.get_num_threads()), help="of torch, on the CPU"
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / f"{benchmark}.csv")
    parser.add_argument("--providers", type=_names(providers), default=tuple(providers))
    parser.add_argument("--quick", action="store_true", help="a few sizes, within a minute")
    return parser


def parse(parser: argparse.ArgumentParser, **quick: object) -> argparse.Namespace:
    """Return the arguments of an experiment; --quick changes its defaults to those of `quick`."""
    parser.add_argument("--quick", action="store_true", help="one setting; rows in runs/quick")
    parser.set_defaults(device="cpu")
    torch.set_num_threads(1)
    if parser.parse_known_args()[0].quick:
        out = Path(parser.get_default("out"))
        # Rows of the repository stay as they are, and their tuning is made again.
        parser.set_defaults(out=Path("runs", "quick", *out.parts[out.parts.index("results") + 1 :]))
        parser.set_defaults(**quick)
    return parser.parse_args()


def run(benchmark: str, main: Callable[[], int]) -> NoReturn:
    """End the process with the status of a benchmark, or with the reason why it failed."""
    try:
        sys.exit(main())
    except BenchmarkFailed as failure:
        sys.exit(f"{benchmark}: {failure}")


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def prepare(arguments: argparse.Namespace) -> None:
    """Set the threads, and say in one sentence what is missing on a GPU."""
    torch.set_num_threads(arguments.threads)
    if arguments.device != "cuda":
        return
    if not torch.cuda.is_available():
        raise BenchmarkFailed("torch sees no CUDA device here; use --device cpu")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key("rho_ext::select", "CUDA")
    if {"rho_ext", "selector"} & set(arguments.providers) and not has_kernel:
        raise BenchmarkFailed(
            f"this build of rho_ext has no CUDA kernel ({rho_ext.build_info()['cuda']}); use "
            "--device cpu, or leave rho_ext out of --providers"
        )


def provenance(benchmark: str, arguments: argparse.Namespace) -> Row:
    """Describe the machine, the software and the run, the same in every row."""
    on_gpu = arguments.device == "cuda"
    return {
        "benchmark": benchmark,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": torch.cuda.get_device_name() if on_gpu else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "busy": _busy(),
        "isa": "cuda" if on_gpu else rho_ext.build_info()["isa"],
        "torch": torch.__version__,
        "rho_ext": rho_ext.__version__,
        "clock": getattr(arguments, "clock", "wall") if on_gpu else "wall",
    }


def commit() -> str:
    """Return what git calls the checkout, `unknown` without git."""
    describe = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        folder = Path(__file__).parent
        return subprocess.run(
            describe, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """Return the name of the processor, or `unknown`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _busy() -> str:
    """Measure for half a second how many cores are busy; empty where the system does not say.

    Above about 0.2 times are too long and scattered: threads that share a core wait for each other.
    """

    def ticks() -> tuple[int, int]:
        counts = [int(count) for count in stat.read_text().partition("\n")[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]  # Idle, and waiting for a disk.

    stat = Path("/proc/stat")
    if not stat.exists():
        return ""
    total, idle = ticks()
    time.sleep(0.5)
    after, idle_after = ticks()
    busy = max(0.0, (1 - (idle_after - idle) / (after - total)) * (os.cpu_count() or 1))
    if busy > 0.2:
        print(f"other work keeps {busy:.1f} cores busy: times will be too long and scattered")
    return f"{busy:.2f}"


def last_level_cache() -> int:
    """Bytes of the largest cache of the processor, 0 where the system does not say."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [cache.read_text().strip() for cache in caches]
    return max(
        (int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}[size[-1]] for size in sizes), default=0
    )


class CsvFile:
    """Rows on the disk as soon as they are measured, so that a stopped run keeps what it has."""

    def __init__(self, path: Path, provenance: Row, columns: Iterable[str]) -> None:
        self.path, self._provenance = path, provenance
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w", newline="")  # noqa: SIM115 (closed by __exit__)
        self._writer = csv.DictWriter(self._file, (*PROVENANCE, *columns), lineterminator="\n")
        self._writer.writeheader()

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is None:
            print(f"rows: {self.path}")

    def write(self, row: Mapping[str, object]) -> None:
        self.rows.append(dict(row))
        self._writer.writerow({**self._provenance, **row})
        self._file.flush()


class Runs:
    """One row a run in a CSV file; a run whose row is there is not made again."""

    def __init__(self, path: Path, origin: Row, columns: Sequence[str]) -> None:
        self.path, self._origin, self._columns = path, origin, columns
        self.rows: list[Row] = [dict(row) for row in read_csv(path)]

    def find(self, key: Mapping[str, object]) -> Row | None:
        """Return the row of this command with the cells of `key`, if there is one."""
        cells = {name: f"{value}" for name, value in key.items()}
        cells["command"] = f"{self._origin['command']}"
        return next((row for row in self.rows if cells.items() <= row.items()), None)

    def row(self, key: Mapping[str, object], make: Callable[[], Row]) -> Row:
        """Return the row of this command with the cells of `key`; make and write it if need be."""
        found = self.find(key)
        if found is not None:
            return found
        cells = {name: f"{value}" for name, value in key.items()}
        self.rows.append({**self._origin, **cells, **make()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, (*PROVENANCE, *self._columns), lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(self.rows[-1])
        print(*(f"{name} {self.rows[-1].get(name, '')}" for name in self._columns[1:]), flush=True)
        return self.rows[-1]


def best_rate(rates: Sequence[float], widest: int, quality: Callable[[float], float]) -> float:
    """Return the rate of the highest quality; the grid grows by a factor of 2 where that is."""
    rates = list(rates)
    while True:
        found = [quality(rate) for rate in rates]
        best = found.index(max(found))
        if 0 < best < len(rates) - 1 or len(rates) == widest:
            return rates[best]
        rates = [rates[0] / 2, *rates] if best == 0 else [*rates, 2 * rates[-1]]


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
