"""Draw the results of bench_select.py: speed-ups, and times beside a mere read."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from plotting import COLOURS, NAMES, Rows, title, values

MARKERS = {"eager": "^", "compile": "s", "rho_ext": "o"}
SMALL_US = 50.0


def speedup(rows: Rows) -> Figure:
    """Draw the speed-up of rho_ext by size: one panel for each rival and two dtypes at most."""
    rows = [row for row in rows if is_tenth(row)]
    rivals = [name for name in ("eager", "compile") if name in values(rows, "provider")]
    if not rivals:
        raise ValueError("the figure of the speed-up needs rows of eager or of compile")
    dtypes = values(rows, "dtype")[:2]
    sizes_n, sizes_c = sorted_ints(rows, "n"), sorted_ints(rows, "classes")
    height = 1.8 + 0.27 * len(sizes_c) * len(rivals)
    figure, axes = plt.subplots(
        *(len(rivals), len(dtypes)),
        figsize=(5.4, max(3.0, height)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for line, rival in zip(axes, rivals, strict=True):
        for panel, dtype in zip(line, dtypes, strict=True):
            medians = {
                (int(row["classes"]), int(row["n"]), row["provider"]): float(row["median_us"])
                for row in rows
                if row["dtype"] == dtype
            }
            for y, c in enumerate(sizes_c):
                for x, n in enumerate(sizes_n):
                    if {(c, n, rival), (c, n, "rho_ext")} <= set(medians):
                        ratio = medians[c, n, rival] / medians[c, n, "rho_ext"]
                        small = medians[c, n, rival] < SMALL_US
                        _tile(panel, x, y, ratio, small)
            panel.set_title(f"{dtype}, {NAMES[rival]}")
            panel.set_xlim(-0.5, len(sizes_n) - 0.5)
            panel.set_ylim(len(sizes_c) - 0.5, -0.5)
            panel.set_xticks(range(len(sizes_n)), [f"{n}" for n in sizes_n])
            panel.set_yticks(range(len(sizes_c)), [f"{c:,}" for c in sizes_c])
            panel.tick_params(length=0)
            panel.spines[:].set_visible(False)
    for panel in axes[-1]:
        panel.set_xlabel("rows n")
    for panel in axes[:, 0]:
        panel.set_ylabel("classes C")
    title(
        figure,
        "Times faster than eager torch and torch.compile",
        "k = 10 % of the rows; green: rho_ext is faster; brown: slower; *: the rival takes less "
        f"than {SMALL_US:.0f} microseconds; empty: logits too large to measure",
        rows,
    )
    return figure


def _tile(panel: Any, x: int, y: int, ratio: float, small: bool) -> None:
    colour = matplotlib.colormaps["BrBG"](LogNorm(1 / 20, 20, clip=True)(ratio))
    panel.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, color=colour))
    dark = sum(colour[:3]) < 1.4
    text = f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"
    style = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
    panel.text(x, y, text + ("*" if small else ""), **style)


def times(rows: Rows) -> Figure:
    """Draw the time against the size of the logits, over the time of reading them."""
    rows = [row for row in rows if is_tenth(row)]
    dtypes = values(rows, "dtype")
    figure, axes = plt.subplots(
        *(1, len(dtypes)),
        figsize=(max(6.0, 4.2 * len(dtypes)), 4.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    ends: list[dict[str, tuple[float, float]]] = []
    for panel, dtype in zip(axes[0], dtypes, strict=True):
        ends.append({})
        for provider in ("eager", "compile", "rho_ext", "read"):
            points = sorted(
                (float(row["n"]) * float(row["classes"]), float(row["median_us"]))
                for row in rows
                if row["dtype"] == dtype and row["provider"] == provider
            )
            if not points:
                continue
            x, y = zip(*points, strict=True)
            ends[-1][provider] = points[-1]
            if provider == "read":
                floor = {size: time for size, time in reversed(points)}  # The fastest of a size.
                heights = [floor[size] for size in sorted(floor)]
                panel.plot(sorted(floor), heights, color=COLOURS["read"], lw=1.2)
            else:
                style = {"color": COLOURS[provider], "marker": MARKERS[provider]}
                panel.scatter(x, y, s=18, zorder=3 if provider == "rho_ext" else 2, **style)
        panel.set(xscale="log", yscale="log", title=dtype, xlabel="logits, n x C")
        panel.grid(color="#E5E5E5", lw=0.6)
        panel.set_axisbelow(True)
    bottom, top = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(bottom, top * 2)
    for panel, last in zip(axes[0], ends, strict=True):
        _label_ends(panel, last)
    axes[0, 0].set_ylabel("microseconds a call")
    title(
        figure,
        "Time of a selection against the size of the logits (k = 10 % of the rows)",
        "each marker is one size; the line is logits.sum(), a read of the same logits",
        rows,
    )
    return figure


def _label_ends(panel: Any, ends: dict[str, tuple[float, float]]) -> None:
    """Write the names beside the last markers, spread so that they do not touch."""
    low, high = panel.get_xlim()
    panel.set_xlim(low, high * 60)
    bottom, top = panel.get_ylim()
    gap = (top / bottom) ** 0.055
    last = 0.0
    for name, (_, y) in sorted(ends.items(), key=lambda end: end[1][1]):
        last = max(y, last * gap)
        style = {"color": COLOURS[name], "va": "center"}
        panel.text(high * 1.2, last, NAMES[name], bbox={"color": "white", "pad": 1}, **style)


def is_tenth(row: dict[str, str]) -> bool:
    return int(row["k"]) == max(1, int(row["n"]) // 10)


def sorted_ints(rows: Rows, column: str) -> list[int]:
    return sorted({int(row[column]) for row in rows})
