"""The tables of RESULTS.md, from the rows of every suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments import derive
from experiments.derive import SHARES, Method, in_cell, read_runs
from experiments.suite import FOLDER, Suite, load, names
from keep import Row

_SHARE_NAMES = {
    "noisy": "with a wrong label",
    "unsure": "that annotators doubted",
    "correct": "that were already classified correctly",
    "less_relevant": "of less relevant classes",
    "redundant": "that are copies",
}
Cells = dict[str, dict[str, Method]]  # by the name of the cell and of the method


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, numbers to the right."""
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def suites() -> str:
    """Return a section a suite: question, origin of the rows, tables, figures."""
    return "\n\n".join(_section(name) for name in names())


def _section(name: str) -> str:
    rows = read_runs(name)
    suite = load(name, rows[0]["variant"] if rows else "full")
    parts = [f"## {suite.title}", suite.question]
    if not rows:
        return "\n\n".join([*parts, f"**Not run here.** {suite.status}"])
    parts.append(_origin(suite, rows))
    cells = {
        cell.name: derive.methods(found)
        for cell in suite.cells
        if (found := in_cell(rows, cell.name))
    }
    parts += _compared(suite, cells)
    for kind in suite.figures:
        if (FOLDER / "figures" / f"{name}-{kind}.png").exists():
            parts.append(f"![{suite.title}: {kind}](figures/{name}-{kind}.png)")
    return "\n\n".join(parts)


def _origin(suite: Suite, rows: Sequence[Row]) -> str:
    def each(column: str) -> str:
        return ", ".join(dict.fromkeys(row[column] for row in rows if row[column]))

    seeds = sorted({int(row["seed"]) for row in rows})
    wanted = len(suite.cells) * len(suite.methods) * len(suite.options["seeds"])
    count = f"{len(rows)} runs" if len(rows) >= wanted else f"{len(rows)} of {wanted} runs"
    quick = " --quick" if suite.variant == "quick" else ""
    return (
        f"`run {suite.name}{quick}`: {count}, seeds {seeds[0]} to {seeds[-1]}, {each('machine')}, "
        f"torch {each('torch')}, rho_ext at {each('commit')}, {min(row['date'] for row in rows)}."
    )


def _compared(suite: Suite, cells: Cells) -> list[str]:
    base = _label(cells, suite.baseline)
    parts = [
        f"Points of test accuracy above “{base}”; of that itself the accuracy, %.",
        _by_method(cells, lambda method, of: _above(method, of, suite.baseline, "test")),
    ]
    if suite.against:
        for ours in suite.ours:
            parts.append(f"Points of “{_label(cells, ours)}” above other rivals.")
            rivals = {
                _label(cells, rival): [_pair(of, ours, rival) for of in cells.values()]
                for rival in suite.against
            }
            parts.append(markdown(["rival", *cells], [[k, *v] for k, v in rivals.items()]))
    for share in SHARES:
        if share in suite.columns and any(
            method.share(share) is not None for of in cells.values() for method in of.values()
        ):
            parts.append(f"Selected examples {_SHARE_NAMES[share]}, %.")
            parts.append(_by_method(cells, lambda method, _, share=share: _share(method, share)))
    return parts


def _by_method(cells: Cells, text: Callable[[Method, dict[str, Method]], str]) -> str:
    """Return a table with a line a method and a column a cell; lines and columns of dashes go."""
    methods = dict.fromkeys(name for of in cells.values() for name in of)
    found = {
        name: [text(of[name], of) if name in of else "-" for of in cells.values()]
        for name in methods
    }
    used = [i for i in range(len(cells)) if any(line[i] != "-" for line in found.values())]
    rows = [
        [_label(cells, name), *(line[i] for i in used)]
        for name, line in found.items()
        if any(text != "-" for text in line)
    ]
    return markdown(["method", *(list(cells)[i] for i in used)], rows)


def _label(cells: Cells, name: str) -> str:
    return next(of[name].label for of in cells.values() if name in of)


def _above(method: Method, of: dict[str, Method], baseline: str, column: str) -> str:
    if method is of.get(baseline):
        mean, error = method.mean(column), method.error(column)
        return "-" if mean is None else f"{100 * mean:.1f} ± {100 * (error or 0):.1f}"
    found = method.above(of[baseline].runs, column) if baseline in of else None
    return "-" if found is None else found.points


def _pair(of: dict[str, Method], ours: str, rival: str) -> str:
    if ours not in of or rival not in of:
        return "-"
    found = of[ours].above(of[rival].runs)
    return "-" if found is None else found.points


def _share(method: Method, name: str) -> str:
    share = method.share(name)
    return "-" if share is None else f"{100 * share:.0f}"
