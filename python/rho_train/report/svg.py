"""Drawing layer: SVG elements, paths and markers as text, themed by `chart.css`.

Colours are CSS custom properties, so one drawing serves light, dark and print.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from importlib.resources import files

Point = tuple[float, float]

STYLE = files("rho_train.report").joinpath("chart.css").read_text("utf-8")

_CROSS = ((-4.8, -3.0), (-3.0, -4.8), (0.0, -1.8), (3.0, -4.8), (4.8, -3.0), (1.8, 0.0))
# A method has a colour and a shape, so that colour is never the only sign. 0 is a disc.
_SHAPES: tuple[tuple[Point, ...], ...] = (
    (),
    ((-3.7, -3.7), (3.7, -3.7), (3.7, 3.7), (-3.7, 3.7)),
    ((0, -5), (4.8, 3.7), (-4.8, 3.7)),
    ((0, -5.4), (4.6, 0), (0, 5.4), (-4.6, 0)),
    ((0, 5), (4.8, -3.7), (-4.8, -3.7)),
    (*_CROSS, *((-x, -y) for x, y in _CROSS)),
    ((0, -5.2), (5, -1.6), (3, 4.2), (-3, 4.2), (-5, -1.6)),
    ((0, -5.6), (1.5, -1.5), (5.6, 0), (1.5, 1.5), (0, 5.6), (-1.5, 1.5), (-5.6, 0), (-1.5, -1.5)),
)
STYLES = 3 * len(_SHAPES)
"""Pairs of a colour and a shape: first all colours with a shape each, then with the next one."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """Text for SVG and HTML; characters that XML forbids are dropped."""
    return html.escape(_NOT_XML.sub("", text))


def number(value: float) -> str:
    """A coordinate with one decimal; ValueError if it is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"svg: coordinates must be finite, got {value}; leave such points out")
    return f"{value:.1f}".removesuffix(".0")


def tag(name: str, content: str = "", /, **attributes: str | float) -> str:
    """An element around `content`; `class_` writes class, `text_anchor` writes text-anchor.

    Example:
        >>> tag("g", tag("circle", r=2.0), class_="s1")
        '<g class="s1"><circle r="2"></circle></g>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="'
        f'{escape(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>"


def text(x: float, y: float, content: str, **attributes: str | float) -> str:
    """A line of text, escaped."""
    return tag("text", escape(content), x=x, y=y, **attributes)


def styled(style: int | None, content: str, **attributes: str | float) -> str:
    """A group in the colour of `style`, or in no colour of its own."""
    if style is not None:
        attributes["class_"] = f"s{style % len(_SHAPES)}"
    return tag("g", content, **attributes)


def path(points: Sequence[Point]) -> str:
    """Path data of an open line."""
    return "M" + "L".join(f"{number(x)},{number(y)}" for x, y in points)


def mark(shape: int, x: float, y: float, size: float = 1.0) -> str:
    """Path data of the marker of a style, about 9 units wide at size 1."""
    shape = (shape + shape // len(_SHAPES)) % len(_SHAPES)
    if shape == 0:
        r, width = number(4.2 * size), number(8.4 * size)
        arcs = f"a{r},{r} 0 1,0 {width},0a{r},{r} 0 1,0 -{width},0Z"
        return path([(x - 4.2 * size, y)]) + arcs
    return path([(x + size * dx, y + size * dy) for dx, dy in _SHAPES[shape]]) + "Z"


def standalone(drawing: str) -> str:
    """A drawing as a file of its own, with the style that a page has once for all drawings."""
    head, end, body = drawing.partition(">")
    return f"{head}{end}{tag('style', STYLE)}{body}"


def sign(style: int) -> str:
    """The marker of a style as a small inline drawing, for use beside its name."""
    drawn = styled(style, tag("path", class_="mark", d=mark(style, 6, 6)))
    return tag("svg", drawn, class_="chart sign", viewBox="0 0 12 12", aria_hidden="true")
