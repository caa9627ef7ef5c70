"""README.md: its numbers are rows of results, and its Python runs."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev

import pytest

from rho_train.methods.registry import names, unregister

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, str]


def readme() -> str:
    """The text without its line breaks."""
    return " ".join((ROOT / "README.md").read_text().split())


def read(path: Path) -> list[Row]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_numbers_in_the_readme_are_rows_of_results() -> None:
    text = readme()

    def rows(folder: str) -> list[dict[str, str]]:
        return read(RESULTS / folder / "summary.csv")

    def seconds(row: dict[str, str]) -> str:
        if not row["steps"]:
            return "never"
        charged = f"{float(row['target_seconds']):.1f}"
        if not float(row["il_seconds"]):
            return charged
        return f"{charged}, or {float(row['reused_seconds']):.1f} with IL at hand"

    for row in rows("demo"):
        steps = f"{float(row['steps']):,.0f}" if row["steps"] else "never"
        cells = [f"{float(row['accuracy']):.1%}", steps, f"{float(row['noisy']):.1%}"]
        wanted = " | ".join(cells).replace("%", " %")
        charged = f"{float(row['charged_seconds']):.1f}"
        assert f"| {wanted} | {seconds(row)} | {charged} |" in text, row["method"]
    demo = {row["method"]: float(row["seconds"]) for row in rows("demo")}
    ratio = max(demo[m] / demo["uniform_all"] for m in ("rho_holdout", "rho_crossfit"))
    assert f"{ratio:.1f} times as long as a uniform step" in text
    poor = [f"{float(row['accuracy']):.1%}".replace("%", " %") for row in rows("demo-poor-il")]
    assert f"RHO-LOSS ends at {poor[3]} and {poor[4]}" in text
    long = rows("demo-long")
    ends = [f"{float(row['accuracy']):.1%}".replace("%", " %") for row in long]
    assert f"{ends[3]} (holdout) and {ends[4]} (cross-fit), uniform" in text
    assert f"uniform sampling on all data at {ends[1]}." in text


def test_times_of_stores_in_the_readme_are_rows_of_results() -> None:
    text = readme()
    rows = read(RESULTS / "il_store" / "epyc.csv")
    assert {row["rows"] for row in rows} == {"100000000"}
    ms = {(row["layout"], row["what"]): float(row["median_ms"]) for row in rows}
    opened = f"{ms['file', 'open']:.2f} ms and 25 shards in {ms['shards', 'open']:.1f} ms"
    assert f"with 100,000,000 rows a file opens in {opened}" in text
    ids = f"{ms['file', '4096 ids']:.2f} ms and {ms['shards', '4096 ids']:.2f} ms"
    assert f"4,096 random ids take {ids}" in text


Times = dict[tuple[str, ...], dict[str, float]]


def times_of(name: str) -> Times:
    """Microseconds of every provider by size."""
    cells: Times = {}
    for row in read(RESULTS / "select" / name):
        cell = tuple(row[name] for name in ("n", "classes", "dtype", "k"))
        cells.setdefault(cell, {})[row["provider"]] = float(row["median_us"])
    return cells


def mean(ratios: Sequence[float]) -> str:
    """Their geometric mean."""
    return f"{math.prod(ratio ** (1 / len(ratios)) for ratio in ratios):.1f}x"


def test_speeds_in_the_readme_are_rows_of_results() -> None:
    text = readme()
    cells = times_of("epyc-zen4.csv")
    other = times_of("xeon.csv")
    of_note = [t for t in other.values() if min(t["eager"], t["compile"]) >= 50]
    eager, compiled = (mean([t[p] / t["rho_ext"] for t in of_note]) for p in ("eager", "compile"))
    worst = min(min(t["eager"], t["compile"]) / t["rho_ext"] for t in of_note)
    assert f"with an older commit, {eager}, {compiled} and {worst:.1f}x)" in text

    lines = (ROOT / "README.md").read_text().splitlines()
    quoted = [line.strip("| ").split("|") for line in lines if re.match(r"\| \d+ x \d+ ", line)]
    assert len(quoted) >= 8
    for size, *numbers in quoted:
        n, _, classes, dtype = size.split()
        times = cells[n, classes, dtype, str(max(1, int(n) // 10))]
        shown = ("eager", "eager_float32", "compile", "rho_ext", "read")
        wanted = [f"{times[name]:,.0f}" if name in times else "" for name in shown]
        assert [number.strip() for number in numbers] == wanted, size
    best = {cell: min(times["eager"], times["compile"]) for cell, times in cells.items()}
    large = [cell for cell in cells if best[cell] >= 50]
    small = [cell for cell in cells if best[cell] < 50]

    def ahead(rival: str, sizes: list[tuple[str, ...]]) -> list[float]:
        return [cells[c][rival] / cells[c]["rho_ext"] for c in sizes if rival in cells[c]]

    assert f"Over the {len(large)} sizes" in text
    assert f"{mean(ahead('eager', large))} faster than eager" in text
    assert f"{mean(ahead('eager_float32', large))} where eager first widens" in text
    assert f"{mean(ahead('compile', large))} than `torch.compile`" in text
    empty = mean([best[c] / cells[c]["empty_op"] for c in small])
    assert f"in those sizes would be {empty} the better of the two" in text
    assert f"{min(best[c] / cells[c]['rho_ext'] for c in large):.1f}x the better" in text
    assert f"takes less it is {mean([best[c] / cells[c]['rho_ext'] for c in small])} the" in text
    rows = read(RESULTS / "dispatch" / "epyc-zen4.csv")
    call = {row["path"]: row for row in rows}["rho_ext.select"]
    assert f"a call costs {float(call['median_us']):.0f} microseconds" in text
    assert f"{float(call['over_cheapest']):.1f}x that of a torch custom op" in text
    # By hand, so that every piece of a step is known.
    parts: dict[str, list[float]] = {}
    for row in read(RESULTS / "step" / "xeon.csv"):
        if row["step"] == "rho_ext":
            parts.setdefault(row["part"], []).append(float(row["share_of_step"]))
    assert f"it takes at most {max(parts['op']):.0%}".replace("%", " %") in text
    forward = f"{min(parts['score']):.0%} to {max(parts['score']):.0%}".replace("%", " %")
    assert f"the forward pass over the large batch {forward}" in text


def lines_of_step_costs() -> list[str]:
    """The options of the scoring, and what a step costs with them beside a uniform one."""
    cost = {
        (row["step"], row["model"], row["large_batch"]): f"{float(row['over_uniform']):.1f}"
        for row in read(RESULTS / "step" / "xeon.csv")
        if row["part"] == "total"
    }
    kinds = {
        "as it is": "selector",
        "`scoring=Scoring(bf16=True)`": "bf16",
        "`scoring=Scoring(channels_last=True)`": "channels_last",
        "`scoring=Scoring(compile=True)`": "compile",
        "`scoring=Scoring(refresh=0.5)`, `history=History(len(data))`": "refresh",
        "`scorer=proxy`": "proxy",
        "`scoring=Scoring(micro_batch=64)`": "micro_batch",
        "`for small in AsyncSelector(selector, model)(loader)`": "ahead",
    }
    where = [(model, n) for model in ("mlp", "cnn") for n in ("96", "160", "320")]
    return [
        f"| {option} | " + " | ".join(cost.get((kind, *of), "") for of in where) + " |"
        for option, kind in kinds.items()
    ]


def test_what_a_step_costs_is_in_rows_of_results() -> None:
    text = readme()
    for line in lines_of_step_costs():
        assert " ".join(line.split()) in text


LANGUAGE = {
    "uniform": "uniform sampling",
    "uniform_reused": "the same, the seconds of RHO-LOSS",
    "uniform_charged": "the same, with the seconds of the IL",
    "filter": "uniform sampling of the 60 % with the lowest IL",
    "rho": "RHO-LOSS, sequences",
    "rho_tokens": "RHO-LOSS, tokens",
}


def lines_of_language() -> list[str]:
    """Where the methods end: loss on clean text, steps, seconds, and what was noise."""
    rows = [row for row in read(RESULTS / "language" / "xeon.csv") if row["step"] == row["steps"]]
    lines = []
    for method, label in LANGUAGE.items():
        ends = [row for row in rows if row["method"] == method]
        loss, steps, seconds, il, noisy = (
            [float(row[name]) for row in ends]
            for name in ("test_loss", "steps", "seconds", "il_seconds", "noisy")
        )
        error = stdev(loss) / len(loss) ** 0.5
        cells = [f"{fmean(loss):.3f} ± {error:.3f}", f"{fmean(steps):,.0f}"]
        cells += [f"{fmean(seconds):.0f}" + (f" + {fmean(il):.0f}" if fmean(il) else "")]
        cells += [f"{fmean(noisy):.0%}".replace("%", " %")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def test_the_language_model_in_the_readme_is_in_rows_of_results() -> None:
    text = readme()
    for line in lines_of_language():
        assert line in text


class Suite:
    """The tables of a suite of experiments."""

    def __init__(self, place: str) -> None:
        folder = ROOT / "benchmarks" / "experiments" / "results" / place
        self.runs, paired, methods = (
            read(folder / f"{table}.csv") for table in ("runs", "paired", "methods")
        )
        self.paired = {(r["cell"], r["method"], r["against"], r["metric"]): r for r in paired}
        self.methods = {(r["cell"], r["method"]): r for r in methods}

    def points(
        self, cell: str, method: str, against: str = "uniform_all_decay", metric: str = "test"
    ) -> str:
        """A difference in points and its standard error."""
        row = self.paired[cell, method, against, metric]
        error = 100 * float(row["standard_error"])
        return f"{100 * float(row['difference']):+.1f} ± {error:.1f}"

    def best(self, cell: str, methods: Sequence[str]) -> str:
        """The method that is highest on validation points."""
        return max(methods, key=lambda name: float(self.methods[cell, name]["validation"]))

    def seconds(self, cell: str, method: str, column: str = "seconds") -> dict[str, float | None]:
        """Seconds of each seed."""
        return {
            row["seed"]: float(row[column]) if row[column] else None
            for row in self.runs
            if (row["cell"], row["method"]) == (cell, method)
        }


SETS = ("Letters", "Fashion-MNIST", "OCR letters", "Tweets", "20 Newsgroups")
BUDGETS = ("uniform_all_decay", "all_minutes_reused", "all_minutes_charged")
RHO = "rho_crossfit_decay"


def lines_of_sets(suite: Suite, noise: str) -> list[str]:
    """The lines of the two tables of RHO-LOSS above its rivals."""
    rivals: dict[str, tuple[str, ...]] = {
        "uniform sampling, the same steps": BUDGETS[:1],
        "the same minutes, the IL at hand": BUDGETS[1:2],
        "the same minutes, the IL charged": BUDGETS[2:],
        "the points with the lowest IL, the same minutes": (
            "filter_60_minutes",
            "filter_90_minutes",
        ),
    }
    cells = [f"{name}, {noise}" for name in SETS]
    return [
        f"| {line} | "
        + " | ".join(suite.points(cell, RHO, suite.best(cell, of)) for cell in cells)
        + " |"
        for line, of in rivals.items()
    ]


def joined(numbers: Sequence[str]) -> str:
    return f"{', '.join(numbers[:-1])} and {numbers[-1]}"


def sentences_of_sets(suite: Suite) -> dict[str, str]:
    """What the text below the tables says, by a name for each number."""
    noisy = [f"{name}, 40 % noise" for name in SETS]
    met = [cell for cell in noisy if suite.methods[cell, RHO]["reached"] == "5"]
    assert [cell.partition(",")[0] for cell in met] == [name for name in SETS if name != "Tweets"]
    factors = [
        joined([f"{float(suite.methods[cell, RHO][column]):.1f}" for cell in met])
        for column in ("factor", "factor_reused")
    ]
    costs, earned = [], []
    for cell in {cell for cell, _ in suite.methods}:
        uniform, il = suite.seconds(cell, BUDGETS[0]), suite.seconds(cell, RHO, "il_seconds")
        costs.append(fmean(il[seed] / uniform[seed] for seed in il))  # type: ignore[operator]
        if cell in met:
            target = suite.seconds(cell, RHO, "seconds_to_target")
            earned.append(
                median(il[seed] / (uniform[seed] - target[seed]) for seed in il)  # type: ignore[operator]
            )
    overfit = [
        suite.points(cell, RHO, suite.best(cell, BUDGETS))
        for cell in ("Tweets, 40 % noise", "20 Newsgroups, 40 % noise")
    ]
    leads = [float(suite.points(cell, RHO, BUDGETS[1]).partition(" ")[0]) for cell in noisy]
    ahead = sorted(lead for lead in leads if lead > 0)
    assert (len(ahead), len(leads)) == (4, 5)
    return {
        "lead": f"it leads by {ahead[0]} to {ahead[-1]} points on four of five sets where",
        "steps": f"the end of uniform sampling in {factors[0]} times fewer steps",
        "sooner": f"Then it is {factors[1]} times sooner on the same four sets",
        "cost": f"It costs {min(costs):.1f} to {max(costs):.1f} times the seconds of a uniform run",
        "earned": f"is earned back by {math.ceil(min(earned))} to {math.ceil(max(earned))} models",
        "overfit": f"by validation, it is {overfit[0]} and {overfit[1]} points there",
    }


LARGER = {
    "MLP of 3 x 768": ("minutes-full", "OCR letters, MLP of 3 x 768, 40 % noise"),
    "residual net": ("minutes-full", "Fashion-MNIST, residual net, 20 % noise"),
    "small transformer": ("one_store-quick", "Tweets, transformer"),
    "residual net, clean labels": ("one_store-quick", "OCR letters, residual net"),
    "CNN, clean labels": ("one_store-quick", "OCR letters, CNN"),
}


def lines_of_larger_models() -> list[str]:
    lines = []
    for model, (place, cell) in LARGER.items():
        suite, ours = Suite(place), RHO
        if place == "minutes-full":
            ours = "candidates-large_batch-160"
        numbers = " | ".join(suite.points(cell, ours, rival) for rival in BUDGETS)
        name = cell.partition(",")[0] + (", " + cell.rpartition(", ")[2] if "%" in cell else "")
        lines.append(f"| {model} | {name} | {numbers} |")
    return lines


def sentences_of_other_suites() -> dict[str, str]:
    minutes, store = Suite("minutes-full"), Suite("one_store-quick")
    quality, every = Suite("il_quality-quick"), Suite("noise_budgets-quick")
    figure3, worst, web = (Suite(f"{name}-quick") for name in ("properties", "worst_class", "web"))
    bf16 = float(minutes.methods[LARGER["MLP of 3 x 768"][1], "bf16"]["factor_reused"])
    il = store.methods["Tweets, transformer", RHO]
    cells = dict.fromkeys(cell for cell, *_ in quality.paired)
    epochs, folds = (
        [quality.points(cell, method).removeprefix("-").removeprefix("+") for cell in cells]
        for method in ("rho_crossfit-epochs-1", "rho_crossfit-folds-4")
    )
    without = ("train_loss", "selective_backprop", "importance", "rho_holdout")
    noisy, clean = (
        [every.points(f"OCR letters, {noise}, 1,000 steps", m, "uniform_half") for m in without]
        for noise in ("40 % noise", "as it is")
    )
    copies = [
        figure3.points("Letters, copies", method, "uniform_half")
        for method in ("grad_norm", "train_loss", "rho_holdout")
    ]
    rare = figure3.points("Letters, less relevant classes", "rho_holdout", "uniform_half")
    sets = ("Letters", "OCR letters")
    rho, reducr = (
        [worst.points(f"{name}, as it is", method, metric="worst_class") for name in sets]
        for method in (RHO, "reducr")
    )
    scraped = [web.points(name, RHO) for name in dict.fromkeys(cell for cell, _ in web.methods)]
    return {
        "bf16": f"meets the end of uniform sampling {bf16:.1f} times sooner, the IL at hand",
        "bag": f"whose training takes {float(il['il_seconds']):.1f} seconds beside the "
        f"{float(store.methods['Tweets, transformer', BUDGETS[0]]['seconds']):.1f} of the",
        "epochs": f"RHO-LOSS ends {epochs[0]} points (Letters, 40 % noise) and {epochs[1]} points "
        "(OCR letters) below",
        "folds": f"three quarters of the points, {folds[0]} and {folds[1]} above",
        "noisy": f"the highest training loss ends at {noisy[0]} points, selective backprop "
        f"{noisy[1]}, importance sampling {noisy[2]} and RHO-LOSS {noisy[3]}",
        "clean": f"On clean labels they gain as well, without the cost of IL: {joined(clean)}",
        "copies": f"gain as much as RHO-LOSS ({joined(copies)} points)",
        "rare": f"RHO-LOSS ends below uniform sampling ({rare})",
        "worst": f"ends {rho[0]} points (Letters) and {rho[1]} points (OCR letters) above that of "
        f"uniform sampling, REDUCR's {reducr[0]} and {reducr[1]}",
        "web": f"RHO-LOSS ends {joined(scraped)} points",
    }


def sentences_of_norms() -> dict[str, str]:
    """What BatchNorm makes of points that were chosen."""
    suite, cell = Suite("batch_norm-quick"), LARGER["residual net"][1]
    chosen, anew, mode = (
        [suite.points(cell, f"{name}-large_batch-{drawn}") for drawn in (320, 160)]
        for name in ("chosen", "anew", "train_mode")
    )
    plain = suite.points(cell, "uniform_anew")
    return {
        "chosen": f"ends at {chosen[0]} points with 320 candidates for a step",
        "anew": f"taken anew, {anew[0]}; scored in training mode, as the paper does, {mode[0]}",
        "few": f"with 160 {chosen[1]}, {anew[1]} and {mode[1]}, and uniform sampling gains {plain}",
    }


def test_experiments_in_the_readme_are_rows_of_results() -> None:
    text = readme()
    tuned = Suite("tuned-quick")
    clean, noisy = text.split("| labels as they are |")[1].split("| 40 % of the labels wrong |")
    for table, noise in ((clean, "as it is"), (noisy, "40 % noise")):
        for line in lines_of_sets(tuned, noise):
            assert line in table
    wanted = [*lines_of_larger_models(), *sentences_of_sets(tuned).values()]
    wanted += sentences_of_other_suites().values()
    for sentence in (*wanted, *sentences_of_norms().values()):
        assert sentence in text


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), flags=re.DOTALL)
    assert blocks
    before = set(names())
    monkeypatch.chdir(tmp_path)
    # One after the other in one namespace, as a reader would paste them.
    namespace: dict[str, object] = {}
    try:
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    finally:
        # What a reader registers, others here do as well.
        for name in set(names()) - before:
            unregister(name)
