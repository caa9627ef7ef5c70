"""Parts that all figures share: colours, names, the origin of the numbers, and the PNG file."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

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
    "gather": "#CC79A7",
    "modes": "#E69F00",
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
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def values(rows: Rows, column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def title(figure: Figure, text: str, note: str, rows: Rows) -> None:
    width = int(14 * figure.get_figwidth())  # letters in a line
    lines = [part for line in (note, origin(rows)) for part in textwrap.wrap(line, width)]
    figure.suptitle(text, fontsize=11, x=0.01, ha="left")
    figure.supxlabel("\n".join(lines), fontsize=9, color="#555555", x=0.01, ha="left")


def origin(rows: Rows) -> str:
    first = rows[0]
    isa = first.get("isa", "")
    # Only a GPU has a choice of clocks.
    parts = [isa + (f" by {first['clock']}" if isa == "cuda" else "")] if isa else []
    parts = [first["machine"], f"{first['threads']} thread(s)", *parts, f"torch {first['torch']}"]
    return f"{', '.join(parts)}, rho_ext at {first['commit']}, {first['date']}"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG with a palette, several times smaller than one with all colours."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
        with Image.open(file) as image:
            image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(figure)
    print(path)
