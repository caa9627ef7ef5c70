"""Keep the rows of a benchmark in git: one row a measured case, in results/SUBJECT/runs.csv.

python benchmarks/keep.py --machine epyc-zen5 runs/select.csv
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
Row = dict[str, str]
_PROVIDERS = ("eager", "eager_float32", "compile", "rho_ext", "read", "read_as_float32", "empty_op")
_PARTS = ("modes", "score", "op", "gather", "select", "overhead", "train")
_ORIGIN = ("machine", "date", "commit", "torch", "threads")


def main(argv: Sequence[str] | None = None) -> int:
    """Replace the rows of the same machine and cases by those of the files."""
    parser = argparse.ArgumentParser(prog="python benchmarks/keep.py", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="CSV files that a bench_* script wrote")
    parser.add_argument("--machine", required=True, help="a name for the machine: epyc-zen4")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    for file in arguments.files:
        rows = read_csv(file)
        subject = rows[0]["benchmark"] if rows else ""
        if subject not in REDUCED:
            known = ", ".join(REDUCED)
            raise SystemExit(f"{file}: benchmark must be one of {known}, got {subject!r}")
        reduced = [{**row, "machine": arguments.machine} for row in REDUCED[subject](rows)]
        path = arguments.results / subject / "runs.csv"
        cases = CASES[subject]
        new = {_case(row, cases) for row in reduced}
        old = [row for row in read_csv(path) if _case(row, cases) not in new]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(csv_text([*old, *reduced]), encoding="utf-8")
        print(f"{path}: {len(reduced)} rows of {arguments.machine}")
    return 0


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a CSV file, or none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def csv_text(rows: Iterable[Row]) -> str:
    """Return rows as the text of a CSV file, with the columns of all of them."""
    rows = list(rows)
    file = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _case(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("machine", *names))


def _wide(rows: Sequence[Row], case: Sequence[str]) -> Iterable[tuple[Row, list[Row]]]:
    """Group the rows of a case: yield its first columns, and its rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in case), []).append(row)
    for group in groups.values():
        yield {name: group[0][name] for name in (*_ORIGIN, *case)}, group


def _select(rows: Sequence[Row]) -> Iterable[Row]:
    """Microseconds of every provider side by side."""
    for first, group in _wide(rows, CASES["select"]):
        times = {row["provider"]: row["median_us"] for row in group}
        share = next(row["share_of_read"] for row in group if row["provider"] == "rho_ext")
        yield {
            **first,
            **{name: times.get(name, "") for name in _PROVIDERS},
            "share_of_read": share,
        }


def _step(rows: Sequence[Row]) -> Iterable[Row]:
    """The length of a step, and the share of each of its parts."""
    for first, group in _wide(rows, CASES["step"]):
        parts = {row["part"]: row for row in group}
        yield {
            **first,
            "small_batch": group[0]["small_batch"],
            "median_us": parts["total"]["median_us"],
            "over_uniform": parts["total"]["over_uniform"],
            **{name: parts[name]["share_of_step"] if name in parts else "" for name in _PARTS},
        }


def _columns(*names: str) -> Callable[[Sequence[Row]], Iterable[Row]]:
    def of(rows: Sequence[Row]) -> Iterable[Row]:
        return [{name: row[name] for name in (*_ORIGIN, *names)} for row in rows]

    return of


def raw(subject: str, kept: Sequence[Row]) -> list[Row]:
    """Return kept rows of `select` or `step` in the form of the script, for the figures."""
    columns, value = (_PROVIDERS, "provider") if subject == "select" else (_PARTS, "part")
    rows = []
    for row in kept:
        if subject == "step":
            total = float(row["median_us"])
            row = {**row, **{name: row[name] and f"{float(row[name]) * total}" for name in columns}}
            rows.append({**row, "part": "total"})
        rows += [
            {**row, value: name, "median_us": row[name], "share_of_step": share}
            for name, share in zip(columns, _shares(row, columns), strict=True)
            if row[name] and name != "overhead"
        ]
    return rows


def _shares(row: Row, columns: Sequence[str]) -> list[str]:
    total = row.get("median_us")
    return [f"{float(row[name]) / float(total)}" if total and row[name] else "" for name in columns]


# What makes a case of each subject, and its rows from those that the script wrote.
CASES = {
    "select": ("n", "classes", "dtype", "k", "cache"),
    "step": ("model", "large_batch", "step"),
    "memory": ("n", "classes", "dtype", "k", "provider"),
    "linear": ("tokens", "hidden", "vocabulary", "dtype", "provider", "ratio"),
    "dispatch": ("path",),
    "il_store": ("layout", "rows", "what"),
}
REDUCED: dict[str, Callable[[Sequence[Row]], Iterable[Row]]] = {
    "select": _select,
    "step": _step,
    "memory": _columns(*CASES["memory"], "logits_bytes", "extra_bytes", "over_logits"),
    "linear": _columns(
        *CASES["linear"],
        *("p20_us", "over_logits", "cpu_over_logits", "extra_bytes", "memory_over_logits"),
    ),
    "dispatch": _columns("path", "median_us", "minimum_us", "over_cheapest"),
    "il_store": _columns(*CASES["il_store"], "median_ms", "p95_ms"),
}


if __name__ == "__main__":
    sys.exit(main())
