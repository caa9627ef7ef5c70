"""Draw the accuracy of the demo's methods against steps.

rho-ext demo && python benchmarks/figures_demo.py rho-demo
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plotting import STYLE, save

# Step, mean, lowest and highest accuracy of the seeds.
Curve = list[tuple[float, float, float, float]]
_COLOURS = ("#56B4E9", "#0072B2", "#CC79A7", "#E69F00", "#777777", "#D55E00", "#009E73")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="figures_demo.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that rho-ext demo wrote")
    default = Path(__file__).parent / "results" / "demo" / "accuracy-steps.png"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args(argv)
    with matplotlib.rc_context(STYLE):
        save(accuracy(read(arguments.folder)), arguments.out)
    return 0


def read(folder: Path) -> dict[str, Curve]:
    """Return the curve of every method by its label."""
    plan = json.loads((folder / "experiment.json").read_text("utf-8"))
    curves = {}
    for method in plan["methods"]:
        runs: list[dict[int, float]] = []
        for seed in plan["seeds"]:
            run = folder / "runs" / f"{method['name']}-seed{seed}"
            lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
            records = [json.loads(line) for line in lines]
            runs.append({r["step"]: r["accuracy"] for r in records if r["event"] == "eval"})
        shared = sorted(set.intersection(*(set(run) for run in runs)))
        curves[method["label"]] = [
            (step, fmean(at), min(at), max(at))
            for step in shared
            for at in [[r[step] for r in runs]]
        ]
    return curves


def accuracy(curves: Mapping[str, Curve]) -> Figure:
    """Draw the mean over the seeds, and their range."""
    figure, axis = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for colour, (label, curve) in zip(_COLOURS, curves.items(), strict=False):
        step, mean, low, high = ([of[i] for of in curve] for i in range(4))
        axis.plot(step, [100 * y for y in mean], color=colour, lw=1.6, label=label)
        axis.fill_between(
            step, [100 * y for y in low], [100 * y for y in high], color=colour, alpha=0.15, lw=0
        )
    axis.set(xlabel="steps", ylabel="test accuracy, %", ylim=(68, 96), xlim=(0, None))
    axis.grid(color="#E4E4E4")
    figure.legend(loc="outside right center", frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
