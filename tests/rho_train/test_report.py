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
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Any

import pytest

from rho_train.compare import Comparison
from rho_train.records import from_line
from rho_train.report import format_table, read_experiment, summarize, write_report
from rho_train.report.drawing import Figure
from rho_train.report.figures import draw_figures
from rho_train.report.read import read_experiments
from rho_train.report.summary import ranked
from rho_train.report.table import columns

from .folders import (
    DATA,
    FIGURES,
    NASTY,
    PLAIN,
    QUADRANTS,
    end,
    hand_checkable,
    synthetic,
    what_was_selected,
    write,
    write_plan,
    write_run,
)

CSS = files("rho_train.report").joinpath("page.css").read_text("utf-8")


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


def validate(out: Path) -> None:
    """Let the curves be of a validation split."""
    change_plan(out, lambda plan: plan["config"].update(validation=0.1))


def figures(out: Path) -> dict[str, Figure]:
    experiment = read_experiment(out)
    return draw_figures(experiment, summarize(experiment))


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
    summary = summarize(read_experiment(hand))
    base, fast, slow = summary.methods
    # Targets .6, .9, .5; `fast` meets them at step 10, never, 20. Against the mean target 2/3 it
    # would be 20, 20, never.
    assert (fast.reached, fast.paired, fast.against.steps) == (2, 3, 20)
    assert fast.against.target_seconds == pytest.approx(5.0 + 2.0)
    assert fast.against.target_seconds_precomputed == pytest.approx(2.0)
    assert (slow.reached, slow.against.steps, slow.against.target_seconds) == (1, inf, inf)
    assert (base.reached, base.against.steps) == (3, 30)
    assert base.against.target_seconds == pytest.approx(3.0)
    assert fast.accuracy == pytest.approx(0.75)
    assert fast.accuracy_error == pytest.approx(math.sqrt(0.035 / 2 / 3))
    assert fast.gain == pytest.approx(0.1)
    assert fast.ahead == 2
    assert fast.noisy == pytest.approx(0.1)
    assert fast.correct == pytest.approx(0.5)
    assert fast.seconds == pytest.approx(3.0)
    assert fast.seconds_with_il == pytest.approx(8.0)
    assert summary.target == pytest.approx((0.6 + 0.9 + 0.5) / 3)


def test_page_table_and_csv_hold_the_numbers_of_the_summary(hand: Path) -> None:
    summary = summarize(read_experiment(hand))
    shown = columns(summary)
    page = (hand / "report.html").read_text("utf-8")
    wanted = [[column.cell(row) for column in shown] for row in summary.methods]
    assert [row[1:] for row in cells(page, "numbers")] == wanted
    assert wanted[1] == ["75.0 ± 7.6", "20", "2 of 3", "10.0", "50.0", "3.0", "8.0", "7.0"]
    assert [row[0].split()[-1] for row in cells(page, "numbers")] == ["base", "fast", "slow"]
    line = next(row for row in format_table(summary).splitlines() if row.startswith("fast"))
    assert line.split() == ["fast", *" ".join(wanted[1]).split()]
    rows = list(csv.DictReader((hand / "summary.csv").read_text("utf-8").splitlines()))
    assert [row["method"] for row in rows] == ["base", "fast", "slow"]
    assert float(rows[1]["accuracy"]) == pytest.approx(0.75)
    assert (float(rows[1]["steps"]), rows[2]["steps"]) == (20, "")
    assert float(rows[1]["seconds_with_il"]) == pytest.approx(8.0)


