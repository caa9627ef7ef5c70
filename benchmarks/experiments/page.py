"""The tables of RESULTS.md, from the rows of every suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments import derive
from experiments.derive import SHARES, Method, Row, in_cell, read_runs
from experiments.suite import FOLDER, Suite, load, names

_SHARE_NAMES = {
    "noisy": "with a wrong label",
    "unsure": "that annotators doubted",
    "correct": "that were already classified correctly",
    "less_relevant": "of less relevant classes",
    "redundant": "that are copies",
}
_EARLIER = (
    "These rows were made before costs were counted: a method with the “same minutes” made as many "
    "steps as fit into the seconds of another run at the pace of a third."
)
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
        cell.name: derive.methods(found, suite.baseline)
        for cell in suite.cells
        if (found := in_cell(rows, cell.name))
    }
    if suite.tune == "validation":
        parts.append(_rates(cells))
    elif suite.tune:
        parts.append(_recipes(cells))
    else:
        parts += _compared(suite, cells, rows)
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


def _compared(suite: Suite, cells: Cells, rows: Sequence[Row]) -> list[str]:
    base = _label(cells, suite.baseline)
    parts = [
        *([_EARLIER] if any("_minutes" in row["method"] for row in rows) else []),
        f"Points of test accuracy above “{base}”; of that itself the accuracy, %.",
        _by_method(cells, lambda method, of: _above(method, of, suite.baseline, "test")),
    ]
    if suite.against:
        for ours in suite.ours:
            parts.append(f"Points of “{_label(cells, ours)}” above other rivals.")
            rivals = {
                _label(cells, rival): [_pair(of, ours, rival) for of in cells.values()]
                for name in suite.against
                for rival in (name, derive.earlier(name))
                if any(rival in of for of in cells.values())
            }
            parts.append(markdown(["rival", *cells], [[k, *v] for k, v in rivals.items()]))
    if "worst_class" in suite.columns:
        parts.append("The same of the accuracy of the worst class.")
        parts.append(
            _by_method(cells, lambda method, of: _above(method, of, suite.baseline, "worst_class"))
        )
    if "seconds" in suite.columns:
        parts.append(
            "How many times sooner the best of the baseline is met: in steps / in cost with "
            "precomputed IL / in cost, IL included (-: not in the median seed)."
            if derive.counted(rows)
            else "How many times sooner the end of the baseline is met: in steps / in seconds with "
            "precomputed IL / in seconds, IL cost included (-: not in the median seed)."
        )
        parts.append(_by_method(cells, _factors))
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


def _factors(method: Method, _: dict[str, Method]) -> str:
    costs = (derive.steps, derive.cost, derive.cost_with_il)
    factors = [method.factor(cost) for cost in costs]
    if factors[0] is None or not method.mean("il_seconds"):
        return "-"
    return " / ".join("-" if factor is None else f"{factor:.1f}" for factor in factors)


def _share(method: Method, name: str) -> str:
    share = method.share(name)
    return "-" if share is None else f"{100 * share:.0f}"


def _rates(cells: Cells) -> str:
    """Return the best rate of every kind of method, and its accuracy."""
    kinds: dict[str, str] = {}
    for name, method in next(iter(cells.values())).items():
        kinds.setdefault(name.partition("-lr-")[0], method.label.rpartition(", lr ")[0])
    rows = []
    for cell, of in cells.items():
        row = [cell]
        for kind in kinds:
            tried = {name: m for name, m in of.items() if name.partition("-lr-")[0] == kind}
            best = max(tried, key=lambda name: tried[name].mean("validation") or 0.0)
            accuracy = 100 * (tried[best].mean("validation") or 0.0)
            row.append(f"{best.rpartition('-lr-')[2]} ({accuracy:.1f})")
        rows.append(row)
    said = "The best rate of each kind, and its accuracy on the validation split, %."
    return f"{said}\n\n{markdown(['cell', *kinds.values()], rows)}"


def _recipes(cells: Cells) -> str:
    """Return the IL recipes with the lowest loss on held-out examples."""
    rows = []
    for cell, of in cells.items():
        known = {m.label.partition(", schedule ")[2]: m.mean("il_loss") for m in of.values()}
        best = sorted((loss, name) for name, loss in known.items() if loss is not None)
        rows.append([cell, *(f"{name}: {loss:.3f}" for loss, name in (*best[:3], best[-1]))])
    said = "Mean loss of the IL models on the examples that they score, nats."
    return f"{said}\n\n{markdown(['cell', 'lowest', 'second', 'third', 'highest'], rows)}"
