"""What the figures share: colours, names, and where the numbers come from."""

from __future__ import annotations

from matplotlib.figure import Figure

Rows = list[dict[str, str]]

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = {
    "eager": "#D55E00",
    "eager_float32": "#E69F00",
    "compile": "#0072B2",
    "compile_autotuned": "#56B4E9",
    "rho_ext": "#009E73",
    "read": "#555555",
    "score": "#0072B2",
    "op": "#009E73",
    "gather": "#F0E442",
    "modes": "#E69F00",
    "before": "#CC79A7",
    "after": "#56B4E9",
    "select": "#56B4E9",
    "train": "#BBBBBB",
}
NAMES = {
    "eager": "eager",
    "eager_float32": "eager, float32",
    "compile": "torch.compile",
    "compile_autotuned": "torch.compile, autotuned",
    "rho_ext": "rho_ext",
    "read": "logits.sum()",
}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    # The same rows give the same file.
    "svg.hashsalt": "rho_ext",
}


def values(rows: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def title(figure: Figure, text: str, note: str, rows: Rows) -> None:
    lines = [line for line in (note, origin(rows)) if line]
    figure.suptitle(text, fontsize=12, x=0.01, ha="left")
    figure.supxlabel("\n".join(lines), fontsize=7, color="#555555", x=0.01, ha="left")


def origin(rows: Rows) -> str:
    first = rows[0]
    # On a GPU one can choose.
    clock = f" by {first['clock']}" if first["isa"] == "cuda" else ""
    return (
        f"{first['machine']}, {first['threads']} thread(s), {first['isa']}{clock}, torch "
        f"{first['torch']}, rho_ext {first['rho_ext']} at {first['commit']}, {first['date']}"
    )
