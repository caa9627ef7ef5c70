"""The results page, from the CSV files of the suites."""

from __future__ import annotations

from pathlib import Path

from rho_train.files import atomic_write
from rho_train.report.compare import signed
from suite import VARIANTS, Suite, load, names
from tables import Tables, in_cell, read_tables

_INTRODUCTION = """# Results of the experiments

Written by `python benchmarks/experiments page` from the CSV files in `results/`. What a suite asks
and how it is set up is in its YAML file; how to run them, in [README.md](README.md).

How to read the tables:

- **Test**: accuracy on the test set, read once, after the last step; mean and standard error over
  the seeds. **against**: difference from that method, seed by seed: mean, standard error, and in
  how many seeds it is above 0.
- **Steps to it**: until the curve meets the end of the baseline's curve with the same seed; median,
  and in how many seeds it does (a dash where the median seed never does). Curves are of a
  validation split whose labels are as wrong as those of the training points. **Factor**: the
  baseline's steps, or seconds, over the method's; median.
- **Seconds** of training, mean, several runs at a time on one machine; **with IL**: irreducible
  losses charged to this one target; **shared**: to all targets of the experiment that use them.

Nothing here is a maximum over evaluations. With five seeds 2.8 standard errors are 95 % of
Student's t distribution.
"""
_MOST_OPEN = 6
_SURE = 2.8  # standard errors: 95 % of Student's t with the four degrees of freedom of five seeds
_SECONDS = (
    ("Seconds to it, IL reused", "seconds_to_target_reused", ",.1f"),
    ("Seconds to it, IL charged", "seconds_to_target_charged", ",.1f"),
    ("Factor in seconds, IL reused", "factor_reused", ".2f"),
    ("Factor in seconds, IL charged", "factor_charged", ".2f"),
)
_SHARES = {
    "noisy": "Noisy",
    "unsure": "Doubted by annotators",
    "correct": "Already correct",
    "less_relevant": "Less relevant",
    "redundant": "Copies",
}


def write_page(suites: Path, folder: Path) -> Path:
    """Write RESULTS.md into `folder` from the tables in `folder/results`."""
    parts = [_INTRODUCTION]
    for name in names(suites):
        parts.append(_section(suites, name, folder))
    path = folder / "RESULTS.md"
    atomic_write(path, "\n".join(parts))
    return path


def _section(suites: Path, name: str, folder: Path) -> str:
    found = [v for v in reversed(VARIANTS) if (folder / "results" / f"{name}-{v}").is_dir()]
    suite = load(name, found[0] if found else "full", suites)
    letter = f"({suite.letter}) " if suite.letter else ""
    lines = [f"## {letter}{suite.title}", "", suite.question, ""]
    if not found:
        lines += [f"**Not run here.** {suite.status}" if suite.status else "**Not run yet.**", ""]
        return "\n".join(lines)
    place = f"{name}-{suite.variant}"
    tables = read_tables(folder / "results" / place)
    if not tables.runs:
        return "\n".join([*lines, "**No run is finished yet.**", ""])
    lines += [_origin(suite, tables), ""]
    lines += _tuned(suite, tables) if suite.tune else _compared(suite, tables)
    figures = sorted((folder / "figures").glob(f"{place}-*.svg"))
    lines += [
        f"![{path.stem.removeprefix(place + '-')}](figures/{path.name})\n" for path in figures
    ]
    if left := [cell.name or "all" for cell in suite.cells if not in_cell(tables.runs, cell.name)]:
        lines += [f"Not run: {'; '.join(left)}.", ""]
    return "\n".join(lines)


def _origin(suite: Suite, tables: Tables) -> str:
    def each(column: str) -> str:
        return ", ".join(dict.fromkeys(run[column] for run in tables.runs if run[column]))

    wanted = sum(len(c.values["methods"]) * len(c.values["seeds"]) for c in suite.cells)
    count = f"{len(tables.runs)}" + (f" of {wanted}" if len(tables.runs) < wanted else "")
    seeds = sorted({int(run["seed"]) for run in tables.runs})
    flops = {
        float(run["flops"]) / float(run["il_flops"])
        for run in tables.runs
        if run["flops"] and run["il_flops"] and float(run["il_flops"]) > 0
    }
    ratio = ""
    if flops:
        low, high = min(flops), max(flops)
        ratio = f" A forward pass of the target takes {low:.3g} times the flops of the IL model's."
        if high > 1.01 * low:
            ratio = ratio.replace(f"{low:.3g}", f"{low:.3g} to {high:.3g}")
    return (
        f"`{each('command')}`, {suite.variant} variant: {count} runs, seeds "
        f"{seeds[0]} to {seeds[-1]}, {each('machine')}, {each('processes')} processes of "
        f"{each('threads')} thread(s), torch {each('torch')}, rho_ext {each('rho_ext')} at "
        f"{each('commit')}, {min(run['date'] for run in tables.runs)}.{ratio}"
    )


