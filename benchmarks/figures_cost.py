"""Draw the cost of a selection in use: the pieces of a step, memory, dispatch."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from plotting import COLOURS, NAMES, Rows, title, values

STEPS = {
    "uniform": "uniform",
    "eager": "by hand, eager torch",
    "rho_ext": "by hand, rho_ext.select",
    "selector": "Selector",
    "bf16": "Selector, bf16",
    "micro_batch": "Selector, 64 at a time",
    "compile": "Selector, compiled",
    "proxy": "Selector, proxy",
}
PARTS = {
    "modes": "model.eval() and model.train()",
    "score": "scoring forward",
    "op": "op",
    "gather": "gather",
    "select": "Selector beside the forward: op, gather, checks",
    "train": "training step",
}


def step(rows: Rows) -> Figure:
    """Draw the pieces of a step beside a uniform step: a panel for each model."""
    models = values(rows, "model")
    sizes = list(dict.fromkeys((r["large_batch"], r["small_batch"]) for r in rows))
    large, small = (sizes[1::2] or sizes)[-1]  # the paper's, 32 of 320
    kinds = [name for name in STEPS if name in values(rows, "step")]
    height = 0.5 + 0.24 * len(kinds)
    figure, axes = plt.subplots(
        *(len(models) + 1, 1),
        figsize=(5.4, 2.6 + height * len(models)),
        height_ratios=[height] * len(models) + [1.0],
        layout="constrained",
    )
    for model, panel in zip(models, axes, strict=False):
        where = {"model": model, "large_batch": large, "small_batch": small}
        here = [r for r in rows if where.items() <= r.items()]
        _steps(panel, here, [kind for kind in kinds if kind in values(here, "step")])
        panel.set_title(f"{model.upper()}, {small} of {int(large):,}", loc="left")
    used = [part for part in PARTS if part in values(rows, "part")]
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS[part]) for part in used]
    axes[-2].set_xlabel("milliseconds a step")
    axes[-1].axis("off")
    axes[-1].legend(handles, [PARTS[part] for part in used], loc="center", frameon=False)
    title(
        figure,
        "Cost of a step",
        "in the bars: share of the step; behind them: times a uniform step",
        rows,
    )
    return figure


def _steps(panel: Axes, rows: Rows, kinds: list[str]) -> None:
    """Draw one bar a kind of step."""
    spent = {
        kind: {r["part"]: r for r in rows if r["step"] == kind and r["part"] in PARTS}
        for kind in kinds
    }
    over = {r["step"]: r["over_uniform"] for r in rows if r["part"] == "total"}
    widest = max(
        sum(float(r["median_us"]) / 1000 for r in parts.values()) for parts in spent.values()
    )
    for y, (kind, parts) in enumerate(spent.items()):
        left = 0.0
        for part in [name for name in PARTS if name in parts]:
            width = float(parts[part]["median_us"]) / 1000
            bar = panel.barh(
                *(y, width), left=left, color=COLOURS[part], edgecolor="white", height=0.78
            )
            if width > 0.12 * widest:
                share = f"{float(parts[part]['share_of_step']):.0%}"
                colour = "white" if part in ("score", "op") else "black"
                panel.bar_label(bar, [share], label_type="center", color=colour)
            left += width
        note = f" {float(over[kind]):.2f}x" if over[kind] else ""
        panel.text(left + 0.005 * widest, y, note, va="center")
    panel.set_yticks(range(len(kinds)), [STEPS[kind] for kind in kinds])
    panel.invert_yaxis()
    panel.tick_params(axis="y", length=0)
    panel.set_xlim(0, widest * 1.2)


def memory(rows: Rows) -> Figure:
    """Draw peak extra memory beside the size of the logits."""
    sizes = list(dict.fromkeys((r["n"], r["classes"], r["dtype"]) for r in rows))
    figure, panel = plt.subplots(
        figsize=(8.4, 1.3 + 0.19 * len(rows) + 0.25 * len(sizes)), layout="constrained"
    )
    y, middles = 0.0, []
    widest = max(float(row["over_logits"]) for row in rows)
    for n, classes, dtype in sizes:
        here = [r for r in rows if (r["n"], r["classes"], r["dtype"]) == (n, classes, dtype)]
        middles.append(y + (len(here) - 1) / 2)
        for row in here:
            over = float(row["over_logits"])
            name = row["provider"]
            panel.barh(y, over, color=COLOURS.get(name, "#555555"), height=0.85)
            extra = float(row["extra_bytes"]) / (1 << 20)
            size = f"{extra:,.1f} MiB" if extra >= 0.1 else "under 0.1 MiB"
            text = f"{NAMES.get(name, name)}: {size}"
            panel.text(over + 0.01 * widest, y, text, va="center", fontsize=8)
            y += 1
        y += 1
    labels = [f"{int(n):,} x {int(c):,}\n{dtype}" for n, c, dtype in sizes]
    panel.set_yticks(middles, labels)
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.set_xlim(0, max(widest, 0.1) * 1.3)
    panel.set_xlabel("peak extra memory, in sizes of the logits")
    title(figure, "Memory that a selection takes beside its inputs", "", rows)
    return figure


def dispatch(rows: Rows) -> Figure:
    """Draw the cost of a call on 32 rows of 10 classes."""
    figure, panel = plt.subplots(figsize=(8.4, 1.3 + 0.28 * len(rows)), layout="constrained")
    widest = max(float(row["median_us"]) for row in rows)
    for y, row in enumerate(rows):
        kind = "rho_ext" if "rho_ext" in row["path"] else "eager"
        colour = "#0072B2" if "cheapest" in row["path"] else COLOURS[kind]
        median = float(row["median_us"])
        panel.barh(y, median, color=colour, height=0.75)
        panel.plot([float(row["minimum_us"])] * 2, [y - 0.37, y + 0.37], color="white", lw=1.2)
        over = f"   {float(row['over_cheapest']):.2f}x" if row["over_cheapest"] else ""
        panel.text(median + 0.01 * widest, y, f"{median:.2f}{over}", va="center", fontsize=8)
    panel.set_yticks(range(len(rows)), [row["path"] for row in rows])
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.set_xlim(0, widest * 1.2)
    panel.set_xlabel("microseconds a call, median; white line: minimum")
    title(
        figure,
        "From Python to the kernel (32 rows, 10 classes)",
        "x: over a custom op of the same schema that does nothing",
        rows,
    )
    return figure
