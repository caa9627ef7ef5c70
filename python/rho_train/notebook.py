"""Tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """Return a table as HTML, the first cell of each row a heading.

    Example:
        >>> html_table([["mean", 0.5]])
        '<table><tbody><tr><th>mean</th><td>0.5</td></tr></tbody></table>'
    """
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = (
        f"<tr><th>{escape(str(name))}</th>"
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    above = f"<thead><tr>{heads}</tr></thead>" if heads else ""
    return f"<table>{above}<tbody>{''.join(lines)}</tbody></table>"
