"""Write the tables of the pages from the committed rows.

python benchmarks/tables.py          # rewrites the text from <!-- table: NAME --> to <!-- end -->
python benchmarks/tables.py --check  # prints a diff and exits 1 if that would change a page
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from experiments import rivals_page, small_tables
from experiments.derive import Method
from experiments.page import markdown, suites
from keep import Row, read_csv

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_MARKED = re.compile(r"<!-- table: (?P<name>.+?) -->\n(?P<old>.*?)<!-- end -->", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, or 1 where `--check` found a table that is not as the rows say."""
    parser = argparse.ArgumentParser(prog="python benchmarks/tables.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 on a difference"
    )
    parser.add_argument("pages", nargs="*", type=Path, help="none: all pages with tables")
    arguments = parser.parse_args(argv)
    different = False
    for page in arguments.pages or pages():
        old = page.read_text(encoding="utf-8")
        new = written(old, f"{page}")
        if new == old:
            continue
        different = True
        if arguments.check:
            lines = (text.splitlines(keepends=True) for text in (old, new))
            name = f"{page}"
            sys.stdout.writelines(difflib.unified_diff(*lines, name, f"{name} from the rows"))
        else:
            page.write_text(new, encoding="utf-8")
            print(f"{page}: written")
    return int(different and arguments.check)


