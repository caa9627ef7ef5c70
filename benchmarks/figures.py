"""Draw the figures of benchmark CSV files as PNG.

python benchmarks/figures.py runs/*.csv
python benchmarks/figures.py --machine xeon benchmarks/results/step/runs.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from figures_cost import dispatch, memory, step
from figures_select import speedup, times
from keep import raw, read_csv
from plotting import STYLE, Rows, save

FIGURES: dict[str, dict[str, Callable[[Rows], Figure]]] = {
    "select": {"speedup": speedup, "time": times},
    "step": {"parts": step},
    "memory": {"memory": memory},
    "dispatch": {"dispatch": dispatch},
}


def read(path: Path, machine: str | None) -> tuple[str, Rows]:
    """Return the subject of a file and its rows; of kept rows those of a machine."""
    rows = read_csv(path)
    subject = rows[0].get("benchmark", path.parent.name) if rows else ""
    if subject not in FIGURES:
        sys.exit(f"figures: {path} holds no rows of a benchmark ({', '.join(FIGURES)})")
    if "benchmark" in rows[0]:
        return subject, rows
    machines = sorted({row["machine"] for row in rows})
    if machine not in machines:
        sys.exit(f"figures: {path}: --machine must be one of {', '.join(machines)}, got {machine}")
    kept = [row for row in rows if row["machine"] == machine and row.get("cache") != "hot"]
    return subject, raw(subject, kept) if subject in ("select", "step") else kept


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="figures.py", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="CSV files of the benchmarks")
    parser.add_argument("--out", type=Path, help="folder; by default that of each file")
    parser.add_argument("--machine", help="of kept rows, results/SUBJECT/runs.csv")
    arguments = parser.parse_args(argv)
    for path in arguments.files:
        subject, rows = read(path, arguments.machine)
        folder = arguments.out or path.parent
        folder.mkdir(parents=True, exist_ok=True)
        stem = path.stem if arguments.machine is None else arguments.machine
        for name, draw in FIGURES[subject].items():
            with matplotlib.rc_context(STYLE):
                save(draw(rows), folder / f"{stem}-{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
