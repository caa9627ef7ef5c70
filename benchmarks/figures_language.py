"""Draw the loss of a language model on clean text against steps and against seconds."""

from __future__ import annotations

from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plotting import Rows, title, values

STYLES = {
    "uniform": ("uniform sampling", "#555555", "-"),
    "uniform_minutes": ("uniform, the seconds of RHO-LOSS", "#555555", "--"),
    "uniform_minutes_with_il": ("uniform, with the seconds of the IL", "#555555", ":"),
    "filter": ("uniform, 60 % with the lowest IL", "#D55E00", "-"),
    "rho": ("RHO-LOSS, sequences", "#009E73", "-"),
    "rho_tokens": ("RHO-LOSS, tokens", "#0072B2", "-"),
}


def loss(rows: Rows) -> Figure:
    """Draw the mean over the seeds and their range."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for axis, column, label in (
        (axes[0], "step", "steps"),
        (axes[1], "seconds", "seconds of training, precomputed IL"),
    ):
        _curves(axis, rows, column)
        axis.set_xlabel(label)
    axes[0].set_ylabel("nats a letter, clean text")
    axes[0].legend(frameon=False)
    title(
        figure,
        "A language model, 40 % of the sequences shuffled",
        "mean and range of the seeds",
        rows,
    )
    return figure


def _curves(axis: Axes, rows: Rows, column: str) -> None:
    shown = [name for name in STYLES if name in values(rows, "method")]
    for name in shown:
        label, colour, line = STYLES[name]
        runs = [
            [row for row in rows if (row["method"], row["seed"]) == (name, seed)]
            for seed in values(rows, "seed")
        ]
        evaluations = list(zip(*runs, strict=False))[1:]  # the first one is off the scale
        x = [fmean(float(row[column]) for row in at) for at in evaluations]
        y = [[float(row["test_loss"]) for row in at] for at in evaluations]
        axis.plot(x, [fmean(of) for of in y], line, color=colour, label=label)
        axis.fill_between(x, [min(of) for of in y], [max(of) for of in y], color=colour, alpha=0.15)