def test_the_result_in_words_states_wins_and_losses(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    text = result(write_report(tmp_path).read_text("utf-8"))
    assert "“fast” has the highest test accuracy, 75.0%, against 65.0% for “base”" in text
    assert "at step 30 of 30 (median over the seeds); “fast” meets it at step 20, in 2 of 3" in text
    assert "Lower than the baseline: “slow” (40.0%)" in text
    assert "no method is faster than the baseline: “fast” needs 7.0 s (2.0 s with pre" in text
    labels = {"fast": "F", "slow": "S", "base": "B"}
    write_plan(tmp_path, labels, range(3), baseline="fast", steps=30)
    lost = result(write_report(tmp_path).read_text("utf-8"))
    assert "no method has a higher test accuracy than “F”, 75.0%; the closest is “B”" in lost
    assert "No other method meets the baseline's best test accuracy in the median seed" in lost


def test_the_test_set_stands_apart_from_the_validation_curves(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    validate(tmp_path)
    for method, tests in (("base", (0.7, 0.8, 0.9)), ("fast", (0.6, 0.6, 0.6)), ("slow", (0.5,))):
        for seed in range(3):
            file = tmp_path / "runs" / f"{method}-seed{seed}" / "test.json"
            if seed < len(tests):
                accuracy = tests[seed]
                write(file, {"accuracy": accuracy, "class_accuracy": [None, accuracy, 0.25]})
            else:
                file.unlink()
    experiment = read_experiment(tmp_path)
    summary = summarize(experiment)
    base, fast, slow = summary.methods
    assert (base.test, base.test_error) == (pytest.approx(0.8), pytest.approx(0.1 / math.sqrt(3)))
    assert (fast.test, fast.test_error) == (pytest.approx(0.6), pytest.approx(0.0))
    # A run that is not tested is not finished.
    assert (slow.test, slow.finished) == (pytest.approx(0.5), 1)
    assert summary.left_out == ["slow, seed 1: not tested", "slow, seed 2: not tested"]
    # What is watched decides who is ahead and when the target is met; the test set only confirms.
    assert (fast.accuracy, fast.reached) == (pytest.approx(0.75), 2)
    page = write_report(tmp_path).read_text("utf-8")
    text = result(page)
    assert "“fast” has the highest validation accuracy, 75.0%, against 65.0% for “base”" in text
    assert "after the last step, “fast” has 60.0 ± 0.0% and “base” has 80.0 ± 5.8%." in text
    table = format_table(summary)
    assert "base 80.0 ± 5.8 65.0 ± 12.6" in " ".join(table.split())
    assert "Target: the best validation accuracy of “base”" in table
    assert columns(summary)[1].head == "Validation accuracy, %"
    assert "<h3>Validation accuracy against steps</h3>" in page
    # Of two classes the table tells more than a figure.
    assert [row[1:3] for row in cells(page, "classes")] == [["2", "25.0"]] * 3
    assert not (tmp_path / "figures" / "classes.svg").exists()
    assert [ranked(row.accuracies) for row in summary.methods] == [[2, 1]] * 3


def test_table_fits_the_console(tmp_path: Path) -> None:
    methods = {f"method{index}": f"{index} " + "long label " * 9 for index in range(8)}
    synthetic(tmp_path, methods, seeds=2)
    lines = format_table(summarize(read_experiment(tmp_path))).splitlines()
    assert max(map(len, lines)) <= 110
    page = Comparison(tmp_path)._repr_html_()
    assert page.startswith("<table><thead><tr><th>Method</th><th>")
    assert page.count("<tr>") == 9


def test_killed_runs_are_left_out_and_named(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "fast-seed1" / "metrics.jsonl"
    (tmp_path / "runs" / "slow-seed2" / "metrics.jsonl").unlink()
    data = path.read_bytes()
    for kept in (0, 1, 40, 600, len(data) - 1):
        path.write_bytes(data[:kept])
        summary = summarize(read_experiment(tmp_path))
        one, two = summary.left_out
        assert one.startswith("fast, seed 1: " + ("unfinished" if kept > 40 else "no record"))
        assert two == "slow, seed 2: no record"
        assert summary.methods[1].finished == summary.methods[1].paired == 2
    page = write_report(tmp_path).read_text("utf-8")
    assert all(text in page and text in format_table(summary) for text in (one, two))


def test_run_without_its_baseline_seed_is_not_compared(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    (tmp_path / "runs" / "base-seed0" / "metrics.jsonl").unlink()
    _, fast, _ = summarize(read_experiment(tmp_path)).methods
    assert (fast.finished, fast.paired, fast.reached) == (3, 2, 1)
    assert fast.against.steps == inf
    assert fast.gain == pytest.approx((-0.05 + 0.1) / 2)


def test_run_that_ended_early_is_left_out(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    change_plan(tmp_path, lambda plan: plan.update(steps=40))
    evals = [{"event": "eval", "step": step, "accuracy": 0.5, "seconds": 1.0} for step in (0, 40)]
    write_run(tmp_path, "base", 0, [*evals, end(40)])
    experiment = read_experiment(tmp_path)
    assert {m: [run.seed for run in runs] for m, runs in experiment.runs.items()} == {"base": [0]}
    assert {reason for *_, reason in experiment.left_out} == {"ended at step 30 of 40"}


def test_damaged_or_old_files_are_refused_with_name_and_fix(tmp_path: Path) -> None:
    synthetic(tmp_path, {"a": "A", "b": "B", "loss": "L"}, seeds=1, steps=40)
    run = tmp_path / "runs" / "loss-seed0"
    write(run / "plan.json", {"steps": 40})
    names = ("metrics.jsonl", "selected.json", "test.json", "plan.json")
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


def test_records_in_another_order_are_refused(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "base-seed0" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(True)
    other = path.parent.with_name("fast-seed0").joinpath("metrics.jsonl").read_bytes()
    seed = path.parent.with_name("base-seed1").joinpath("metrics.jsonl").read_bytes()
    for changed, message in (
        (
            [*lines[:4], lines[1], *lines[4:]],
            "line 5: step 10 of base, seed 0 cannot follow",
        ),
        ([*lines, lines[-1]], "line 9: step 30 of base, seed 0 cannot follow step 30 of base"),
        ([other], "line 1: step 0 of fast, seed 0 cannot follow step 0 of base"),
        ([seed], "line 1: step 0 of base, seed 1 cannot follow step 0 of base, seed 0"),
    ):
        path.write_bytes(b"".join(changed))
        with pytest.raises(ValueError, match=rf"metrics.jsonl, {message}.*run it again"):
            read_experiment(tmp_path)


def test_comparison_without_a_finished_run_or_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"experiment\.json is missing; give the folder"):
        read_experiment(tmp_path)
    write_plan(tmp_path, {"a": "A"}, [0], baseline="a", steps=30)
    write_run(tmp_path, "a", 0, [{"event": "eval", "step": 0, "accuracy": 0.1, "seconds": 0.0}])
    with pytest.raises(ValueError, match=r"runs has no finished run; let at least one"):
        read_experiment(tmp_path)


def test_only_images_come_into_the_page(tmp_path: Path) -> None:
    synthetic(tmp_path, {"a": "A", "b": "B", "loss": "L"}, seeds=1, steps=40)
    path = tmp_path / "runs" / "loss-seed0" / "selected.json"
    example = what_was_selected()["most_selected"][0]
    for image in (
        "https://example.org/x.png",
        'data:image/png;base64,AAAA" onload="alert(1)',
        "data:image/svg+xml;base64,AAAA",
    ):
        write(path, what_was_selected() | {"most_selected": [example | {"image": image}]})
        with pytest.raises(ValueError, match="selected.json: image of example 0 is no PNG"):
            write_report(tmp_path)


def test_what_a_method_needs_by_hand(hand: Path) -> None:
    base, fast, slow = (row.against for row in summarize(read_experiment(hand)).methods)
    # The baseline meets its targets at steps 20, 30, 30, after 2, 3, 3 seconds; every step takes
    # 0.1 s, and `fast` is there at step 10, never, 20. Its IL takes 5 s, longer than any of these.
    assert (fast.needs_precomputed, fast.had, fast.needs) == (pytest.approx(1.0), 1.5, inf)
    assert fast.step_seconds == pytest.approx(0.1)
    assert (fast.pays_precomputed, fast.pays) == (pytest.approx(1.5), 0.0)
    # `slow` has no IL: it needs as much with its cost included.
    assert (slow.needs_precomputed, slow.needs) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (slow.had, slow.pays) == (0.0, 0.0)
    assert (base.had, base.needs, base.pays) == (1.0, 1.0, 1.0)
    rows = cells((hand / "report.html").read_text("utf-8"), "cost")
    assert rows[0][1:] == ["100.00", "1.00\u00d7", "never", "1.50\u00d7", "yes, 1.50\u00d7", "no"]
    assert rows[1][4:] == ["never", "no", "no"]
    assert len(rows) == 2


def timed_run(
    out: Path, method: str, seed: int, il: float, *evals: tuple[int, float, float]
) -> None:
    """A run with evaluations (step, accuracy, seconds)."""
    names = ("step", "accuracy", "seconds")
    records = [{"event": "eval", **dict(zip(names, one, strict=True))} for one in evals]
    write_run(out, method, seed, [*records, end(int(evals[-1][0]), il) | {"seconds": evals[-1][2]}])


def test_the_cost_of_the_il_is_paid_out_of_the_steps_that_are_left(tmp_path: Path) -> None:
    write_plan(tmp_path, {"base": "B", "rho": "R"}, [0], baseline="base", steps=100)
    for method, step_seconds, il in (("base", 0.1, 0.0), ("rho", 0.2, 4.0)):
        timed_run(tmp_path, method, 0, il, *((s, s / 100, step_seconds * s) for s in (0, 50, 100)))
    _, row = summarize(read_experiment(tmp_path)).methods
    # 10 s to the target; 4 s for the IL leave 6 s for 30 steps, instead of 100.
    assert row.against.needs_precomputed == pytest.approx(2.0)
    assert row.against.needs == pytest.approx(100 / 30)
    assert row.against.had == 1.0
    # IL that the baseline has too is no cost of the method.
    timed_run(tmp_path, "base", 0, 4.0, *((s, s / 100, 0.1 * s) for s in (0, 50, 100)))
    _, row = summarize(read_experiment(tmp_path)).methods
    assert row.against.needs == pytest.approx(2.0)


def test_what_does_as_the_baseline_does_never_pays(tmp_path: Path) -> None:
    write_plan(tmp_path, {"base": "B", "twin": "T"}, [0, 1, 2], baseline="base", steps=30)
    for method in ("base", "twin"):
        # The best comes early and the clock is slow after it, or the other way round.
        timed_run(tmp_path, method, 0, 0.0, (0, 0.1, 0.0), (10, 0.9, 1.0), (30, 0.5, 9.0))
        timed_run(tmp_path, method, 1, 0.0, (0, 0.1, 0.0), (10, 0.9, 5.0), (30, 0.5, 6.0))
        timed_run(tmp_path, method, 2, 0.0, (0, 0.1, 0.0), (10, 0.5, 3.0), (30, 0.9, 6.0))
    _, twin = summarize(read_experiment(tmp_path)).methods
    assert (twin.against.pays, twin.against.pays_precomputed) == (1.0, 1.0)
    (row,) = cells(write_report(tmp_path).read_text("utf-8"), "cost")
    assert row[-2:] == ["no, 1.00\u00d7"] * 2


def test_a_method_pays_by_the_seed_and_not_by_medians_taken_apart(tmp_path: Path) -> None:
    write_plan(tmp_path, {"base": "B", "rho": "R"}, [0, 1, 2], baseline="base", steps=40)
    for seed, (step, seconds) in enumerate(((10, 2.5), (10, 1.5), (40, 2.5))):
        timed_run(tmp_path, "base", seed, 0.0, (0, 0.1, 0.0), (20, 0.9, 2.0), (40, 0.8, 4.0))
        timed_run(tmp_path, "rho", seed, 0.0, (0, 0.1, 0.0), (step, 0.9, seconds), (40, 0.9, 9.0))
    found = summarize(read_experiment(tmp_path)).methods[1].against
    # Had 2, 2, 1/2; needs 5/2, 3/2, 5/8: the medians say yes, two of three seeds say no.
    assert (found.had, found.needs, found.pays) == (2.0, 1.5, 0.8)


def test_half_of_the_seeds_that_never_meet_the_target_are_most(tmp_path: Path) -> None:
    write_plan(tmp_path, {"base": "B", "rho": "R"}, [0, 1], baseline="base", steps=40)
    for seed, best in enumerate((0.9, 0.5)):
        timed_run(tmp_path, "base", seed, 0.0, (0, 0.1, 0.0), (20, 0.9, 2.0), (40, 0.8, 4.0))
        timed_run(tmp_path, "rho", seed, 0.0, (0, 0.1, 0.0), (10, best, 0.5), (40, 0.5, 2.0))
    found = summarize(read_experiment(tmp_path)).methods[1].against
    assert (found.steps, found.had, found.pays, found.pays_precomputed) == (inf, 0.0, 0.0, 0.0)
    (row,) = cells(write_report(tmp_path).read_text("utf-8"), "cost")
    assert row[-3:] == ["never", "no", "no"]


def test_time_by_part_is_the_mean_over_seeds_and_drawn_to_scale(whole: Path) -> None:
    rows = [row.times for row in summarize(read_experiment(whole)).methods]
    assert [row["scoring"] for row in rows] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert [row["IL"] for row in rows] == [0.0, 0.0, 0.0, 4.0, 4.0]
    # Loading, selecting, training and other are 6.5; evaluation is not counted.
    assert [row["sum"] for row in rows] == [6.5, 8.5, 10.5, 16.5, 18.5]
    drawing = (whole / "figures" / "time.svg").read_text("utf-8")
    boxes = r'd="M ([\d.]+) [\d.]+ L ([\d.]+) [\d.]+ L [^"]*" clip-path[^>]*fill: var\(--(\w+)'
    widths: dict[str, list[float]] = {}
    for left, right, colour in re.findall(boxes, drawing.replace("\n", "")):
        widths.setdefault(colour, []).append(float(right) - float(left))
    # Training takes 4 s in every row, scoring (--c2) 0 to 8 s, evaluation 3 s.
    second = widths["c0"][0] / 4
    assert widths["c0"] == pytest.approx([4 * second] * 5, abs=0.05)
    assert widths["c2"] == pytest.approx([i * second for i in (0, 2, 4, 6, 8)], abs=0.05)
    assert widths["soft"][:5] == pytest.approx([3 * second] * 5, abs=0.05)


def test_classes_by_hand(whole: Path) -> None:
    experiment = read_experiment(whole)
    rows = {row.method: row for row in summarize(experiment).methods}
    accuracy, favour = rows["crossfit"].accuracies, rows["crossfit"].favours
    lasts = [run.test["class_accuracy"] for run in experiment.runs["crossfit"]]
    assert accuracy[1] == pytest.approx(sum(last[1] for last in lasts) / 2)
    # Class 2 has no test example; class 1 has half of the accuracy.
    assert (ranked(accuracy)[0], 2 in ranked(accuracy)) == (1, False)
    # 40 %, 30 %, 20 %, 10 % of the examples got 10 %, 60 %, 0, 30 % of the selections.
    assert favour == pytest.approx((0.25, 2.0, 0.0, 3.0))
    assert rows["half"].favours == []
    row = cells((whole / "report.html").read_text("utf-8"), "classes")[4]
    assert row[1:] == [
        NASTY,
        f"{100 * accuracy[1]:.1f}",
        "a name of some length (3.0\u00d7)",
        row[4],
    ]
    assert row[4] == "third (0.0\u00d7)"


def test_galleries_show_the_examples_and_escape_them(whole: Path, tmp_path: Path) -> None:
    page = (whole / "report.html").read_text("utf-8")
    assert NASTY not in page
    section = html.unescape(page.split('id="selected"')[1].split('id="terms"')[0])
    assert re.findall(r"(?:</span>) (.*), seed 0</summary>", section) == [
        "Training loss",
        "RHO-LOSS, holdout IL",
        NASTY,
    ]
    assert section.count("<details open>") == 1
    assert "The 3 examples at the top; 3 of them have a wrong label." in section
    assert "40 examples were drawn and never selected, 25% of them with a wrong label" in section
    assert section.count("drawn 9, selected 7\n<br>loss 1.50, IL 0.25") == 9
    assert section.count("loss -, IL -") == 9
    assert (section.count("<img "), section.count("<q>")) == (6, 6)
    bars = re.findall(r"v(-?[\d.]+)h", section.split("<svg")[1])
    assert [float(bar) for bar in bars] == [-0.25, 0.5, -1.0]
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "fast-seed0" / "selected.json"
    write(path, what_was_selected() | {"tied": 4})
    page = write_report(tmp_path).read_text("utf-8")
    assert "4 examples were selected as often as the last of them, 7 times: the 3 shown" in page


def test_figures_are_sound_xml_with_escaped_text_and_finite_numbers(whole: Path) -> None:
    page = (whole / "report.html").read_text("utf-8")
    assert {path.stem for path in (whole / "figures").iterdir()} == FIGURES | QUADRANTS
    for path in (whole / "figures").iterdir():
        root = ElementTree.fromstring(path.read_text("utf-8"))
        elements = list(root.iter())
        assert root.get("aria-label")
        drawn = " ".join(e.get("d", "") + e.get("x", "") + e.get("style", "") for e in elements)
        assert not re.search(r"nan|inf|#[0-9a-f]{3}", drawn, re.IGNORECASE)
        bands = [e for e in elements if "fill-opacity: 0.16" in e.get("style", "")]
        several = {"overlap": 3, "time": 0, "classes": 0} | dict.fromkeys(QUADRANTS, 0)
        assert len(bands) == several.get(path.stem, 5), path.stem
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(identifiers)
    assert html.escape(NASTY) in page
    assert "<synthetic>" not in page


def test_figures_and_sections_without_data_are_left_out(tmp_path: Path) -> None:
    methods = {"half": "Half", "all": "All"}
    synthetic(tmp_path, methods, seeds=1, steps=40, noise_known=False, selecting=False)
    page = write_report(tmp_path).read_text("utf-8")
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn == PLAIN
    # The same folder gives the same page.
    assert write_report(tmp_path).read_text("utf-8") == page
    assert page.count("<figure ") == len(drawn)
    assert "rong label" not in page
    headings = set(re.findall('<h2 id="([a-z]+)"', page))
    assert headings == {"numbers", "cost", "figures", "classes", "terms"}


def test_one_method_is_compared_with_nothing(tmp_path: Path) -> None:
    synthetic(tmp_path, {"one": "One"}, seeds=1, steps=40)
    page = write_report(tmp_path).read_text("utf-8")
    for words in ("target", "baseline", "Does it pay", 'class="baseline"'):
        assert words not in page.split("</style>")[1].split('class="values"')[0]
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page)
    assert heads[1:5] == [
        "Test accuracy, %",
        "Wrong labels, %",
        "Already correct, %",
        "Training seconds",
    ]
    assert "One" in page.split('id="numbers"')[1]
    assert "Target" not in format_table(summarize(read_experiment(tmp_path)))


def test_as_many_methods_as_there_are_looks(tmp_path: Path) -> None:
    methods = {f"m{i}": f"_M{i} $x$ 例" for i in range(24)}
    synthetic(tmp_path, methods, seeds=1, steps=40, noise_known=False, selecting=False)
    page = write_report(tmp_path).read_text("utf-8")
    looks = re.findall(r'class="mark" style="color: var\(--c(\d)\)" aria-hidden="true">(.)', page)
    assert len(set(looks)) == 24
    drawing = (tmp_path / "figures" / "accuracy-steps.svg").read_text("utf-8")
    assert all(f"_M{i} $x$ 例</text>" in drawing for i in range(24))
    change_plan(tmp_path, lambda plan: plan["methods"].append({**plan["methods"][0], "name": "x"}))
    with pytest.raises(ValueError, match="25 methods, only 24 can be told apart"):
        write_report(tmp_path)


def test_colours_have_enough_contrast_in_light_and_dark() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for block in CSS.split(":root {")[1:3]:
        colours = dict(re.findall(r"--(\w+): #(\w{6})", block.split("}")[0]))
        light = {name: luminance(colour) for name, colour in colours.items()}
        for name in ("ink", "soft", *(f"c{index}" for index in range(8))):
            low, high = sorted((light[name], light["paper"]))
            assert (high + 0.05) / (low + 0.05) >= (3.0 if name[1:].isdigit() else 4.5), name


def test_regions_of_loss_against_il_are_named(whole: Path) -> None:
    root = ElementTree.parse(whole / "figures" / "quadrant-4.svg").getroot()
    places = {}
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        if "italic" in element.get("style", ""):
            found = re.search(r"translate\(([\d.]+) ([\d.]+)\)", element.get("transform", ""))
            x = element.get("x") or (found and found[1])
            y = element.get("y") or (found and found[2])
            places[element.text] = float(x or "nan"), float(y or "nan")
    middle = float(root.get("viewBox", "").split()[3]) / 2
    assert {name for name, (_, y) in places.items() if y < middle} == {
        "learnable",
        "noisy or not learnable",
    }
    assert {name for name, (x, _) in places.items() if x > 130} == {
        "noisy or not learnable",
        "forgotten by the IL model",
    }
    assert len(places) == 4


def test_shares_over_time_are_of_whole_records(tmp_path: Path) -> None:
    # A record of 50 steps; 100 / 25 would be 4.
    write_plan(tmp_path, {"one": "One"}, [0], baseline="one", steps=100)
    records = [
        {"event": "train", "step": step, "selected": 10, "noisy": noisy, "correct": 5}
        for step, noisy in ((50, 2), (100, 6))
    ]
    evaluation = {"event": "eval", "step": 100, "accuracy": 0.5, "seconds": 1.0}
    write_run(tmp_path, "one", 0, [*records, evaluation, end(100) | {"noisy": 0.3}])
    assert summarize(read_experiment(tmp_path)).noisy == pytest.approx(0.3)
    figure = figures(tmp_path)["noisy"]
    assert "Each value is the mean of 50 steps." in figure.caption
    assert "all examples: 30.0%" in figure.svg
    assert "One 60.0%" in figure.svg


def test_the_overlap_is_set_against_chance_where_there_is_one(tmp_path: Path) -> None:
    write_plan(tmp_path, {"one": "One", "two": "Two"}, [0], baseline="one", steps=30)
    evaluation = {"event": "eval", "step": 30, "accuracy": 0.5, "seconds": 1.0}
    for drawn in ((320, 320), (320, 160)):
        for name, large in zip(("one", "two"), drawn, strict=True):
            epochs = [
                {"event": "epoch", "step": 10 * i, "epoch": i, "selected": 9, "again": again}
                for i, again in ((1, None), (2, 3), (3, 0))
            ]
            last = end(30) | {"large_batch": large}
            write_run(tmp_path, name, 0, [*epochs, evaluation, last])
        figure = figures(tmp_path)["overlap"]
        equal = drawn[0] == drawn[1]
        assert ("at random: 10%" in figure.svg) == equal
        assert ("The dashed line is what a random selection has." in figure.caption) == equal
        assert "One 0.0%; Two 0.0%" in figure.svg


def test_a_method_may_have_steps_of_its_own(tmp_path: Path) -> None:
    hand_checkable(tmp_path)

    change_plan(tmp_path, lambda plan: plan["methods"][2].update(steps=60))
    evals = [
        {"event": "eval", "step": s, "accuracy": 0.5, "seconds": s / 10} for s in range(0, 61, 10)
    ]
    for seed in range(3):
        write_run(tmp_path, "slow", seed, [*evals, end(60)])
    path = write_run(tmp_path, "fast", 0, [*evals[:3], end(20)])
    write(path.with_name("plan.json"), {"steps": 20})
    experiment = read_experiment(tmp_path)
    assert experiment.left_out == []
    assert {run.end["step"] for run in experiment.runs["slow"]} == {60}
    assert [run.end["step"] for run in experiment.runs["fast"]] == [20, 30, 30]
    page = write_report(tmp_path).read_text("utf-8")
    assert "“slow” goes on to step 60" in page
    assert "At the end of the runs, " in page
    assert "“slow” makes up to 60 steps instead of 30." in page


def on(out: Path, **data: object) -> Path:
    """A comparison on other data."""
    methods = {"all": "All", "rho": NASTY}
    synthetic(out, methods, seeds=2, steps=40, noise_known=False, selecting=False)
    change_plan(out, lambda plan: plan["config"].update(data=DATA | data))
    change_plan(out, lambda plan: plan.update(seeds=[0]))
    return out


def test_several_folders_stand_side_by_side(tmp_path: Path) -> None:
    one = on(tmp_path / "one")
    # The noise of another seed.
    two = on(tmp_path / "two", train={"n": "900", "labels": "1"}, flags={"noisy": "2"})
    change_plan(two, lambda plan: plan.update(seeds=[1, 0]))
    experiment = read_experiments([one, two])
    assert list(experiment.labels) == ["one/all", "one/rho", "two/all", "two/rho"]
    assert experiment.labels["one/rho"] == f"{NASTY} (one)"
    # The second of each folder is its baseline, that of the first is the one of all.
    assert experiment.baseline == "one/rho"
    assert list(experiment.runs) == list(experiment.labels)
    rows = summarize(experiment).methods
    assert [row.paired for row in rows] == [1] * 4
    alone = summarize(read_experiment(one)).methods
    assert [row.accuracy for row in rows[:2]] == [row.accuracy for row in alone]
    page = write_report(one, two, out=tmp_path / "both")
    assert page == tmp_path / "both" / "report.html"
    assert "one beside two" in page.read_text("utf-8")
    assert not (one / "report.html").exists()
    with pytest.raises(ValueError, match="2 folders need an output folder"):
        write_report(one, two)


def test_folders_may_have_any_name_and_be_links(tmp_path: Path) -> None:
    real = tmp_path / "a [b] * ? 'ü' {} %s"
    synthetic(real, {"half": "Half", "all": NASTY + "\ud800"}, seeds=1, steps=40, selecting=False)
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "out").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "out")
    for folder in (real, tmp_path / "link"):
        page = write_report(folder, out=tmp_path / "to")
        assert page == tmp_path / "to" / "report.html"
        assert (tmp_path / "out" / "report.html").read_text("utf-8") == page.read_text("utf-8")
        assert "Half" in (tmp_path / "out" / "summary.csv").read_text("utf-8")
    with pytest.raises(ValueError, match="give one or more different folders"):
        write_report(real, tmp_path / "link", out=tmp_path / "to")


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    synthetic(tmp_path / "run", {"half": "Half"}, seeds=1, steps=40, selecting=False)
    (tmp_path / "file").write_text("mine", "utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"report: cannot write to the folder .*file.*choose a"):
            write_report(tmp_path / "run", out=out)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_folders_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = on(tmp_path / "one")
    other = on(tmp_path / "other", test={"n": "91"})
    more = on(tmp_path / "more", train={"n": "901"})
    noisier = on(tmp_path / "noisier", train={"n": "900", "labels": "2"})
    with pytest.raises(ValueError, match=r"one and .*other were made on other data \(test: .*91"):
        read_experiments([one, other])
    with pytest.raises(ValueError, match=r"more were made on other data \(n: 900 and 901"):
        read_experiments([one, more])
    with pytest.raises(ValueError, match=r"other data \(train of seed 0: .*'labels': '2'"):
        read_experiments([one, noisier])
    with pytest.raises(ValueError, match="one or more different folders, got .*other"):
        read_experiments([one, tmp_path / "other" / ".." / "one"])
    with pytest.raises(ValueError, match=r"one or more different folders, got \[\]"):
        read_experiments([])
    validated = on(tmp_path / "validated")
    validate(validated)
    with pytest.raises(ValueError, match=r"other data \(validation: 0\.0 and 0\.1\)"):
        read_experiments([one, validated])


PROBE = """<script>
const box = (element) => {
  const r = element.getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom];
};
addEventListener("load", () => parent.postMessage({
  viewport: innerWidth, page: document.documentElement.scrollWidth,
  pictures: [...document.images].map((i) => i.naturalWidth),
  figures: [...document.querySelectorAll("figure")].map((f) => ({
    id: f.id, box: box(f.querySelector("svg")),
    texts: [...f.querySelectorAll("svg text:not([style*=italic])")].map(
      (t) => [t.textContent, ...box(t)]),
  })),
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
    images = "".join(
        f'<img src="{path.as_uri()}">' for path in sorted((whole / "figures").iterdir())
    )
    collect = """<script>
const seen = [], show = () => { document.getElementById("result").textContent = JSON.stringify({
  seen, images: [...document.images].map((i) => i.naturalWidth) }); };
addEventListener("message", (e) => { seen.push(e.data); show(); }); addEventListener("load", show);
</script>"""
    wrapper = f'<!doctype html><pre id="result"></pre>{collect}{frames}{images}'
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
    assert len(result["images"]) == len(FIGURES | QUADRANTS)
    assert min(result["images"]) > 0
    assert sorted(seen["viewport"] for seen in result["seen"]) == [320, 1200]
    for seen in result["seen"]:
        assert seen["page"] <= seen["viewport"]
        # Each gallery, of three methods, has the image twice.
        assert seen["pictures"] == [1] * 6
        assert {figure["id"] for figure in seen["figures"]} == {
            f"figure-{name}" for name in FIGURES | QUADRANTS
        }
        for figure in seen["figures"]:
            left, top, right, bottom = figure["box"]
            assert right - left > 250
            assert bottom - top > 150
            assert_texts_are_apart(figure)


def assert_texts_are_apart(figure: dict[str, Any]) -> None:
    left, top, right, bottom = figure["box"]
    shrunk: list[tuple[str, float, float, float, float]] = []
    for content, x0, y0, x1, y1 in figure["texts"]:
        assert x0 >= left - 1, content
        assert x1 <= right + 1, content
        # A line's box is taller than its letters.
        spare = 0.2 * (y1 - y0)
        assert y0 + spare >= top, content
        assert y1 - spare <= bottom, content
        shrunk.append((content, x0, y0 + spare, x1, y1 - spare))
    for index, (one, ax0, ay0, ax1, ay1) in enumerate(shrunk):
        for other, bx0, by0, bx1, by1 in shrunk[:index]:
            apart = ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0
            assert apart, (figure["id"], one, other)
