"""A store of irreducible losses: writing, opening, ids at random, every value.

python benchmarks/bench_il_store.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles

import torch
from torch.utils.data import TensorDataset

from common import BenchmarkFailed, CsvFile, Row, options, prepare, provenance, run
from rho_train import ILStore, IndexedDataset, input_checksums

ROWS, QUICK_ROWS = 100_000_000, 1_000_000
SHARDS = 25
IDS = 4096
COLUMNS = ("layout", "rows", "what", "repeats", "median_ms", "p95_ms")


def milliseconds(function: Callable[[], object], repeats: int) -> Row:
    """Call a function again and again, and return the median and the 95th percentile."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - started))
    cuts = quantiles(times, n=20, method="inclusive") if repeats > 1 else 19 * times
    return {"repeats": repeats, "median_ms": f"{cuts[9]:.4f}", "p95_ms": f"{cuts[18]:.4f}"}


def measure(layout: str, table: ILStore, folder: Path) -> list[Row]:
    """Measure one layout, a file or shards, after a check that it gives what was saved."""
    path = folder / layout
    rows = len(table.il)

    def save() -> None:
        table.save(path, 0 if layout == "file" else -(-rows // SHARDS))

    def load() -> ILStore:
        return ILStore.load(path)

    saved = milliseconds(save, 1)
    store = load()
    batches = [torch.randint(rows, (IDS,)) for _ in range(200)]

    # Compares the blocks that the ids lie in, which is nearly all of them.
    first = milliseconds(lambda: store.gather(batches[0]), 1)
    checked = milliseconds(store.check, 3)
    if not all(torch.equal(store.gather(ids), table.il[ids]) for ids in batches):
        raise BenchmarkFailed(f"{layout}: the store gives other losses than were saved")
    remaining = iter(batches)
    results = {
        "save": saved,
        "open": milliseconds(load, 50),
        f"first {IDS} ids": first,
        f"{IDS} ids": milliseconds(lambda: store.gather(next(remaining)), len(batches)),
        "check": checked,
    }
    return [{"layout": layout, "rows": rows, "what": what, **r} for what, r in results.items()]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    return options(
        "bench_il_store", str(__doc__).partition("\n")[0], ("file", "shards")
    ).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    rows = QUICK_ROWS if arguments.quick else ROWS
    il = torch.rand(rows, generator=torch.Generator().manual_seed(0))
    images = TensorDataset(torch.rand(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64))
    checksums = input_checksums(IndexedDataset(images))
    data = {"n": str(rows), "labels": "", "ids": "position"}
    table = ILStore(il, data, input_checksums=checksums)
    with (
        CsvFile(arguments.out, provenance("il_store", arguments), COLUMNS) as file,
        tempfile.TemporaryDirectory() as folder,
    ):
        for layout in arguments.providers:
            for row in measure(layout, table, Path(folder)):
                file.write(row)
                print(
                    f"{layout:>6} {rows:,} rows {row['what']:>14}: {row['median_ms']:>10} ms "
                    f"(p95 {row['p95_ms']})",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    run("bench_il_store", main)
