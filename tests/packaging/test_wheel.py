"""What was installed: both packages, their data, the command, and nothing of the build."""

from __future__ import annotations

import csv
import doctest
import importlib
import importlib.metadata
import math
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import rho_ext
import rho_train


def _installed() -> list[str]:
    files = importlib.metadata.files("rho-ext")
    assert files is not None
    return [str(path) for path in files]


def test_package_data_is_there_and_sources_are_not() -> None:
    installed = _installed()
    if any("editable" in path for path in installed):
        pytest.skip("an editable install keeps its files in the source tree")
    for name in (
        "rho_ext/py.typed",
        "rho_train/py.typed",
        "rho_train/data/letter_recognition.npz",
        "rho_train/report/template.html",
        "rho_train/report/chart.css",
        "rho_train/report/selection.svg",
    ):
        assert name in installed
    assert any(re.match(r"rho_ext/_C\..*so$", path) for path in installed)
    assert any(path.endswith("letter_recognition.LICENSE") for path in installed)
    sources = (".cpp", ".cu", ".cuh", ".h", ".inc", ".o")
    assert not [path for path in installed if path.endswith(sources)]
    tops = {path.partition("/")[0] for path in installed if not path.startswith("..")}
    assert tops - {"rho_ext", "rho_train"} == {f"rho_ext-{rho_ext.__version__}.dist-info"}


def test_command_is_declared() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert scripts["rho-ext"].value == "rho_train.cli:main"


def _modules(package: ModuleType) -> list[str]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    # _cuda is a library of ops, which torch loads where it has CUDA, and no module of Python.
    others = ("__main__", "_cuda")
    return [package.__name__, *(m.name for m in found if not m.name.endswith(others))]


@pytest.mark.parametrize("name", _modules(rho_ext) + _modules(rho_train))
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_public_names_have_documentation() -> None:
    for package in (rho_ext, rho_train):
        for name in package.__all__:
            assert (getattr(package, name).__doc__ or "").strip(), f"{package.__name__}.{name}"


def test_numbers_in_the_readme_are_rows_of_results() -> None:
    root = Path(__file__).parents[2]
    text = " ".join((root / "README.md").read_text().split())

    def rows(folder: str) -> list[dict[str, str]]:
        path = root / "benchmarks" / "results" / folder / "summary.csv"
        return list(csv.DictReader(path.read_text().splitlines()))

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
    uniform, charged = float(long[1]["seconds"]), float(rows("demo")[4]["charged_seconds"])
    assert f"In {uniform:.1f} seconds, little more than the {charged:.1f} that" in text
    final = f"{float(rows('demo')[4]['accuracy']):.1%}".replace("%", " %")
    assert f"makes 12,000 steps and ends at {ends[1]}, RHO-LOSS at {final}" in text


def test_times_of_stores_in_the_readme_are_rows_of_results() -> None:
    root = Path(__file__).parents[2]
    text = " ".join((root / "README.md").read_text().split())
    file = root / "benchmarks" / "results" / "il_store" / "epyc.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert {row["rows"] for row in rows} == {"100000000"}
    ms = {(row["layout"], row["what"]): float(row["median_ms"]) for row in rows}
    opened = f"{ms['file', 'open']:.2f} ms and 25 shards in {ms['shards', 'open']:.1f} ms"
    assert f"With 100,000,000 rows a file opens in {opened}" in text
    ids = f"{ms['file', '4096 ids']:.2f} ms and {ms['shards', '4096 ids']:.2f} ms"
    assert f"4,096 random ids take {ids}" in text


def test_speeds_in_the_readme_are_rows_of_results() -> None:
    root = Path(__file__).parents[2]
    text = " ".join((root / "README.md").read_text().split())
    results = root / "benchmarks" / "results"
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for row in csv.DictReader((results / "select" / "xeon.csv").read_text().splitlines()):
        cell = tuple(row[name] for name in ("n", "classes", "dtype", "k"))
        cells.setdefault(cell, {})[row["provider"]] = float(row["median_us"])

    def mean(ratios: list[float]) -> str:
        return f"{math.prod(ratio ** (1 / len(ratios)) for ratio in ratios):.1f}x"

    lines = (root / "README.md").read_text().splitlines()
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
    assert f"{min(best[c] / cells[c]['rho_ext'] for c in large):.1f}x the better" in text
    assert f"takes less it is {mean([best[c] / cells[c]['rho_ext'] for c in small])} the" in text
    rows = csv.DictReader((results / "dispatch" / "xeon.csv").read_text().splitlines())
    call = {row["path"]: row for row in rows}["rho_ext.select"]
    assert f"a call costs {float(call['median_us']):.0f} microseconds" in text
    assert f"{float(call['over_cheapest']):.1f}x that of a torch custom op" in text
    parts: dict[str, list[float]] = {}
    over: dict[tuple[str, ...], str] = {}
    for row in csv.DictReader((results / "step" / "epyc-zen4.csv").read_text().splitlines()):
        if row["step"] == "rho_ext":
            parts.setdefault(row["part"], []).append(float(row["share_of_step"]))
        if row["part"] == "total":
            cost = f"{float(row['over_uniform']):.2f}"
            over[row["model"], row["large_batch"], row["step"]] = cost
    assert f"it takes at most {max(parts['op']):.0%}".replace("%", " %") in text
    forward = f"{min(parts['score']):.0%} to {max(parts['score']):.0%}".replace("%", " %")
    assert f"the forward pass over the large batch {forward}" in text
    mlp = [over["mlp", n, "selector"] for n in ("96", "160", "320")]
    assert f"{mlp[0]} times as long as a uniform one with n_B = 96" in text
    assert f"{mlp[1]} with 160 and {mlp[2]} with 320" in text
    assert f"a quarter of the width ({over['mlp', '320', 'proxy']} with 320)" in text
    dearer = ("bf16", "micro_batch", "compile", "refresh")
    assert all(
        float(over["mlp", n, step]) > float(over["mlp", n, "selector"])
        for n in ("96", "160", "320")
        for step in dearer
    )
    cnn = {step: over["cnn", "160", step] for step in ("selector", *dearer, "proxy")}
    assert f"it takes {cnn['selector']} times as long, in bfloat16 {cnn['bf16']}" in text
    assert f"half of the losses anew {cnn['refresh']}, 64 points at a time" in text
    assert f"at a time {cnn['micro_batch']}, with the proxy {cnn['proxy']}. So measure." in text