def pages() -> list[Path]:
    """Return the pages that may hold tables."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    found += sorted(ROOT.glob("benchmarks/**/*.md"))
    return [page for page in found if "<!-- table: " in page.read_text(encoding="utf-8")]


def written(text: str, where: str) -> str:
    """Return the text of a page with its tables from the rows.

    Raises:
        ValueError: a table has no end or an unknown name.
    """

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"{where}: no table {name!r}; choose among {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n\n{TABLES[name]()}\n\n<!-- end -->"

    new, count = _MARKED.subn(table, text)
    if count != text.count("<!-- table: "):
        raise ValueError(f"{where}: a table has no <!-- end --> before the next one begins")
    return new


def _rows(subject: str, **where: str) -> list[Row]:
    rows = read_csv(RESULTS / subject / "runs.csv")
    return [row for row in rows if where.items() <= row.items()]


def _share(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


_REACHED = ("target_steps", "target_cost")


def demo() -> str:
    """Return the methods of `rho-ext demo`."""
    names = {
        "uniform_half": "uniform, half of the data",
        "uniform_all": "uniform, all data",
        "smoothing": "uniform, all data, label smoothing 0.3",
        "agreement": "agreement, all data, label smoothing 0.3",
        "train_loss": "highest training loss, half",
        "rho_holdout": "RHO-LOSS, half, IL from the other half",
        "rho_crossfit": "RHO-LOSS, all, cross-fit IL",
    }
    rows = [
        [
            names[row["method"]],
            _share(float(row["accuracy"]), 1),
            _share(float(row["noisy"]), 1),
            *(f"{float(row[name]):,.0f}" if row[name] else "never" for name in _REACHED),
            f"{float(row['total']):,.0f}",
            f"{float(row['seconds']):.1f}",
        ]
        for row in _rows("demo")
    ]
    head = ["trains on", "final accuracy", "wrong labels among these", "steps to target"]
    return markdown([*head, "cost to target", "cost in all, with IL", "seconds"], rows)


def rivals(column: str = "test") -> str:
    """Return the accuracy of all methods, the best form and budget of each by validation."""
    methods = [method for method in rivals_page.FORMS if method != "best uniform"]
    lines = rivals_page.accuracies(methods, column)
    used = [i for i, texts in enumerate(zip(*lines, strict=True)) if any(texts)]
    head = ["set, labels", *methods]
    return markdown([head[i] for i in used], [[line[i] for i in used] for line in lines])


def differences() -> str:
    """Return differences of pairs of methods, seed by seed."""
    ours = ("agreement", "RHO-LOSS", "RHO-LOSS, IL free", "filter", "filter, IL free")
    pairs = [(method, "best uniform") for method in ours]
    head = ["set, labels", *(f"{ours} - {rival}" for ours, rival in pairs)]
    return markdown(head, rivals_page.differences(pairs))


def agreement() -> str:
    """Return what agreement gains by the number of passes."""
    head = ["set, labels", *(f"minus GCE, {passes} passes" for passes in (4, 8, 16))]
    return markdown([*head, "wrong among the last visits, %"], rivals_page.agreement())


def signs() -> str:
    """Return where agreement ends by what it learns from, beside what else is made of IL."""
    heads = {
        "agreement": "margin",
        "agreement by loss": "`chance - losses`",
        "agreement by loss - IL, IL free": "`losses - il`",
        "agreement by IL - loss, IL free": "`il - losses`",
        "filter, IL free": "filter, IL free",
        "RHO-LOSS, IL free": "RHO-LOSS, IL free",
        "smoothing": "uniform, smoothing",
    }
    return markdown(["set, labels", *heads.values()], rivals_page.visits([*heads]))


def scraped() -> str:
    """Return where methods end on scraped data, with copies and without."""
    methods = ("uniform", "smoothing", "GCE", "agreement", "RHO-LOSS", "RHO-LOSS, IL free")
    head = ["trains on", "accuracy", "balanced", "copies removed: accuracy", "balanced"]
    return markdown(head, rivals_page.scraped((*methods, "filter, IL free", "true labels")))


def language() -> str:
    """Return where the methods of the language model end, by kind of text, at their best rates."""
    names = {
        "uniform": "uniform sampling",
        "tokens": "RHO-LOSS, 60 % of the tokens",
        "sequences": "RHO-LOSS, 8 of 24 sequences",
        "fewer_steps": "uniform sampling, the steps of these",
        "filter": "uniform sampling of the 60 % with the lowest IL",
        "with_il": "uniform sampling, with the cost of the IL",
        "reference": "the reference: useful text of other posts alone",
    }
    found = _rows("language")
    unit = float(next(row for row in found if row["method"] == "uniform")["cost"])
    texts = list(dict.fromkeys(row["text"] for row in found))
    rows = []
    for method, label in names.items():
        cells = []
        for text in texts:
            runs = [row for row in found if (row["text"], row["method"]) == (text, method)]
            tuned = [row for row in runs if row["seed"] == "0"]
            lr = min(tuned, key=lambda row: float(row["validation"]))["lr"]
            ends = [row for row in runs if row["lr"] == lr]
            loss = [float(row["test_loss"]) for row in ends]
            cells.append(f"{fmean(loss):.3f} ± {stdev(loss) / len(loss) ** 0.5:.3f}")
            cells.append(_share(fmean(float(row["useless"]) for row in ends)))
        cost, il = (float(ends[0][name]) / unit for name in ("cost", "il_cost"))
        spent = f"{cost:.2f}" + (f" + {il:.2f}" if il else "")
        rows.append([label, ends[0]["steps"], spent, *cells])
    heads = (of for text in texts for of in (f"{text}: nats a token", "useless among these"))
    return markdown(["trains on", "steps", "cost, + IL", *heads], rows)


def minilm() -> str:
    """Return where MiniLM ends on tweets."""
    names = {
        "uniform": "uniform sampling",
        "smoothing": "the same, label smoothing 0.1",
        "rho": "RHO-LOSS, 16 of 48",
        "fewer_steps": "uniform sampling, the steps of RHO-LOSS",
    }
    scores = ("accuracy", "balanced", "worst_class")
    uniform = [row for row in _rows("minilm", method="uniform") if row["accuracy"]]
    rows = []
    for name, label in names.items():
        ends = [row for row in _rows("minilm", method=name) if row["accuracy"]]
        if not ends:
            continue
        of = Method([{**row, "label": label} for row in ends])
        cells = [f"{float(ends[0]['lr']):g}", ends[0]["steps"]]
        cells.append(f"{fmean(float(row['cost']) for row in ends) / 1e12:.2f}")
        for score in scores:
            above = of.above(uniform, score)
            if name == "uniform" or above is None:
                mean, error = of.mean(score) or 0.0, of.error(score) or 0.0
                cells.append(f"{100 * mean:.1f} ± {100 * error:.1f}")
            else:
                cells.append(above.points)
        unsure = of.mean("unsure")
        rows.append([label, *cells, "" if unsure is None else _share(unsure, 1)])
    head = ["trains on", "rate", "steps", "cost, 10^12", "accuracy", "balanced", "worst class"]
    return markdown([*head, "unsure among selected"], rows)


def heads() -> str:
    """Return time and memory of linear heads without logits, in those of logits with their loss."""
    found = {
        (row["tokens"], row["hidden"], row["vocabulary"], row["ratio"]): row
        for row in _rows("linear", provider="rho_ext", dtype="float32", machine="epyc-zen5")
    }
    ratios = ("1.0", "0.6", "0.25")
    rows = []
    for size in dict.fromkeys(key[:3] for key in found):
        own = [found[(*size, ratio)] for ratio in ratios]
        cells = [f"{float(row['over_logits']):.2f}" for row in own]
        most = max(float(row["memory_over_logits"]) for row in own)
        rows.append([" x ".join(f"{int(part):,}" for part in size), *cells, f"{most:.2f}"])
    head = ["tokens x hidden x vocabulary", *(f"time, ratio {float(r):g}" for r in ratios)]
    return markdown([*head, "memory, at most"], rows)


def scoring() -> str:
    """Return the length of a step with every option of the scoring, in uniform steps."""
    options = {
        "as it is": "selector",
        "`scoring=Scoring(bf16=True)`": "bf16",
        "`scoring=Scoring(compile=True)`": "compile",
        "`scorer=proxy`": "proxy",
        "`scoring=Scoring(micro_batch=64)`": "micro_batch",
    }
    cost = {
        (row["step"], row["model"], row["large_batch"]): f"{float(row['over_uniform']):.1f}"
        for row in _rows("step", machine="xeon")
        if row["over_uniform"]
    }
    where = [(model, size) for model in ("mlp", "cnn") for size in ("96", "160", "320")]
    rows = [
        [option, *(cost.get((kind, *of), "") for of in where)] for option, kind in options.items()
    ]
    head = ["`Selector(...)`", "MLP, n_B = 96", "160", "320", "CNN, n_B = 96", "160", "320"]
    return markdown(head, rows)


def _times(machine: str, *, hot: bool = False) -> list[Row]:
    rows = _rows("select", machine=machine)
    return [row for row in rows if (row["cache"] == "hot") == hot]


def fast() -> str:
    """Return the times of a selection beside what one would write instead."""
    sizes = (
        *("32 x 10 float32", "320 x 10 float32", "65536 x 10 float32", "65536 x 100 float32"),
        *("320 x 1000 float32", "4096 x 1000 bfloat16", "65536 x 1000 bfloat16"),
        *("4096 x 32000 float32", "4096 x 50257 bfloat16"),
    )
    found = {
        f"{row['n']} x {row['classes']} {row['dtype']}": row
        for row in _times("epyc-zen4")
        if int(row["k"]) == max(1, int(row["n"]) // 10)
    }
    shown = ("eager", "eager_float32", "compile", "rho_ext", "read")
    rows = [
        [size, *(f"{float(found[size][name]):,.0f}" if found[size][name] else "" for name in shown)]
        for size in sizes
    ]
    head = ["n x C", "eager", "eager, float32", "torch.compile", "rho_ext", "`logits.sum()`"]
    return markdown(head, rows)


def floor() -> str:
    """Return mean speed-ups over eager and torch.compile, and those that are attainable."""
    groups: dict[str, Callable[[Row], bool]] = {
        "2 and 10 classes": lambda row: int(row["classes"]) <= 10,
        "100 classes": lambda row: row["classes"] == "100",
        **{
            f"1000 classes and more, {dtype}": lambda row, dtype=dtype: (
                int(row["classes"]) >= 1000 and row["dtype"] == dtype
            )
            for dtype in ("float32", "bfloat16", "float16")
        },
    }
    large = [row for row in _times("epyc-zen4") if _rival(row) >= 50]
    rows = []
    for name, belongs in groups.items():
        group = [row for row in large if belongs(row)]
        cells = []
        for ours in (lambda row: float(row["rho_ext"]), _attainable):
            means = [
                _geometric(float(row[rival]) / ours(row) for row in group)
                for rival in ("eager", "compile")
            ]
            cells.append(" / ".join(f"{mean:.{1 if mean < 10 else 0}f}x" for mean in means))
        rows.append([f"{len(group)} of {name}", *cells])
    return markdown(["sizes of 50 us or more", "now", "at that floor"], rows)


def bandwidth() -> str:
    """Return the shares of a read's bandwidth that long rows reach."""
    rows = []
    for machine in ("epyc-zen4", "xeon"):
        row = [machine]
        for dtype in ("float32", "bfloat16", "float16"):
            shares = [
                float(row["share_of_read"])
                for row in _times(machine)
                if row["dtype"] == dtype and row["cache"] == "cold"
                if int(row["classes"]) >= 1000 and _rival(row) >= 50
            ]
            row.append(f"{_share(min(shares))} to {_share(max(shares))}")
        rows.append(row)
    return markdown(["machine", "float32", "bfloat16", "float16"], rows)