def _compared(suite: Suite, tables: Tables) -> list[str]:
    lines = [sentence for name in suite.ours for sentence in _found(suite, tables, name)]
    lines = [" ".join(lines), ""] if lines else []
    labels = {row["method"]: row["label"] for row in tables.methods}
    shares = [name for name in suite.columns if name in _SHARES]
    worst = "worst_class" in suite.columns
    shared = any(int(row["targets_of_il"]) > 1 for row in tables.methods)
    head = ["Method", "Steps", "Test, %"]
    head += [f"against {labels.get(name, name)}" for name in suite.against]
    head += ["Worst class, %", f"against {labels.get(suite.against[0])}"] if worst else []
    head += ["Steps to it", "Factor"]
    head += [head for head, *_ in _SECONDS] if "seconds" in suite.columns else []
    head += ["Seconds", "with IL"]
    head += ["shared"] if shared else []
    head += [f"{_SHARES[name]}, %" for name in shares]
    for cell in suite.cells:
        rows = in_cell(tables.methods, cell.name)
        if not rows:
            continue
        folded = len(suite.cells) > _MOST_OPEN
        if folded:
            lines += [f"<details><summary>{cell.name}</summary>", ""]
        elif cell.name:
            lines += [f"### {cell.name}", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        for row in rows:
            cells = [row["label"], f"{float(row['steps']):,.0f}"]
            cells.append(_percent(row["test"], row["test_error"]))
            cells += [_difference(tables, row, against, "test") for against in suite.against]
            if worst:
                cells.append(_percent(row["worst_class"]))
                cells.append(_difference(tables, row, suite.against[0], "worst_class"))
            reached = f" ({row['reached']}/{row['seeds']})"
            cells += [_number(row["steps_to_target"], ",.0f") + reached]
            cells += [_number(row["factor"], ".2f")]
            if "seconds" in suite.columns:
                cells += [_number(row[name], form) for _, name, form in _SECONDS]
            cells += [_number(row[name], ",.1f") for name in ("seconds", "charged_seconds")]
            cells += [_number(row["shared_seconds"], ",.1f")] if shared else []
            cells += [_percent(row[name]) for name in shares]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "</details>", ""] if folded else [""]
    return lines


def _found(suite: Suite, tables: Tables, name: str) -> list[str]:
    """What the numbers say of a method, in words that follow from them."""
    label = next((row["label"] for row in tables.methods if row["method"] == name), name)
    said = []
    for against in suite.against:
        other = next((row["label"] for row in tables.methods if row["method"] == against), against)
        rows = [
            row
            for row in tables.paired
            if (row["method"], row["against"], row["metric"]) == (name, against, "test")
            and row["standard_error"]
        ]
        if not rows:
            continue
        sure = [float(row["difference"]) / max(float(row["standard_error"]), 1e-9) for row in rows]
        above, below = sum(value > _SURE for value in sure), sum(value < -_SURE for value in sure)
        said.append(
            f"Against “{other}”, “{label}” ends higher by more than {_SURE} standard errors in "
            f"{above} of {len(rows)} settings, lower in {below}."
        )
    ours = [row for row in tables.methods if row["method"] == name]
    half = sum(float(row["factor"] or 0) >= 2 for row in ours)
    said.append(f"It meets the target in at most half of the steps in {half} of {len(ours)}")
    if any(float(row["il_seconds"]) > 0 for row in ours):
        half = sum(float(row["factor_reused"] or 0) >= 2 for row in ours)
        even = sum(float(row["factor_charged"] or 0) >= 1 for row in ours)
        said[-1] += (
            f", of the seconds with the IL reused in {half}; with the IL charged it is no later in "
            f"{even}"
        )
    said[-1] += "."
    return said


def _tuned(suite: Suite, tables: Tables) -> list[str]:
    by_loss = suite.tune == "il_loss"
    said = (
        "Mean loss of the IL models on the points that they score, in nats; the lowest is best."
        if by_loss
        else "Accuracy on the validation split after the last step, %."
    )
    choose, shown = (min, _loss) if by_loss else (max, _percent)
    lines = [f"{said} The test set is not shown.", ""]
    for cell in suite.cells:
        rows = [row for row in in_cell(tables.methods, cell.name) if row[suite.tune]]
        if not rows:
            continue
        families: dict[str, dict[str, str]] = {}
        for row in rows:
            family, _, value = row["label"].rpartition(",")
            families.setdefault(family, {})[value.strip()] = row[suite.tune]
        values = list(dict.fromkeys(value for of in families.values() for value in of))
        # Of irreducible losses the best recipe is wanted, of methods each one's best rate.
        lowest = choose((v for of in families.values() for v in of.values()), key=float)
        lines += [f"### {cell.name}", ""] if cell.name else []
        lines += ["| Method | " + " | ".join(values) + " |", "|---" + "|---:" * len(values) + "|"]
        for family, of in families.items():
            best = lowest if by_loss else choose(of.values(), key=float)
            cells = [
                "-" if v not in of else f"**{shown(of[v])}**" if of[v] == best else shown(of[v])
                for v in values
            ]
            lines.append(f"| {family} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _loss(value: str) -> str:
    return f"{float(value):.3f}"


def _difference(tables: Tables, row: dict[str, str], against: str, metric: str) -> str:
    wanted = (row["cell"], row["method"], against, metric)
    for pair in tables.paired:
        if (pair["cell"], pair["method"], pair["against"], pair["metric"]) == wanted:
            error = float(pair["standard_error"]) if pair["standard_error"] else None
            return f"{signed(float(pair['difference']), error)} ({pair['ahead']}/{pair['n']})"
    return "-"


def _percent(value: str, error: str = "") -> str:
    if not value:
        return "-"
    return f"{100 * float(value):.1f}" + (f" ± {100 * float(error):.1f}" if error else "")


def _number(value: str, form: str) -> str:
    return format(float(value), form) if value else "-"
