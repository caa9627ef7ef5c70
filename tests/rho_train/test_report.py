"""The report: reading folders, numbers paired by seed, figures, and the page in a browser."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rho_train.compare import Comparison
from rho_train.files import from_line
from rho_train.report import pair, read_experiment, write_report
from rho_train.report.experiment import Pair
from rho_train.report.figures import figures_of

from .folders import (
    FIGURES,
    NASTY,
    PLAIN,
    cost,
    end,
    hand_checkable,
    synthetic,
    write,
    write_plan,
    write_run,
)


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose numbers can be done by hand; read only, with its report."""
    out = tmp_path_factory.mktemp("hand")
    hand_checkable(out)
    write_report(out)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a report can show; read only, with its report."""
    out = tmp_path_factory.mktemp("whole")
    synthetic(out, seeds=2)
    write_report(out)
    return out


def change_plan(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = out / "experiment.json"
    plan = from_line(path.read_bytes(), path)
    change(plan)
    write(path, plan)


def figures(out: Path) -> dict[str, str]:
    found = figures_of(read_experiment(out))
    return {name: svg for name, (_, _, svg) in found.items()}


def against(row: dict[str, Any]) -> Pair:
    """The medians of a method's pairs with the baseline."""
    return Pair(*(row[name] for name in Pair._fields))


def result(page: str) -> str:
    """The result in words, as people see it."""
    text = page.split('<p class="result">')[1].split("</p>")[0]
    return " ".join(html.unescape(re.sub("<[^>]*>", "", text)).split())


