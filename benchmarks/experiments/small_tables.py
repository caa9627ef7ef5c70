"""The tables of steering and of unequal classes, from their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from experiments.derive import paired, read_runs
from experiments.page import markdown
from keep import Row

Cell = dict[str, list[Row]]  # rows by method
STATED = "Letters, unequal"
REMEDY = ("uniform, equal cost", "RHO-LOSS", "IL 0 below 100 examples")
CONFIRMED = 210  # the first seed of the second setting that was stated


def _explored() -> list[Row]:
    return [
        row
        for row in read_runs("steering")
        if row["set"] != STATED and int(row["seed"]) < CONFIRMED
    ]


def _cells(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], Cell]:
    """Return the rows by the values of keys, and then by method."""
    found: dict[tuple[str, ...], Cell] = {}
    for row in rows:
        cell = found.setdefault(tuple(row[key] for key in keys), {})
        cell.setdefault(row["method"], []).append(row)
    return found


def _mean(rows: Sequence[Row], column: str) -> float:
    return fmean(float(row[column]) for row in rows)


def _above(ours: Sequence[Row], theirs: Sequence[Row], column: str) -> str:
    """Return the mean difference of two methods over the seeds, in points with its error."""
    other = {row["seed"]: float(row[column]) for row in theirs}
    found = paired(float(row[column]) - other[row["seed"]] for row in ours)
    assert found is not None
    return found.points


def steering() -> str:
    """Return where every method ends, by set and curated examples; the highest is bold."""
    cells = _cells(_explored(), "set", "curated", "budget")
    tops = [max(_mean(of, "test") for of in cell.values()) for cell in cells.values()]
    rows = []
    for method in next(iter(cells.values())):
        means = [_mean(cell[method], "test") for cell in cells.values()]
        texts = [
            f"**{100 * mean:.1f}**" if mean == top else f"{100 * mean:.1f}"
            for mean, top in zip(means, tops, strict=True)
        ]
        rows.append([method, *texts])
    heads = [f"{name}, {int(n):,}" + f"; {budget}" * (budget != "300") for name, n, budget in cells]
    return markdown(["trains by", *heads], rows)


def stated(second: bool = False) -> str:
    """Return where methods end in a setting that was stated before its runs."""
    rows = read_runs("steering")
    if second:
        runs = [row for row in rows if row["set"] == "Letters" and int(row["seed"]) >= CONFIRMED]
    else:
        runs = [row for row in rows if row["set"] == STATED]
    (cell,) = _cells(runs, "set").values()
    ours = cell["RHO-LOSS, half curated"]
    lines = []
    for method in sorted(cell, key=lambda method: -_mean(cell[method], "test")):
        found = cell[method]
        share = f"{100 * float(found[0]['share']):.0f} %" if "filter" in method else ""
        after = f"{100 * float(found[0]['tuned']):.0f} %"
        above = "" if found is ours else _above(ours, found, "test")
        mean = f"{100 * _mean(found, 'test'):.1f}"
        lines.append([method, mean, above, f"{100 * _mean(found, 'useful'):.0f} %", share, after])
    head = [
        "trains by",
        "accuracy",
        "RHO-LOSS, half curated, minus it",
        "useful examples of the pool",
    ]
    return markdown([*head, "share kept", "budget for the curated at the end"], lines)


def lead() -> str:
    """Return how far the best form of RHO-LOSS ends above the best rival, both by validation."""
    rows = []
    for (name, curated, budget), cell in _cells(_explored(), "set", "curated", "budget").items():
        best = [
            max(
                (method for method in cell if method.startswith("RHO-LOSS") == is_rho),
                key=lambda method: _mean(cell[method], "validation"),
            )
            for is_rho in (True, False)
        ]
        row = [f"{name}, {int(curated):,} curated", f"{int(budget):,}", *best]
        rows.append([*row, _above(*(cell[method] for method in best), "test")])
    head = ["pool", "uniform steps", "best RHO-LOSS", "best rival", "RHO-LOSS minus rival"]
    return markdown(head, rows)


def unequal(methods: Sequence[str] = ()) -> str:
    """Return where methods end above uniform sampling by as many steps; all, wrong labels too."""
    cells = _cells(read_runs("unequal"), "set", "noise")
    rows = []
    for (name, noise), cell in cells.items():
        if methods and float(noise):
            continue
        base = cell["uniform"]
        # With wrong labels every class has more than ten.
        columns = ("accuracy", "balanced", "" if float(noise) else "rare", "worst")
        where = name + (f", {100 * float(noise):.0f} % wrong" if float(noise) else "")
        cells = (of and f"{100 * _mean(base, of):.1f}" for of in columns)
        rows.append([f"**{where}**: uniform", *cells])
        for method, found in cell.items():
            if method in methods or (not methods and method != "uniform"):
                rows.append([method, *(of and _above(found, base, of) for of in columns)])
    head = ["trains by", "accuracy", "balanced", "rare classes", "worst class"]
    return markdown(head, rows)


def why() -> str:
    """Return the IL of rare classes, and how often they are selected."""
    rows = []
    for (name, noise), cell in _cells(read_runs("unequal"), "set", "noise").items():
        if not float(noise):
            some = cell["RHO-LOSS"]
            means = (f"{_mean(some, column):.2f}" for column in ("il", "rare_il", "rare_selected"))
            rows.append([name, *means])
    return markdown(["set", "mean IL", "of rare classes", "rare selected over their share"], rows)


def wrong_labels() -> str:
    """Return shares of wrong labels in % among the first of each ranking, and what is listed."""
    kinds = {"0": "right", "weak": "weak labeller", "natural": "as annotated"}
    rows = []
    for (name, noise), cell in _cells(read_runs("wrong_labels"), "set", "noise").items():
        found = cell["find_wrong_labels"]
        wrong = _mean(found, "wrong")
        row = [f"{name}, {kinds.get(noise, noise + ' % drawn anew')}", f"{wrong:,.0f}"]
        for runs in (runs for method, runs in cell.items() if method != "log margin"):
            top = 100 * _mean(runs, "top_wrong") / max(_mean(runs, "top"), 1)
            row.append(f"{_mean(runs, 'top_100'):.0f} / {top:.0f}" if wrong else "")
        for runs in (found, cell["cleanlab, self_confidence"]):
            listed, right = _mean(runs, "listed"), _mean(runs, "listed_wrong")
            row.append(f"{listed:,.0f} ({100 * right / listed:.0f} %)")
        rows.append(row)
    heads = ["`find_wrong_labels`", "IL", "cleanlab, self-confidence"]
    heads += ["cleanlab, normalized margin", "we list (wrong)", "cleanlab lists (wrong)"]
    return markdown(["labels", "wrong", *heads], rows)
