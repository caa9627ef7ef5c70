"""The figure of gpu_predictions.py: what was predicted before any run, beside what it takes."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plotting import COLOURS, NAMES, Rows, title, values

MARKERS = {"eager": "^", "eager_float32": "v", "compile": "s", "compile_autotuned": "D"}


def predictions(rows: Rows) -> Figure:
    """One line for each size: the prediction, rho_ext cold and hot, and the others cold."""
    predicted = {
        size(row): (float(row["predicted_us"]), float(row["limit_us"]))
        for row in rows
        if row["predicted_us"]
    }
    if not predicted:
        raise ValueError("the figure of the predictions needs rows of rho_ext")
    sizes = list(predicted)
    figure, panel = plt.subplots(figsize=(8.0, 1.8 + 0.42 * len(sizes)), layout="constrained")
    for y, (us, limit) in enumerate(predicted.values()):
        panel.barh(y, limit - us, 0.7, left=us, color=COLOURS["rho_ext"], alpha=0.25)
        panel.plot([us, us], [y - 0.35, y + 0.35], color=COLOURS["rho_ext"], lw=1.5)
    names = [name for name in MARKERS if name in values(rows, "provider")]
    for row in rows:
        if size(row) not in predicted:
            continue  # A ceiling.
        y, us, hot = sizes.index(size(row)), float(row["median_us"]), row["cache"] == "hot"
        colour = COLOURS[row["provider"]]
        if row["provider"] == "rho_ext":
            panel.plot(us, y, "o", ms=6, color=colour, mfc="white" if hot else colour, zorder=3)
        elif not hot:
            panel.plot(us, y, MARKERS[row["provider"]], ms=5, color=colour)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlabel("microseconds a call")
    panel.set_yticks(range(len(sizes)), sizes)
    panel.invert_yaxis()
    panel.grid(axis="x", color="#E5E5E5", lw=0.6)
    panel.set_axisbelow(True)
    ours = {"color": COLOURS["rho_ext"], "marker": "o", "ls": ""}
    figure.legend(
        handles=[
            Patch(color=COLOURS["rho_ext"], alpha=0.25, label="predicted, to the limit"),
            Line2D([], [], **ours, label="rho_ext, cold"),
            Line2D([], [], **ours, mfc="white", label="rho_ext, hot"),
            *(
                Line2D([], [], color=COLOURS[name], marker=MARKERS[name], ls="", label=NAMES[name])
                for name in names
            ),
        ],
        loc="outside right center",
        frameon=False,
    )
    title(
        figure,
        "Predicted and measured times of a selection (k = 10 % of the rows)",
        "predictions are for an H200; a time up to the limit holds; the others are cold",
        rows,
    )
    return figure


def size(row: dict[str, str]) -> str:
    return f"{int(row['n']):,} x {int(row['classes']):,} {row['dtype']}"
