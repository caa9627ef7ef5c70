"""Stacked bars as an SVG element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rho_train.report.axis import Axis
from rho_train.report.chart import CHARACTER, WIDTH, legend
from rho_train.report.svg import escape, number, path, styled, tag, text

_ROW = 46
_BAR = 18
_ROOM = 12  # characters kept free at the right for the total


@dataclass(frozen=True)
class Part:
    """A part of every bar; `style` None draws it faint."""

    label: str
    style: int | None


@dataclass(frozen=True)
class Bar:
    """A bar with the size of each part and, at its right end, the text `total`."""

    label: str
    sizes: Sequence[float]
    total: str


def stacked_bars(
    bars: Sequence[Bar], parts: Sequence[Part], *, name: str, title: str, desc: str, x: Axis
) -> str:
    """Draw one horizontal bar a row, its label above it, its parts in the order of the legend.

    The result is an SVG element, see `svg.standalone`.
    """
    # Squares: in a bar a part has a colour and a place, no marker.
    drawn, top = legend([(part.label, 1, part.style) for part in parts])
    top += 16
    left, right = 8.0, WIDTH - 14.0
    bottom = top + _ROW * len(bars)

    def at(value: float) -> float:
        return left + x.fraction(value) * (right - left)

    for value, label in x.ticks():
        place = at(value)
        drawn += tag("path", class_="grid", d=path([(place, top), (place, bottom)]))
        drawn += text(place, bottom + 18, label, class_="tick", text_anchor="middle")
    room = int((right - left) / CHARACTER) - _ROOM
    for row, bar in enumerate(bars):
        y = top + _ROW * row + 18
        label = bar.label if len(bar.label) <= room else f"{bar.label[: room - 1]}…"
        drawn += text(left, y, label)
        drawn += text(right, y, bar.total, class_="tick halo", text_anchor="end")
        reached = 0.0
        for part, size in zip(parts, bar.sizes, strict=True):
            begin, reached = reached, reached + size
            width = at(reached) - at(begin)
            if width > 0:
                look = "faint" if part.style is None else "mark"
                box = tag("rect", class_=look, x=at(begin), y=y + 6, width=width, height=_BAR)
                drawn += styled(part.style, box)
    drawn += text((left + right) / 2, bottom + 40, x.title, class_="tick", text_anchor="middle")
    height = bottom + 50
    head = tag("title", escape(title), id=f"{name}-title")
    head += tag("desc", escape(desc), id=f"{name}-desc")
    head += tag("rect", class_="paper", width=WIDTH, height=height)
    return tag(
        "svg",
        head + drawn,
        xmlns="http://www.w3.org/2000/svg",
        class_="chart",
        viewBox=f"0 0 {WIDTH} {number(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
