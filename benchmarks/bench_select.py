"""rho_ext.select beside eager torch and torch.compile, over the grid of sizes.

python benchmarks/bench_select.py --quick
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

import cheapest
from common import CsvFile, Row, last_level_cache, options, prepare, provenance, run
from providers import PROVIDERS, USUAL, Arguments, Inputs, Truth, batch_bytes, distinct, moved_bytes
from timing import CLOCKS, MAX_CALLS, interleaved, timer

CLASSES = (2, 10, 100, 1000, 1001, 32000, 50257, 128256)
ROWS = (32, 320, 4096, 65536)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARES = {"1": 0.0, "1%": 0.01, "10%": 0.1, "50%": 0.5}
# k does not change how the logits are read, so all its values are measured at a few widths only.
ALL_K_CLASSES = (10, 1000)
QUICK = (
    (32, 10, "float32"),
    (320, 1000, "float32"),
    (65536, 100, "float32"),
    (4096, 1000, "bfloat16"),
    (320, 50257, "float16"),
)
MAX_LOGITS = 1 << 30
COLUMNS = (
    *("n", "classes", "dtype", "k", "provider", "cache", "input_bytes"),
    *("repeats", "median_us", "p20_us", "p80_us"),
    *("bytes", "share_of_read", "max_error", "extra_bytes"),
)
SMALL_US = 50.0


@dataclass(frozen=True)
class Cell:
    n: int
    classes: int
    dtype: str
    k: int

    @property
    def logits_bytes(self) -> int:
        return self.n * self.classes * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.n} x {self.classes} {self.dtype}, k = {self.k}"


def grid(arguments: argparse.Namespace) -> Iterator[Cell]:
    if arguments.quick:
        yield from (Cell(n, c, d, max(1, n // 10)) for n, c, d in QUICK)
        return
    for dtype, classes, n in product(arguments.dtypes, arguments.classes, arguments.rows):
        everything = dtype == "float32" and classes in ALL_K_CLASSES
        shares = arguments.k or (SHARES if everything else ("10%",))
        for k in sorted({max(1, int(SHARES[share] * n)) for share in shares}):
            cell = Cell(n, classes, dtype, k)
            if cell.logits_bytes <= arguments.max_bytes:
                yield cell


def read(logits: Tensor, *_: object) -> Tensor:
    return logits.sum()


def read_as_float32(logits: Tensor, *_: object) -> Tensor:
    return logits.view(-1).view(torch.float32).sum()


def measure(cell: Cell, inputs: Inputs, arguments: argparse.Namespace) -> list[Row]:
    """Check and time every provider on one size."""
    sets = inputs.sets(cell.n, cell.classes, cell.k, hot=arguments.hot)
    logits = sets[0][0]
    names = distinct(arguments.providers, inputs.dtype)
    functions = {name: PROVIDERS[name]() for name in names}
    truth = Truth.of(sets[0])
    errors = {name: truth.check(name, f(*sets[0]), logits) for name, f in functions.items()}
    # A half is accumulated in more instructions than it takes to read: the same bytes as float32
    # are the fairer ceiling where that is faster.
    reads = {"read": read}
    if inputs.dtype.itemsize == 2 and logits.numel() % 2 == 0:
        reads["read_as_float32"] = read_as_float32
    clock = timer(arguments.device, arguments.clock)
    timed: dict[str, Callable[..., object]] = {**functions, **reads}
    if arguments.empty_op:
        timed[EMPTY_OP] = cheapest.same_schema
    extra = {name: _extra_bytes(f, sets[0], arguments.device) for name, f in timed.items()}
    calls = cold_calls(sets, arguments.device)
    times = interleaved(timed, sets, clock, seconds=arguments.seconds, round_calls=calls)
    bandwidth = max(cell.logits_bytes / times[name].median for name in reads)
    rotating = min(len(sets), MAX_CALLS) if clock.replays else len(sets)
    total = rotating * batch_bytes(sets[0])
    rows: list[Row] = []
    for name, spent in times.items():
        moved = cell.logits_bytes if name in reads else moved_bytes(sets[0])
        share = "" if name == EMPTY_OP else f"{moved / spent.median / bandwidth:.3f}"
        rows.append(
            {
                "n": cell.n,
                "classes": cell.classes,
                "dtype": cell.dtype,
                "k": cell.k,
                "provider": name,
                "cache": "hot" if arguments.hot else _cache(total, arguments.device),
                "input_bytes": total,
                **spent.columns(),
                "bytes": "" if name == EMPTY_OP else moved,
                "share_of_read": share,
                "max_error": f"{errors[name]:.3g}" if name in errors else "",
                "extra_bytes": extra[name],
            }
        )
    return rows


def cache_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    return last_level_cache()


def cold_calls(sets: Sequence[Arguments], device: str) -> int:
    """Return the calls that read three times what the last-level cache holds, or all sets."""
    return min(len(sets), -(-3 * cache_bytes(device) // batch_bytes(sets[0])))


def _cache(total: int, device: str) -> str:
    """Return whether the inputs in rotation exceed the last-level cache."""
    size = cache_bytes(device)
    return "cold" if size and total >= 1.5 * size else "rotated"


def _extra_bytes(function: Callable[..., object], inputs: Arguments, device: str) -> int | str:
    """Peak memory of a call; on the CPU that takes a process of its own (bench_memory.py)."""
    if device == "cpu":
        return ""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function(*inputs)
    return torch.cuda.max_memory_allocated() - before


def line(rows: Sequence[Row]) -> str:
    """One size as a line of the table."""
    times = {str(row["provider"]): float(str(row["median_us"])) for row in rows}
    first = rows[0]
    cell = f"{first['n']:>6} {first['classes']:>7} {first['dtype']:>9} {first['k']:>6}"
    shown = [f"{times[name]:>10.1f}" if name in times else " " * 10 for name in SHOWN]
    ratios = [
        f"{times[name] / times['rho_ext']:>7.2f}x" if {name, "rho_ext"} <= set(times) else " " * 8
        for name in ("eager", "compile")
    ]
    ours = [row for row in rows if row["provider"] == "rho_ext"]
    share = f"{float(str(ours[0]['share_of_read'])):>7.0%}" if ours else ""
    others = [f"{name} {time:.1f}" for name, time in times.items() if name not in SHOWN + READS]
    return " ".join([cell, *shown, *ratios, share, f" {first['cache']}", *others])


READS = ("read", "read_as_float32")
EMPTY_OP = "empty_op"
SHOWN = ("eager", "eager_float32", "compile", "rho_ext", "read")
HEADER = (
    f"{'n':>6} {'C':>7} {'dtype':>9} {'k':>6} "
    + " ".join(f"{name:>10}" for name in ("eager", "eager f32", "compile", "rho_ext", "read"))
    + f" {'eager/':>8} {'compile/':>8} {'of read':>7}  cache   (medians in microseconds)"
)


def summary(rows: Sequence[Row]) -> str:
    """The speed-ups over the grid, beside what the project aims at."""
    cells: dict[Cell, dict[str, float]] = {}
    for row in rows:
        cell = Cell(*(row[name] for name in ("n", "classes", "dtype", "k")))  # type: ignore[arg-type]
        cells.setdefault(cell, {})[str(row["provider"])] = float(str(row["median_us"]))
    wanted = {"eager", "compile", "rho_ext"}
    cells = {cell: times for cell, times in cells.items() if wanted <= set(times)}
    best = {cell: min(times["eager"], times["compile"]) for cell, times in cells.items()}
    ahead = {cell: best[cell] / times["rho_ext"] for cell, times in cells.items()}
    large = [cell for cell in cells if best[cell] >= SMALL_US]
    small = [cell for cell in cells if best[cell] < SMALL_US]
    lines = []
    if large:
        lines.append(f"{len(large)} sizes that take eager and compile {SMALL_US:.0f} us or more:")
        for name, aim in (("eager", 6), ("eager_float32", None), ("compile", 3)):
            ratios = [cells[c][name] / cells[c]["rho_ext"] for c in large if name in cells[c]]
            if ratios:
                aimed = f" (aim {aim}x)" if aim else f" ({len(ratios)} sizes of half precision)"
                lines.append(f"  geometric mean against {name}: {_mean(ratios):.2f}x{aimed}")
        worst = min(large, key=ahead.__getitem__)
        lines.append(
            f"  worst against the better of the two: {ahead[worst]:.2f}x (aim 1.5x) at {worst}"
        )
    if small:
        worst = min(small, key=ahead.__getitem__)
        mean = _mean([ahead[cell] for cell in small])
        lines.append(
            f"{len(small)} smaller sizes against the better of the two: geometric mean "
            f"{mean:.2f}x, worst {ahead[worst]:.2f}x (aim 4x) at {worst}"
        )
        if all(EMPTY_OP in cells[cell] for cell in small):
            mean = _mean([best[cell] / cells[cell][EMPTY_OP] for cell in small])
            lines.append(f"  an op with the same arguments that does nothing: {mean:.2f}x")
    return "\n".join(lines) or "no size with eager, compile and rho_ext to compare"


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_select", str(__doc__).partition("\n")[0], tuple(PROVIDERS))
    parser.set_defaults(providers=USUAL)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=tuple(DTYPES))
    parser.add_argument("--k", nargs="+", choices=SHARES, help="share of the rows; 1: one row")
    parser.add_argument("--seconds", type=float, help="of timing a size, all providers together")
    parser.add_argument(
        "--empty-op",
        action="store_true",
        help="also time a custom op with the same arguments that does nothing",
    )
    parser.add_argument("--hot", action="store_true", help="one set of inputs, again and again")
    parser.add_argument("--max-bytes", type=int, help="of the logits of a size, and of the pool")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="events", help="on CUDA; on the CPU always wall"
    )
    arguments = parser.parse_args(argv)
    if arguments.seconds is None:
        arguments.seconds = 0.5 if arguments.quick else 2.0
    if arguments.max_bytes is None:
        # Eager torch on float16 logits needs about six times their size.
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        arguments.max_bytes = min(MAX_LOGITS, memory // 16)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    if arguments.empty_op:
        cheapest.build()
    cells = list(grid(arguments))
    origin = provenance("select", arguments)
    with CsvFile(arguments.out, origin, COLUMNS) as file, torch.inference_mode():
        print(", ".join(f"{name} {value}" for name, value in origin.items()), HEADER, sep="\n")
        inputs: Inputs | None = None
        for cell in cells:
            dtype = DTYPES[cell.dtype]
            if inputs is None or inputs.dtype != dtype:
                inputs = None  # Two pools at a time would be twice the memory.
                inputs = Inputs(dtype, arguments.device, arguments.max_bytes)
            rows = measure(cell, inputs, arguments)
            for row in rows:
                file.write(row)
            print(line(rows), flush=True)
        print(summary(file.rows))
    return 0


if __name__ == "__main__":
    run("bench_select", main)