def cells(page: str, heading: str) -> list[list[str]]:
    """The body of the first table after a heading, as people see it."""
    body = page.split(f'id="{heading}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub("<[^>]*>", "", t)).strip() for t in row] for row in texts]


def test_numbers_by_hand_are_paired_by_seed(hand: Path) -> None:
    experiment = read_experiment(hand)
    base, fast, slow = experiment.methods.values()
    # Targets .6, .9, .5; `fast` meets them at step 10, never, 20. Against the mean target 2/3 it
    # would be 20, 20, never. A step of it costs 1.5, its IL 25 in all.
    assert (fast["reached"], fast["paired"]) == (2, 3)
    assert against(fast) == (20, 25 + 30, 20 / 40, 1.0, inf)
    assert (slow["reached"], against(slow)[:3]) == (1, (inf, inf, 0))
    assert (base["reached"], against(base)[:3]) == (3, (30, 30, 1))
    assert all(map(math.isnan, (*against(slow)[3:], *against(base)[3:])))
    assert fast["accuracy"] == pytest.approx(0.75)
    assert fast["accuracy_error"] == pytest.approx(math.sqrt(0.035 / 2 / 3))
    assert fast["gain"] == pytest.approx(0.1)
    assert fast["ahead"] == 2
    assert fast["noisy"] == pytest.approx(0.1)
    assert fast["correct"] == pytest.approx(0.5)
    assert (fast["total"], fast["seconds"]) == (25 + 45, pytest.approx(3.0 + 2.5))
    assert [fast[f"cost_{part}"] for part in ("training", "scoring", "il")] == [30, 15, 25]
    # The accuracies a, a / 2 and a^2 of the classes that the test set has.
    assert fast["worst"] == pytest.approx((0.4 + 0.425 + 0.3) / 3)
    assert fast["balanced"] == pytest.approx((0.75 * 1.5 + (0.8**2 + 0.85**2 + 0.6**2) / 3) / 3)
    assert experiment.target == pytest.approx((0.6 + 0.9 + 0.5) / 3)


def test_page_console_and_csv_hold_the_numbers_of_the_summary(hand: Path) -> None:
    experiment = read_experiment(hand)
    page, console = (hand / "report.html").read_text("utf-8"), f"{experiment}".splitlines()
    for index, columns in enumerate(experiment.tables.values(), 1):
        wanted = [list(row) for row in zip(*(column.cells for column in columns), strict=True)]
        found = cells(page, f"table-{index}")
        assert [row[1:] for row in found] == wanted
        assert [row[0].split()[-1] for row in found] == ["base", "fast", "slow"]
        lines = [line.split() for line in console if line.startswith("fast")]
        assert lines[index - 1] == ["fast", *" ".join(wanted[1]).split()]
        if index == 2:
            assert wanted[1] == ["30", "70", "30", "15", "25", "5.5"]
    assert index == 3
    assert wanted[1] == ["2 of 3", "20", "55", "0.50x", "1.00x", "never"]
    rows = list(csv.DictReader((hand / "summary.csv").read_text("utf-8").splitlines()))
    assert [row["method"] for row in rows] == ["base", "fast", "slow"]
    assert float(rows[1]["accuracy"]) == pytest.approx(0.75)
    assert (float(rows[1]["target_steps"]), rows[2]["target_steps"]) == (20, "")
    assert (float(rows[1]["total"]), float(rows[1]["cost_il"])) == (70, 25)


def test_the_result_in_words_states_wins_and_losses(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    text = result(write_report(tmp_path).read_text("utf-8"))
    assert "“fast” ends with a test accuracy of 75.0%, “base” with 65.0%, and is ahead in 2" in text
    assert "meets the best of “base” at 2.00 times the cost, IL included." in text
    labels = {"fast": "F", "slow": "S", "base": "B"}
    write_plan(tmp_path, labels, range(3), baseline="fast")
    lost = result(write_report(tmp_path).read_text("utf-8"))
    assert "“B” ends with a test accuracy of 65.0%, “F” with 75.0%, and is ahead in 1 of 3" in lost
    assert "In the median seed it does not meet the best test accuracy of “F”" in lost


def test_the_test_set_stands_apart_from_the_validation_curves(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    change_plan(tmp_path, lambda plan: plan["config"].update(validation=0.1))
    for method, tests in (("base", (0.7, 0.8, 0.9)), ("fast", (0.6, 0.6, 0.6)), ("slow", (0.5,))):
        for seed in range(3):
            file = tmp_path / "runs" / f"{method}-seed{seed}" / "test.json"
            if seed < len(tests):
                accuracy = tests[seed]
                write(file, {"accuracy": accuracy, "class_accuracy": [None, accuracy, 0.25]})
            else:
                file.unlink()
    experiment = read_experiment(tmp_path)
    base, fast, slow = experiment.methods.values()
    assert (base["test"], base["test_error"]) == pytest.approx((0.8, 0.1 / math.sqrt(3)))
    # A run that is not tested is not finished.
    assert (slow["test"], slow["finished"]) == (pytest.approx(0.5), 1)
    assert experiment.left_out == ["slow, seed 1: not tested", "slow, seed 2: not tested"]
    # What is watched decides who is ahead and when the target is met; the test set only confirms.
    assert (fast["accuracy"], fast["reached"]) == (pytest.approx(0.75), 2)
    page = write_report(tmp_path).read_text("utf-8")
    text = result(page)
    assert "“fast” ends with a validation accuracy of 75.0%, “base” with 65.0%" in text
    table = f"{experiment}"
    assert "base 65.0 ± 12.6 80.0 ± 5.8" in " ".join(table.split())
    assert "Target: the best validation accuracy of “base”" in table
    assert "<h3>Validation accuracy against steps</h3>" in page


def costly_run(out: Path, method: str, seed: int, il: float, *evals: tuple[int, float]) -> None:
    """A run with evaluations (cost without IL in uniform steps, accuracy) and steps as many."""
    records = [
        {"event": "eval", "step": s, "accuracy": a, "cost": cost(s, il=il)} for s, a in evals
    ]
    write_run(out, method, seed, [*records, end(evals[-1][0], il=il)])


def test_factors_and_models_agree_seed_by_seed(tmp_path: Path) -> None:
    random = Random(0)
    for case in range(60):
        out = tmp_path / f"{case}"
        seeds = range(random.randint(1, 4))
        write_plan(out, {"base": "B", "rho": "R"}, seeds, baseline="base")
        for seed in seeds:
            costly_run(out, "base", seed, 0.0, (0, 0.1), (random.randint(1, 9), 0.9), (10, 0.8))
            at, best = random.randint(1, 9), random.choice((0.5, 0.9, 0.9))
            costly_run(out, "rho", seed, random.randint(1, 6), (0, 0.1), (at, best), (10, best))
        _, rho = read_experiment(out).methods.values()
        # The share of seeds that pay, not medians taken apart, decides all three.
        found = [pair(*runs) for runs in zip(*read_experiment(out).runs.values(), strict=True)]
        assert len(found) == rho["paired"]
        assert (rho["factor"] >= 1) == (rho["models"] <= 1)
        assert (rho["factor"] > 0) == math.isfinite(rho["target_cost"])
        assert rho["factor"] <= rho["factor_precomputed"]
    # The same method under another name neither pays nor costs more.
    write_plan(tmp_path, {"base": "B", "twin": "T"}, [0], baseline="base")
    for method in ("base", "twin"):
        costly_run(tmp_path, method, 0, 3.0, (0, 0.1), (5, 0.9), (9, 0.5))
    _, twin = read_experiment(tmp_path).methods.values()
    assert against(twin)[2:] == (1.0, 1.0, inf)


def test_table_fits_the_console(tmp_path: Path) -> None:
    methods = {f"method{index}": f"{index} " + "long label " * 9 for index in range(8)}
    synthetic(tmp_path, methods, seeds=2)
    lines = f"{read_experiment(tmp_path)}".splitlines()
    assert max(map(len, lines)) <= 110
    assert Comparison(tmp_path)._repr_html_() == f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def test_killed_runs_are_left_out_and_named(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "fast-seed1" / "metrics.jsonl"
    (tmp_path / "runs" / "slow-seed2" / "metrics.jsonl").unlink()
    data = path.read_bytes()
    for kept in (0, 1, 40, 600, len(data) - 1):
        path.write_bytes(data[:kept])
        experiment = read_experiment(tmp_path)
        one, two = experiment.left_out
        assert one.startswith("fast, seed 1: " + ("unfinished" if kept > 40 else "no record"))
        assert two == "slow, seed 2: no record"
        assert experiment.methods["fast"]["finished"] == experiment.methods["fast"]["paired"] == 2
    page = write_report(tmp_path).read_text("utf-8")
    assert all(text in page and text in f"{experiment}" for text in (one, two))


def test_run_without_its_baseline_seed_is_not_compared(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    (tmp_path / "runs" / "base-seed0" / "metrics.jsonl").unlink()
    _, fast, _ = read_experiment(tmp_path).methods.values()
    assert (fast["finished"], fast["paired"], fast["reached"]) == (3, 2, 1)
    assert fast["target_steps"] == inf
    assert fast["gain"] == pytest.approx((-0.05 + 0.1) / 2)


def test_damaged_or_old_files_are_refused_with_name_and_fix(tmp_path: Path) -> None:
    synthetic(tmp_path, {"a": "A", "b": "B", "loss": "L"}, seeds=1, steps=40)
    run = tmp_path / "runs" / "loss-seed0"
    names = ("metrics.jsonl", "selected.json", "test.json")
    for path in (tmp_path / "experiment.json", *(run / name for name in names)):
        data = path.read_bytes()
        old = json.dumps(from_line(data.splitlines(True)[0], path)) + "\n"
        for changed in (data.replace(b"0", b"1", 1), b"\x00" + data, old.encode(), b"{}\n"):
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"is damaged: .* another version.* run") as caught:
                write_report(tmp_path)
            assert str(path) in str(caught.value)
            assert not (tmp_path / "report.html").exists()
        path.write_bytes(data)
    write_report(tmp_path)


def test_records_of_another_run_are_refused(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "base-seed0" / "metrics.jsonl"
    for other in ("fast-seed0", "base-seed1"):
        path.write_bytes(path.parent.with_name(other).joinpath("metrics.jsonl").read_bytes())
        with pytest.raises(ValueError, match=r"base-seed0/metrics.jsonl is of .*, not of base, se"):
            read_experiment(tmp_path)


def test_comparison_without_a_finished_run_or_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"experiment\.json is missing; give the folder"):
        read_experiment(tmp_path)
    write_plan(tmp_path, {"a": "A"}, [0], baseline="a")
    write_run(tmp_path, "a", 0, [{"event": "eval", "step": 0, "accuracy": 0.1, "cost": cost(0)}])
    with pytest.raises(ValueError, match=r"runs has no finished run; let at least one"):
        read_experiment(tmp_path)


def test_galleries_show_the_examples_and_escape_them(whole: Path) -> None:
    page = (whole / "report.html").read_text("utf-8")
    assert NASTY not in page
    section = html.unescape(page.split('id="selected"')[1].split('id="terms"')[0])
    assert re.findall(r"(?:</span>) (.*), seed 0</summary>", section) == [
        "Training loss",
        "RHO-LOSS, holdout IL",
        NASTY,
    ]
    assert section.count("<details open>") == 1
    assert "Never selected, 40 in all" in section
    assert section.count("drawn 9, selected 7\n<br>loss 1.50, IL 0.25") == 6
    assert section.count("loss -, IL -") == 6
    assert (section.count("<img "), section.count("<q>")) == (6, 6)


def test_figures_are_sound_xml_with_escaped_text_and_finite_numbers(whole: Path) -> None:
    page = (whole / "report.html").read_text("utf-8")
    drawn_all = figures(whole)
    assert drawn_all.keys() == FIGURES
    for name, figure in drawn_all.items():
        root = ElementTree.fromstring(figure)
        elements = list(root.iter())
        assert root.get("aria-label")
        drawn = " ".join(e.get("d", "") + e.get("x", "") + e.get("style", "") for e in elements)
        assert not re.search(r"nan|inf|#[0-9a-f]{3}", drawn, re.IGNORECASE)
        bands = [e for e in elements if "fill-opacity: 0.16" in e.get("style", "")]
        assert len(bands) == 5, name
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(identifiers)
    assert html.escape(NASTY) in page
    assert "<synthetic>" not in page


def test_figures_and_sections_without_data_are_left_out(tmp_path: Path) -> None:
    methods = {"half": "Half", "all": "All"}
    synthetic(tmp_path, methods, seeds=1, steps=40, noise_known=False, selecting=False)
    page = write_report(tmp_path).read_text("utf-8")
    drawn = set(re.findall('<figure id="figure-([a-z-]+)"', page))
    assert drawn == PLAIN
    # The same folder gives the same page.
    assert write_report(tmp_path).read_text("utf-8") == page
    assert page.count("<figure ") == len(drawn)
    assert "rong label" not in page
    headings = set(re.findall('<h2 id="([a-z]+)', page))
    assert headings == {"table", "figures", "terms"}


def test_one_method_is_compared_with_nothing(tmp_path: Path) -> None:
    synthetic(tmp_path, {"one": "One"}, seeds=1, steps=40)
    page = write_report(tmp_path).read_text("utf-8")
    for words in ("target", "baseline", "Does it pay", 'class="baseline"'):
        assert words not in page.split("</style>")[1].split('class="values"')[0]
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page)
    accuracies = ["Test accuracy, %", "Balanced, %", "Worst class, %"]
    shares = ["Wrong labels, %", "Already correct, %"]
    parts = [f"Cost of {part}" for part in ("training", "scoring", "IL")]
    costs = ["Steps", "Cost", *parts, "Seconds"]
    assert heads == ["Method", *accuracies, *shares, "Method", *costs]
    assert "Target" not in f"{read_experiment(tmp_path)}"


def test_shares_over_time_are_of_whole_records(tmp_path: Path) -> None:
    write_plan(tmp_path, {"one": "One"}, [0], baseline="one")
    records = [
        {"event": "train", "step": step, "selected": 10, "noisy": noisy, "correct": 5}
        for step, noisy in ((50, 2), (100, 6))
    ]
    evaluation = {"event": "eval", "step": 100, "accuracy": 0.5, "cost": cost(100)}
    write_run(tmp_path, "one", 0, [*records, evaluation, end(100) | {"noisy": 0.3}])
    assert read_experiment(tmp_path).noisy == pytest.approx(0.3)
    figure = figures(tmp_path)["noisy"]
    assert "all examples: 30.0%" in figure
    assert "One 60.0%" in figure


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    synthetic(tmp_path / "run", {"half": "Half"}, seeds=1, steps=40, selecting=False)
    (tmp_path / "file").write_text("mine", "utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"report: cannot write to the folder .*file.*choose a"):
            write_report(tmp_path / "run", out=out)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


PROBE = """<script>
addEventListener("load", () => parent.postMessage({
  viewport: innerWidth, page: document.documentElement.scrollWidth,
  pictures: [...document.images].map((i) => i.naturalWidth),
  figures: [...document.querySelectorAll("figure svg")].map(
    (f) => [f.getBoundingClientRect().width, f.getBoundingClientRect().height]),
}, "*"));
</script>"""


@pytest.mark.slow
def test_page_in_a_browser_is_whole_on_a_phone_and_a_desktop(whole: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    page = (whole / "report.html").read_text("utf-8")
    probe = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", f"{PROBE}</body>")
    (tmp_path / "probe.html").write_text(probe)
    # The page itself, with its policy, must log nothing.
    (tmp_path / "report.html").write_text(page)
    frames = "".join(
        f'<iframe src="{name}" style="width:{width}px;height:900px"></iframe>'
        for name, width in (("probe.html", 320), ("probe.html", 1200), ("report.html", 800))
    )
    collect = """<script>
const seen = [], show = () => { document.getElementById("result").textContent = JSON.stringify({
  seen, images: [...document.images].map((i) => i.naturalWidth) }); };
addEventListener("message", (e) => { seen.push(e.data); show(); }); addEventListener("load", show);
</script>"""
    wrapper = f'<!doctype html><pre id="result"></pre>{collect}{frames}'
    (tmp_path / "wrapper.html").write_text(wrapper)
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr "
        "--virtual-time-budget=5000 --dump-dom"
    )
    profile, address = (
        f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "wrapper.html").as_uri(),
    )
    done = subprocess.run(
        [chromium, *options.split(), profile, address], capture_output=True, text=True, check=True
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    match = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stdout[:2000]
    result = json.loads(html.unescape(match.group(1)))
    assert sorted(seen["viewport"] for seen in result["seen"]) == [320, 1200]
    for seen in result["seen"]:
        assert seen["page"] <= seen["viewport"]
        # Each gallery, of three methods, has the image twice.
        assert seen["pictures"] == [1] * 6
        assert len(seen["figures"]) == len(FIGURES)
        assert all(width > 250 and height > 150 for width, height in seen["figures"])