def test_what_scoring_ahead_costs_is_in_rows_of_results() -> None:
    root = Path(__file__).parents[2]
    path = root / "benchmarks" / "results" / "step" / "epyc-zen4-ahead.csv"
    spent = {
        (row["model"], row["large_batch"], row["step"]): float(row["median_us"])
        for row in csv.DictReader(path.read_text().splitlines())
        if row["part"] == "total"
    }

    def ratios(model: str) -> list[str]:
        sizes = ("96", "160", "320", "1280")
        return [f"{spent[model, n, 'ahead'] / spent[model, n, 'selector']:.2f}" for n in sizes]

    text = " ".join((root / "README.md").read_text().split())
    mlp, cnn = ratios("mlp"), ratios("cnn")
    assert f"a step of the MLP takes {mlp[0]} of the time" in text
    assert f"n_B = 96, {mlp[1]} with 160, {mlp[2]} with 320, and {mlp[3]} with 128 of" in text
    assert f"one of the CNN {', '.join(cnn[:3])} and {cnn[3]}. On CUDA" in text


def test_experiments_in_the_readme_are_rows_of_results() -> None:
    root = Path(__file__).parents[2]
    text = " ".join((root / "README.md").read_text().split())
    results = root / "benchmarks" / "experiments" / "results"

    def rows(suite: str, table: str) -> list[dict[str, str]]:
        path = results / f"{suite}-quick" / f"{table}.csv"
        return list(csv.DictReader(path.read_text().splitlines()))

    def points(suite: str, method: str, against: str, cell: str = "") -> list[str]:
        return [
            f"{100 * float(row['difference']):+.1f}"
            for row in rows(suite, "paired")
            if (row["method"], row["against"], row["metric"]) == (method, against, "test")
            and row["cell"].endswith(cell)
        ]

    tables = text.split("labels as they are; uniform")[1].split("40 % of the labels wrong; uniform")
    for table, noise in zip(tables, ("as it is", "40 % noise"), strict=True):
        for line, against in (
            ("the same steps", "uniform_all_decay"),
            ("the same minutes, the IL at hand", "all_minutes_reused"),
            ("the same minutes, the IL charged to this target", "all_minutes_charged"),
        ):
            quoted = " | ".join(points("tuned", "rho_crossfit_decay", against, cell=noise))
            assert f"| {line} | {quoted} |" in table
    sooner = {
        row["cell"].partition(",")[0]: [f"{float(row[f]):.1f}" for f in ("factor", "factor_reused")]
        for row in rows("tuned", "methods")
        if row["method"] == "rho_crossfit_decay" and row["cell"].endswith("40 % noise")
        if int(row["reached"]) == 5
    }
    assert list(sooner) == ["Letters", "Fashion-MNIST", "OCR letters", "20 Newsgroups"]
    steps = [f"{factor} ({name})" for name, (factor, _) in sooner.items()]
    *seconds, last = [reused for _, reused in sooner.values()]
    wanted = f"{', '.join(steps[:-1])} and {steps[-1]} times fewer steps and"
    assert f"{wanted} {', '.join(seconds)} and {last} times sooner, the IL at hand" in text
    leads = points("tuned", "rho_crossfit_decay", "all_minutes_reused", cell="40 % noise")
    ahead = sorted(lead[1:] for lead in leads if lead[0] == "+")
    assert (len(ahead), len(leads)) == (4, 5)
    assert f"it leads by {ahead[0]} to {ahead[-1]} points on four of five sets" in text
    behind = sorted(
        points("tuned", "rho_crossfit_decay", against, cell=f"Tweets, {noise}")[0][1:]
        for against in ("uniform_all_decay", "all_minutes_reused")
        for noise in ("as it is", "40 % noise")
    )
    assert (
        f"it ends {behind[0]} to {behind[-1]} points below uniform sampling on tweets and" in text
    )
    (clean,) = points("tuned", "rho_crossfit_decay", "uniform_all_decay", "20 Newsgroups, as it is")
    assert f"on tweets and {clean[1:]} points on 20 Newsgroups as they are" in text
    cell = "OCR letters, 40 % noise, 1,000 steps"
    names = (
        "train_loss grad_norm selective_backprop importance rho_crossfit_decay reducr class_quota"
    )
    loss, norm, backprop, drawn, rho, reducr, quotas = (
        float(points("noise_budgets", method, "uniform_all_decay", cell)[0])
        for method in names.split()
    )
    below = f"{-loss:.0f} and {-norm:.0f} points below uniform sampling with a decayed rate after"
    others = f"selective backprop {-backprop:.1f} and importance sampling {-drawn:.1f}"
    above = f"RHO-LOSS ends {rho:.1f} above, REDUCR {reducr:.1f}, class quotas {quotas:.1f}"
    assert f"{below} 1,000 steps, {others}; {above}" in text
    quality = {
        method: [value[1:] for value in points("il_quality", method, "uniform_all_decay")]
        for method in ("rho_crossfit-epochs-1", "rho_width-widths-16", "rho_crossfit-folds-4")
    }
    (a, b), (x, y), (c, z) = quality.values()
    assert f"ends {a} points (Letters, 40 % noise) and {b} points (OCR letters) below" in text
    assert f"16 units {x} and {y} below; with four folds" in text
    assert f"of the points, {c} and {z} above" in text

    def gains(suite: str, metric: str) -> list[str]:
        return [
            f"{100 * float(row['difference']):.1f} ± {100 * float(row['standard_error']):.1f}"
            for row in rows(suite, "paired")
            if (row["method"], row["against"]) == ("rho_crossfit_decay", "uniform_all_decay")
            if row["metric"] == metric
        ]

    for suite, metric, above in (
        ("worst_class", "worst_class", "above that of uniform sampling"),
        ("web", "test", "above uniform sampling with a decayed rate"),
    ):
        a, b = gains(suite, metric)
        assert f"ends {a} points (Letters) and {b} points (OCR letters) {above}" in text
    ours, other = (
        [row for row in rows("web", "methods") if row["method"] == method]
        for method in ("rho_crossfit_decay", "uniform_all_decay")
    )
    a, b, x, y = (f"{float(row['noisy']):.0%}".replace("%", " %") for row in (*ours, *other))
    assert f"trains on {a} and {b} wrong labels in place of {x} and {y}" in text
    assert float(ours[0]["factor"]) < 1
    fewer = f"{float(ours[1]['factor']):.1f} times fewer steps on OCR letters and no fewer"
    assert f"it meets in {fewer} on Letters" in text
    (a,), (b,) = (
        points("one_store", "rho_crossfit_decay", against, cell="CNN")
        for against in ("uniform_all_decay", "all_minutes_reused")
    )
    assert f"of 128 ends {a[1:]} points below uniform sampling after the same steps" in text
    assert f"and {b[1:]} points in the same minutes" in text
    assert (a[0], b[0]) == ("-", "-")
    (a,), (b,), (c,) = (
        points("one_store", "rho_crossfit_decay", against, cell="transformer")
        for against in ("uniform_all_decay", "all_minutes_reused", "all_minutes_charged")
    )
    assert f"ends {a[1:]} points above uniform sampling after the same steps and {b[1:]}" in text
    assert f"in the same minutes, {c[1:]} with the IL charged, and meets its end" in text
    (transformer,) = (
        row
        for row in rows("one_store", "methods")
        if row["method"] == "rho_crossfit_decay" and row["cell"].endswith("transformer")
    )
    at_hand, charged = (float(transformer[f"factor_{il}"]) for il in ("reused", "charged"))
    assert f"its end {at_hand:.1f} times sooner with the IL at hand, {charged:.1f} times" in text
    (a,), (b,) = (
        points("one_store", "rho_crossfit_decay", against, cell="residual net")
        for against in ("uniform_all_decay", "all_minutes_reused")
    )
    assert f"a residual net {a[1:]} and {b[1:]} points ([one store]" in text
    assert (a[0], b[0]) == ("-", "-")
    large = "candidates-large_batch-160"
    (above,), (below,) = (
        points("minutes", large, f"all_minutes_{il}") for il in ("reused", "charged")
    )
    assert (
        f"ends {above[1:]} points above uniform sampling in the same minutes with the IL at" in text
    )
    assert f"the IL at hand and {below[1:]} below with the IL charged" in text
    (half,) = (row for row in rows("minutes", "methods") if row["method"] == "bf16")
    assert f"{float(half['factor_reused']):.1f} times sooner, the IL at hand." in text
    run = next(row for row in rows("minutes", "runs") if row["il_flops"])
    assert f"At {float(run['flops']) / float(run['il_flops']):.0f} times its cost" in text


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    # One after the other in one namespace, as a reader would paste them.
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
