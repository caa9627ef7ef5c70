"""Line charts, scatter plots and histograms as SVG elements."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rho_train.report.axis import Axis
from rho_train.report.svg import Point, escape, mark, number, path, styled, tag, text

WIDTH = 480
_HEIGHT = 260
CHARACTER = 7.6
# template.html sets the text of charts larger on phones.
_PHONE = 15.5 / 14
_LINE = 17


@dataclass(frozen=True)
class Series:
    """A curve with its optional band; `style` picks colour and marker."""

    label: str
    style: int
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[Point] | None = None


@dataclass(frozen=True)
class Reference:
    """A horizontal reference line with its text."""

    y: float
    label: str


@dataclass(frozen=True)
class Cloud:
    """Points of a scatter plot: marker `shape` 0 to 7; `style` None draws them small and faint."""

    label: str
    shape: int
    style: int | None
    points: Sequence[Point]


def line_chart(
    series: Sequence[Series],
    *,
    name: str,
    title: str,
    desc: str,
    x: Axis,
    y: Axis,
    references: Sequence[Reference] = (),
) -> str:
    """Draw curves with bands, labelled at their ends where there is room, else by a legend.

    Points that are not finite leave a gap; what lies outside the axes is cut off. `name` makes the
    ids of the drawing unique within a page. The result is an SVG element, see `svg.standalone`.
    """
    labels = [_wrap(one.label) for one in series]
    ends = [[p for p in zip(one.x, one.y, strict=True) if _finite(p)][-1:] for one in series]
    direct = (
        all(end and end[0][0] > x.high - 0.06 * (x.high - x.low) for end in ends)
        and sum(map(len, labels)) * _LINE + 6 * len(labels) <= _HEIGHT
    )
    longest = max(len(line) for label in labels for line in label)
    room = 30 + _PHONE * CHARACTER * longest if direct else 26
    keys = [] if direct else [(one.label, one.style, one.style) for one in series]
    plot = _Plot(name, title, desc, x, y, right=room, keys=keys)
    taken = [plot.at(*p) for one in series for p in zip(one.x, one.y, strict=True) if _finite(p)]
    for one in series:
        plot.curve(one)
    for reference in references:
        plot.rule(reference)
    for index, one in enumerate(series):
        plot.marks(one, offset=index)
    for reference in references:
        plot.rule_label(reference, taken)
    if direct:
        plot.end_labels(
            [(one.style, end[0]) for one, end in zip(series, ends, strict=True)], labels
        )
    return plot.document()


def scatter_chart(
    clouds: Sequence[Cloud],
    *,
    name: str,
    title: str,
    desc: str,
    x: Axis,
    y: Axis,
    diagonal: str,
    regions: Sequence[tuple[float, float, str]],
) -> str:
    """Draw points, the line y = x with the text `diagonal`, and named regions.

    A region is placed by its fractions of the width and height of the plot. Points that are not
    finite are left out. The result is an SVG element, see `svg.standalone`.
    """
    keys = [(cloud.label, cloud.shape, cloud.style) for cloud in clouds]
    plot = _Plot(name, title, desc, x, y, right=26, keys=keys, height=1.3 * _HEIGHT)
    low, high = max(x.low, y.low), min(x.high, y.high)
    plot.add(tag("path", class_="reference", d=path([plot.at(low, low), plot.at(high, high)])))
    for cloud in clouds:
        points = [plot.at(*point) for point in cloud.points if _finite(point)]
        look = {"class_": "faint"} if cloud.style is None else {"class_": "dot"}
        marks = "".join(
            mark(cloud.shape, *point, 0.5 if cloud.style is None else 0.9) for point in points
        )
        plot.add(styled(cloud.style, tag("path", d=marks, **look)))
    plot.along(diagonal, plot.at(low, low), plot.at(high, high))
    for across, up, label in regions:
        plot.region(across, up, label)
    return plot.document()


def bar_chart(
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    name: str,
    title: str,
    desc: str,
    x: Axis,
    y: Axis,
) -> str:
    """Draw a histogram: bar i from `edges[i]` to `edges[i + 1]`, `counts[i]` high, from y = 0.

    The result is an SVG element, see `svg.standalone`.
    """
    plot = _Plot(name, title, desc, x, y, right=26, keys=[])
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        (left, top), (right, bottom) = plot.at(low, count), plot.at(high, 0.0)
        bar = tag("rect", class_="mark", x=left, y=top, width=right - left, height=bottom - top)
        plot.add(styled(1, bar))
    return plot.document()


class _Plot:
    """The frame of a chart, and the drawing in its coordinates."""

    def __init__(
        self,
        name: str,
        title: str,
        desc: str,
        x: Axis,
        y: Axis,
        *,
        right: float,
        keys: Sequence[tuple[str, int, int | None]],
        height: float = _HEIGHT,
    ) -> None:
        self._name, self._title, self._desc, self._x, self._y = name, title, desc, x, y
        self._parts: list[str] = []
        self._left = 20 + CHARACTER * max(len(text) for _, text in y.ticks())
        self._right = WIDTH - right
        drawn, taken = legend(keys)
        self.add(drawn)
        self._top = taken + 40
        self._bottom = self._top + height
        self._frame()

    def add(self, part: str) -> None:
        self._parts.append(part)

    def at(self, x: float, y: float) -> Point:
        across, up = self._x.fraction(x), self._y.fraction(y)
        return (
            self._left + across * (self._right - self._left),
            self._bottom - up * (self._bottom - self._top),
        )

    def document(self) -> str:
        title = tag("title", escape(self._title), id=f"{self._name}-title")
        desc = tag("desc", escape(self._desc), id=f"{self._name}-desc")
        height = self._bottom + 52
        return tag(
            "svg",
            f"{title}{desc}"
            + tag("rect", class_="paper", width=WIDTH, height=height)
            + "".join(self._parts),
            xmlns="http://www.w3.org/2000/svg",
            class_="chart",
            viewBox=f"0 0 {WIDTH} {number(height)}",
            role="img",
            aria_labelledby=f"{self._name}-title {self._name}-desc",
        )

    def _frame(self) -> None:
        clip = tag(
            "rect",
            x=self._left,
            y=self._top,
            width=self._right - self._left,
            height=self._bottom - self._top,
        )
        self.add(tag("clipPath", clip, id=f"{self._name}-clip"))
        self.add(text(2, self._top - 14, self._y.title, class_="tick"))
        for value, label in self._y.ticks():
            _, y = self.at(self._x.low, value)
            self.add(tag("path", class_="grid", d=path([(self._left, y), (self._right, y)])))
            self.add(text(self._left - 7, y + 5, label, class_="tick", text_anchor="end"))
        for value, label in self._x.ticks():
            x, _ = self.at(value, self._y.low)
            stem = [(x, self._bottom), (x, self._bottom + 5)]
            self.add(tag("path", class_="axis", d=path(stem)))
            self.add(text(x, self._bottom + 20, label, class_="tick", text_anchor="middle"))
        base = [(self._left, self._bottom), (self._right, self._bottom)]
        self.add(tag("path", class_="axis", d=path(base)))
        middle = (self._left + self._right) / 2
        self.add(
            text(middle, self._bottom + 42, self._x.title, class_="tick", text_anchor="middle")
        )

    def curve(self, series: Series) -> None:
        points = list(zip(series.x, series.y, strict=True))
        line = "".join(path([self.at(*p) for p in part]) for part in _unbroken(points))
        drawn = tag("path", class_="line", d=line)
        if series.band is not None:
            edges = [
                (x, *edge) for x, edge in zip(series.x, series.band, strict=True) if _finite(edge)
            ]
            outline = [self.at(x, high) for x, _, high in edges]
            outline += [self.at(x, low) for x, low, _ in reversed(edges)]
            drawn = tag("path", class_="band", d=f"{path(outline)}Z") + drawn
        clip = f"url(#{self._name}-clip)"
        self.add(styled(series.style, drawn, clip_path=clip))

    def marks(self, series: Series, offset: int) -> None:
        points = [p for p in zip(series.x, series.y, strict=True) if _finite(p)]
        apart = max(1, len(points) // 5)
        # Counted from the end, where every curve has its mark; shifted so that marks lie apart.
        chosen = {0, *range(apart - offset * apart // 8, len(points), apart)}
        spots = [self.at(*points[-1 - index]) for index in sorted(chosen) if index < len(points)]
        inside = [(x, y) for x, y in spots if self._top <= y <= self._bottom]
        drawn = "".join(mark(series.style, *spot) for spot in inside)
        self.add(styled(series.style, tag("path", class_="mark", d=drawn)))

    def rule(self, reference: Reference) -> None:
        _, y = self.at(self._x.low, reference.y)
        line = path([(self._left, y), (self._right, y)])
        self.add(tag("path", class_="reference", d=line))

    def rule_label(self, reference: Reference, taken: Sequence[Point]) -> None:
        _, y = self.at(self._x.low, reference.y)
        width = CHARACTER * len(reference.label)
        spots = [
            (x, base)
            for base in (y - 9, y + 20)
            for x in (
                self._left + 6,
                (self._left + self._right - width) / 2,
                self._right - 6 - width,
            )
            if self._top < base - 12 and base < self._bottom - 4
        ]

        def crowd(spot: Point) -> int:
            x, base = spot
            return sum(x <= px <= x + width and base - 16 <= py <= base + 6 for px, py in taken)

        if spots:
            self.add(text(*min(spots, key=crowd), reference.label, class_="note"))

    def end_labels(self, ends: Sequence[tuple[int, Point]], labels: Sequence[list[str]]) -> None:
        order = sorted(range(len(ends)), key=lambda index: -ends[index][1][1])
        heights = [len(labels[index]) * _LINE + 6 for index in order]
        anchors = [self.at(*ends[index][1]) for index in order]
        anchors = [(x, min(max(y, self._top), self._bottom)) for x, y in anchors]
        wanted = [y - height / 2 for (_, y), height in zip(anchors, heights, strict=True)]
        tops = spread(wanted, heights, self._top - 8, self._bottom + 8)
        for index, (x, y), top, height in zip(order, anchors, tops, heights, strict=True):
            leader = [(x + 6, y), (x + 9, y), (self._right + 19, top + height / 2)]
            self.add(styled(ends[index][0], tag("path", class_="leader", d=path(leader))))
            for row, line in enumerate(labels[index]):
                self.add(text(self._right + 23, top + _LINE * row + 16, line))

    def along(self, label: str, start: Point, end: Point) -> None:
        angle = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
        x, y = start[0] + 0.8 * (end[0] - start[0]), start[1] + 0.8 * (end[1] - start[1])
        turn = f"rotate({number(angle)} {number(x)} {number(y)})"
        self.add(text(x, y + 15, label, class_="note", text_anchor="end", transform=turn))

    def region(self, across: float, up: float, label: str) -> None:
        x = self._left + across * (self._right - self._left)
        y = self._bottom - up * (self._bottom - self._top)
        self.add(text(x, y, label, class_="region"))


def legend(keys: Sequence[tuple[str, int, int | None]]) -> tuple[str, float]:
    """Draw labels with their marker and style, None for the faint one; and the height taken."""
    x, y = 2.0, 0.0
    drawn = []
    for label, shape, style in keys:
        label = label if len(label) <= 52 else f"{label[:51]}…"
        width = 24 + CHARACTER * len(label)
        if x + width > WIDTH or not y:
            x, y = 2.0, y + 20
        look = "faint" if style is None else "mark"
        sign = tag("path", class_=look, d=mark(shape, x + 6, y - 5, 1.2))
        drawn.append(styled(style, sign) + text(x + 18, y, label))
        x += width + 16
    return "".join(drawn), y


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Tops of boxes in the given order, near `wanted`, without overlap, within [low, high].

    Example:
        >>> spread([0.0, 1.0, 9.0], [4.0, 4.0, 4.0], 0.0, 12.0)
        [0.0, 4.0, 8.0]
    """
    tops: list[float] = []
    for place, size in zip(wanted, sizes, strict=True):
        tops.append(max(place, low))
        low = tops[-1] + size
    for index in reversed(range(len(tops))):
        tops[index] = min(tops[index], high - sizes[index])
        high = tops[index]
    return tops


def _wrap(label: str) -> list[str]:
    return textwrap.wrap(label, 14, max_lines=3, placeholder="…") or [""]


def _finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))


def _unbroken(points: Sequence[Point]) -> list[list[Point]]:
    breaks = [-1, *(i for i, point in enumerate(points) if not _finite(point)), len(points)]
    return [list(points[a + 1 : b]) for a, b in pairwise(breaks) if b - a > 1]
