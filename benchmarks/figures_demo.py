"""Keep the rows of `rho-ext demo`, and draw the accuracy of its methods against steps.

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
import numpy as np
from matplotlib.figure import Figure

from common import commit
from keep import RESULTS, Row, csv_text, read_csv
from plotting import STYLE, save

# Step, mean, lowest and highest accuracy of the seeds.
Curve = list[tuple[float, float, float, float]]
_COLOURS = ("#56B4E9", "#0072B2", "#CC79A7", "#E69F00", "#777777", "#D55E00", "#009E73")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="figures_demo.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that rho-ext demo wrote")
    parser.add_argument("--out", type=Path, default=RESULTS / "demo")
    arguments = parser.parse_args(argv)
    text = csv_text(rows(arguments.folder))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "runs.csv").write_text(text, encoding="utf-8")
    with matplotlib.rc_context({**STYLE, "font.size": 11, "axes.titlesize": 11}):
        save(accuracy(read(arguments.folder)), arguments.out / "accuracy-steps.png")
    return 0


def rows(folder: Path) -> list[Row]:
    """Return a row a method: where it was made, and its summary."""
    told = json.loads((folder / "experiment.json").read_text("utf-8"))["environment"]
    made = {"benchmark": "demo", "date": told["date"], "commit": commit()}
    made |= {"machine": told["processor"], "isa": told["instruction set"], "torch": told["torch"]}
    found = []
    for row in read_csv(folder / "summary.csv"):
        names = {"command": "rho-ext demo", "method": row.pop("method")}
        del row["label"]
        found.append(made | names | {name: of and f"{float(of):.6g}" for name, of in row.items()})
    return found


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
    """Draw the mean over the seeds, and their range, on a scale on which halved errors are equal.

    Its texts keep 11 px on a phone, where the figure is 370 px wide.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.5), layout="constrained")
    for colour, (label, curve) in zip(_COLOURS, curves.items(), strict=False):
        step, mean, low, high = (np.array([of[i] for of in curve]) for i in range(4))
        axis.plot(step, -np.log(1 - mean), color=colour, lw=2, label=label)
        axis.fill_between(
            *(step, -np.log(1 - low), -np.log(1 - high)), color=colour, alpha=0.15, lw=0
        )
    ticks = np.array([0, 50, 75, 85, 90, 95])
    axis.set_yticks(-np.log(1 - ticks / 100), [f"{tick} %" for tick in ticks])
    axis.set(xlabel="steps", xlim=(0, None), ylim=(0, None), xticks=range(0, 2001, 500))
    axis.set_title("test accuracy", loc="left")
    axis.grid(color="#E4E4E4")
    lines = sorted(axis.lines, key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    figure.legend(handles=lines, loc="outside upper left", frameon=False, labelspacing=0.2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