def _rival(row: Row) -> float:
    return min(float(row["eager"]), float(row["compile"]))


def _attainable(row: Row) -> float:
    reads = [float(row[name]) for name in ("read", "read_as_float32") if row[name]]
    return max(min(reads), float(row["empty_op"]))


def _geometric(ratios: Iterable[float]) -> float:
    return math.exp(fmean(math.log(ratio) for ratio in ratios))


TABLES: dict[str, Callable[[], str]] = {
    "demo": demo,
    "situations": lambda: markdown(
        ["if", "do", "because, in points"], rivals_page.situations()
    ).replace("---:", "---"),
    "rivals": rivals,
    "rivals, balanced": lambda: rivals("balanced"),
    "rivals, worst class": lambda: rivals("worst_class"),
    "differences": differences,
    "agreement": agreement,
    "agreement, signs": signs,
    "scraped": scraped,
    "language model": language,
    "MiniLM": minilm,
    "linear heads": heads,
    "scoring cost": scoring,
    "how fast": fast,
    "floor": floor,
    "bandwidth": bandwidth,
    "steering": small_tables.steering,
    "steering, best": small_tables.lead,
    "steering, unequal": small_tables.stated,
    "steering, 900 steps": lambda: small_tables.stated(second=True),
    "unequal classes": lambda: small_tables.unequal(small_tables.REMEDY),
    "unequal classes, all": small_tables.unequal,
    "why rare classes are lost": small_tables.why,
    "wrong labels": small_tables.wrong_labels,
    "suites": suites,
}


if __name__ == "__main__":
    sys.exit(main())
