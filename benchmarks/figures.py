"""Draw the figures of benchmark CSV files as PNG.

python benchmarks/figures.py runs/*.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from figures_cost import dispatch, memory, step
from figures_language import loss
from figures_predictions import predictions
from figures_select import speedup, times
from plotting import STYLE, Rows, save

FIGURES: dict[str, dict[str, Callable[[Rows], Figure]]] = {
    "select": {"speedup": speedup, "time": times},
    "step": {"parts": step},
    "memory": {"memory": memory},
    "dispatch": {"dispatch": dispatch},
    "language": {"loss": loss},
    "gpu_predictions": {"predictions": predictions},
}


def read(path: Path) -> Rows:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or rows[0].get("benchmark") not in FIGURES:
        sys.exit(f"figures: {path} holds no rows of a benchmark ({', '.join(FIGURES)})")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="figures.py", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="CSV files of the benchmarks")
    parser.add_argument("--out", type=Path, help="folder; by default that of each file")
    arguments = parser.parse_args(argv)
    for path in arguments.files:
        rows = read(path)
        folder = arguments.out or path.parent
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in FIGURES[rows[0]["benchmark"]].items():
            with matplotlib.rc_context(STYLE):
                save(draw(rows), folder / f"{path.stem}-{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
