"""The report: reading, the paired numbers, the drawings, and the page in a real browser."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from rho_train.report import format_table, read_experiment, summarize, write_report
from rho_train.report.classes import by_class
from rho_train.report.headline import headline
from rho_train.report.svg import STYLE, number

from .folders import (
    FIGURES,
    NASTY,
    QUADRANTS,
    WITHOUT_RECORDS,
    end,
    hand_checkable,
    synthetic,
    write_plan,
    write_run,
)


def names(out: Path) -> set[str]:
    return {path.stem for path in (out / "figures").iterdir()}


def test_numbers_by_hand_are_paired_by_seed(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    summary = summarize(read_experiment(tmp_path))
    base, fast, slow = summary.methods
    # Targets .6, .9, .5; `fast` meets them at step 10, never, 20. Against the mean target 2/3 it
    # would be 20, 20, never.
    assert (fast.reached, fast.paired, fast.steps) == (2, 3, 20)
    assert fast.target_seconds == pytest.approx(5.0 + 2.0)
    assert fast.reused_seconds == pytest.approx(2.0)
    assert (slow.reached, slow.steps, slow.target_seconds) == (1, None, None)
    assert (base.reached, base.steps) == (3, 30)
    assert base.target_seconds == pytest.approx(3.0)
    assert fast.accuracy == pytest.approx(0.75)
    assert fast.accuracy_sd == pytest.approx(math.sqrt(0.035 / 2))
    assert fast.gain == pytest.approx(0.1)
    assert fast.ahead == 2
    assert fast.noisy == pytest.approx(0.1)
    assert fast.correct == pytest.approx(0.5)
    assert fast.seconds == pytest.approx(3.0)
    assert fast.charged_seconds == pytest.approx(8.0)
    assert summary.target == pytest.approx((0.6 + 0.9 + 0.5) / 3)


def test_headline_states_wins_and_losses(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    text = " ".join(headline(summarize(read_experiment(tmp_path))))
    assert "“fast” has the highest test accuracy, 75.0%, against 65.0% for “base”" in text
    assert "at step 30 of 30 (median over the seeds); “fast” meets it at step 20, in 2 of 3" in text
    assert "Lower than the baseline: “slow” (40.0%)" in text
    assert "no method is faster than the baseline: “fast” needs 7.0 s for this (2.0 s where" in text
    write_plan(
        tmp_path, {"fast": "F", "slow": "S", "base": "B"}, range(3), baseline="fast", steps=30
    )
    lost = " ".join(headline(summarize(read_experiment(tmp_path))))
    assert "no method has a higher test accuracy than “F”, 75.0%; the closest is “B”" in lost
    assert "No other method meets the baseline's best test accuracy in the median seed" in lost
    plan = json.loads((tmp_path / "experiment.json").read_text())
    plan["config"]["validation"] = 0.1
    (tmp_path / "experiment.json").write_text(json.dumps(plan))
    watched = " ".join(headline(summarize(read_experiment(tmp_path))))
    assert "no method has a higher validation accuracy than “F”, 75.0%" in watched


def test_the_test_set_stands_apart_from_the_validation_curves(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    plan = json.loads((tmp_path / "experiment.json").read_text())
    plan["config"]["validation"] = 0.1
    (tmp_path / "experiment.json").write_text(json.dumps(plan))
    for method, tests in (("base", (0.7, 0.8, 0.9)), ("fast", (0.6, 0.6, 0.6)), ("slow", (0.5,))):
        for seed, accuracy in enumerate(tests):
            result = {"step": 30, "accuracy": accuracy, "class_accuracy": [None, accuracy, 0.25]}
            file = tmp_path / "runs" / f"{method}-{seed}" / "test.json"
            file.write_text(json.dumps(result))
    summary = summarize(read_experiment(tmp_path))
    base, fast, slow = summary.methods
    assert (base.test, base.test_error) == (pytest.approx(0.8), pytest.approx(0.1 / math.sqrt(3)))
    assert (fast.test, fast.test_error) == (pytest.approx(0.6), pytest.approx(0.0))
    # A mean of fewer seeds than the rest of the row would mislead.
    assert (slow.test, slow.finished) == (None, 3)
    # What is watched decides who is ahead and when the target is met; the test set only confirms.
    assert (fast.accuracy, fast.reached) == (pytest.approx(0.75), 2)
    text = " ".join(headline(summary))
    assert "“fast” has the highest validation accuracy, 75.0%, against 65.0% for “base”" in text
    assert (
        "read once after the last step, “fast” has 60.0 ± 0.0% and “base” has 80.0 ± 5.8%." in text
    )
    table = format_table(summary)
    assert "base 80.0 ± 5.8 65.0 ± 12.6" in " ".join(table.split())
    assert "Target: the best validation accuracy of “base”" in table
    page = write_report(tmp_path).read_text()
    assert '<th scope="col">Validation accuracy, %</th>' in page
    assert [row.known for row in by_class(read_experiment(tmp_path))] == [[2, 1], [2, 1]]


def test_table_fits_the_console_and_holds_the_numbers(tmp_path: Path) -> None:
    methods = {f"method{index}": f"{index} " + "long label " * 9 for index in range(8)}
    synthetic(tmp_path / "eight", methods)
    lines = format_table(summarize(read_experiment(tmp_path / "eight"))).splitlines()
    assert max(map(len, lines)) <= 110
    hand_checkable(tmp_path / "hand")
    table = format_table(summarize(read_experiment(tmp_path / "hand")))
    row = next(line for line in table.splitlines() if line.startswith("fast"))
    wanted = "fast 75.0 ± 7.6 20 2 of 3 10.0 50.0 3.0 8.0 7.0"
    assert row.split() == wanted.split()


def test_csv_holds_the_numbers(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    write_report(tmp_path)
    rows = list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["base", "fast", "slow"]
    assert float(rows[1]["accuracy"]) == pytest.approx(0.75)
    assert (float(rows[1]["steps"]), rows[2]["steps"]) == (20, "")
    assert float(rows[1]["charged_seconds"]) == pytest.approx(8.0)


@pytest.mark.parametrize("keep", [0, 1, 40, 600, -1])
def test_killed_run_is_left_out_and_named(tmp_path: Path, keep: int) -> None:
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "fast-1" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:keep])
    (tmp_path / "runs" / "slow-2" / "metrics.jsonl").unlink()
    page = write_report(tmp_path).read_text()
    summary = summarize(read_experiment(tmp_path))
    assert [(one.method, one.seed) for one in summary.left_out] == [("fast", 1), ("slow", 2)]
    assert summary.methods[1].finished == summary.methods[1].paired == 2
    for text in (page, format_table(summary)):
        assert "fast, seed 1: " + ("unfinished" if keep not in (0, 1, 40) else "no record") in text
        assert "slow, seed 2: no record" in text


def test_run_without_its_baseline_seed_is_not_compared(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    (tmp_path / "runs" / "base-0" / "metrics.jsonl").unlink()
    _, fast, _ = summarize(read_experiment(tmp_path)).methods
    assert (fast.finished, fast.paired, fast.reached) == (3, 2, 1)
    assert fast.steps is None
    assert fast.gain == pytest.approx((-0.05 + 0.1) / 2)


def test_run_that_ended_early_is_left_out(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    plan = tmp_path / "experiment.json"
    plan.write_text(plan.read_text().replace('"steps": 30', '"steps": 40'))
    evals = [{"event": "eval", "step": step, "accuracy": 0.5, "seconds": 1.0} for step in (0, 40)]
    write_run(tmp_path, "base", 0, [*evals, end(40)])
    experiment = read_experiment(tmp_path)
    assert [(run.method, run.seed) for run in experiment.runs] == [("base", 0)]
    assert {one.reason for one in experiment.left_out} == {"ended at step 30 of 40"}


def replaced(number: int, old: str, new: str) -> Any:
    def edit(lines: list[str]) -> None:
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (replaced(3, "{", ""), "line 3: not a JSON object"),
        (replaced(3, "{", "\x00"), "line 3: not a JSON object"),
        (replaced(3, '"accuracy": 0.5', '"accuracy": 1.5'), "line 3: field 'accuracy' must be"),
        (replaced(3, '"accuracy": 0.5', '"accuracy": NaN'), "line 3: field 'accuracy' must be"),
        (replaced(2, '"noisy": 1', '"noisy": 11'), "line 2: field 'noisy' must be"),
        (replaced(3, '"accuracy": 0.5', f'"accuracy": {10**400}'), "line 3: field 'accuracy' must"),
        (replaced(2, '"step": 10', '"step": "10"'), "line 2: field 'step' must be"),
        (replaced(2, '"train"', '"tarin"'), "line 2: event must be"),
        (replaced(4, '"step": 20', '"step": 5'), "line 4: step 5 comes after step 10"),
        (replaced(4, '"seed": 0', '"seed": 1'), "line 4: the file began with method 'base'"),
        (lambda lines: lines.append(lines[0]), "records follow|comes after"),
    ],
)
def test_unreadable_record_names_file_line_and_fix(tmp_path: Path, edit: Any, message: str) -> None:
    hand_checkable(tmp_path)
    path = tmp_path / "runs" / "base-0" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        write_report(tmp_path)
    assert str(path) in str(caught.value)
    assert "run it again" in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_experiment_without_a_finished_run_or_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"experiment\.json is missing; give the folder"):
        read_experiment(tmp_path)
    write_plan(tmp_path, {"a": "A"}, [0], baseline="a", steps=30)
    write_run(tmp_path, "a", 0, [{"event": "eval", "step": 0, "accuracy": 0.1, "seconds": 0.0}])
    with pytest.raises(ValueError, match=r"no finished run \(1 started\); let the experiment"):
        read_experiment(tmp_path)
    write_run(tmp_path, "b", 0, [end(30)])
    with pytest.raises(ValueError, match=r"method 'b', seed 0 is not in experiment\.json"):
        read_experiment(tmp_path)


@pytest.mark.parametrize("seeds", [1, 3])
def test_drawings_are_sound_xml_with_escaped_text_and_finite_numbers(
    tmp_path: Path, seeds: int
) -> None:
    synthetic(tmp_path, seeds=seeds)
    page = write_report(tmp_path).read_text()
    assert names(tmp_path) == FIGURES | QUADRANTS
    identifiers: list[str] = []
    for path in (tmp_path / "figures").iterdir():
        root = ElementTree.fromstring(path.read_text())
        elements = list(root.iter())
        assert [e.tag.split("}")[1] for e in elements[1:4]] == ["style", "title", "desc"]
        assert root.get("aria-labelledby", "").split() == [e.get("id") for e in elements[2:4]]
        identifiers += [e.get("id", "") for e in elements if e.get("id")]
        drawn = " ".join(value for e in elements[4:] for value in e.attrib.values())
        assert not re.search(r"nan|inf", drawn, re.IGNORECASE)
        bands = [e for e in elements if e.get("class") == "band"]
        several = {"overlap": 3, "ledger": 0, "classes": 0} | dict.fromkeys(QUADRANTS, 0)
        assert len(bands) == (several.get(path.stem, 5) if seeds > 1 else 0)
    assert len(set(identifiers)) == len(identifiers)
    assert NASTY not in page
    assert html.escape(NASTY) in page
    assert "<synthetic>" not in page


def test_drawing_of_a_step_is_sound_in_the_palette_and_in_the_page(tmp_path: Path) -> None:
    drawing = files("rho_train.report").joinpath("selection.svg").read_text("utf-8")
    style = ElementTree.fromstring(drawing).findtext("{*}style", "")
    # In a page its style meets all other drawings.
    assert all(".selection" in line for line in re.findall(r"(.*)\{\s*[a-z-]+:", style))
    colour = r"--\w+: #\w{6}"
    for own, shared in zip(style.split("@media"), STYLE.split("@media"), strict=True):
        assert set(re.findall(colour, own)) <= set(re.findall(colour, shared))
    hand_checkable(tmp_path)
    page = write_report(tmp_path).read_text("utf-8")
    assert drawing in page
    identifiers = re.findall(r' id="([^"]+)"', page)
    assert len(set(identifiers)) == len(identifiers)
    referred = re.findall(r'(?:href="|url\()#([^")]+)', drawing)
    assert referred
    assert set(referred) <= set(identifiers)


def test_methods_of_any_number_and_figures_without_data_are_left_out(tmp_path: Path) -> None:
    synthetic(tmp_path / "plain", noise_known=False, with_il=False, with_records=False)
    page = write_report(tmp_path / "plain").read_text()
    assert names(tmp_path / "plain") == WITHOUT_RECORDS - {"noisy"}
    assert page.count("<figure ") == 4
    assert "wrong label" not in page.split('id="figures"')[1].split('id="terms"')[0]
    assert {'id="classes"', 'id="chosen"', "ledger"} & set(re.findall('id="[a-z]+"', page)) == set()
    for count in (1, 8, 24):
        out = tmp_path / str(count)
        synthetic(out, {f"m{index}": f"M{index}" for index in range(count)}, seeds=1, steps=40)
        write_report(out)
        assert names(out) >= FIGURES - {"overlap"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_coordinates_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="coordinates must be finite"):
        number(value)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_have_enough_contrast_in_light_and_dark(theme: int) -> None:
    block = STYLE.split(":root {")[1 + theme].split("}")[0]
    colours = dict(re.findall(r"--(\w+): #(\w{6})", block))

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(name: str) -> float:
        low, high = sorted((luminance(colours[name]), luminance(colours["paper"])))
        return (high + 0.05) / (low + 0.05)

    assert min(contrast(name) for name in ("ink", "soft")) >= 4.5
    assert min(contrast(f"c{index}") for index in range(8)) >= 3.0


PROBE = """<script>
const box = (element) => {
  const r = element.getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom];
};
const texts = "svg text:not(.note):not(.region)";
addEventListener("load", () => parent.postMessage({
  viewport: innerWidth, page: document.documentElement.scrollWidth,
  pictures: [...document.images].map((i) => i.naturalWidth),
  figures: [...document.querySelectorAll("figure")].map((f) => ({
    id: f.id, box: box(f.querySelector("svg")),
    texts: [...f.querySelectorAll(texts)].map((t) => [t.textContent, ...box(t)]),
  })),
}, "*"));
</script>"""


def test_page_in_a_browser_is_whole_on_a_phone_and_a_desktop(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    synthetic(tmp_path)
    page = write_report(tmp_path).read_text()
    probe = re.sub("<meta http-equiv[^>]*>", "", page).replace("</body>", f"{PROBE}</body>")
    (tmp_path / "probe.html").write_text(probe)
    frames = "".join(
        f'<iframe src="{name}" style="width:{width}px;height:900px"></iframe>'
        for name, width in (("probe.html", 320), ("probe.html", 1200), ("report.html", 800))
    )
    images = "".join(f'<img src="figures/{name}.svg">' for name in sorted(names(tmp_path)))
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
    done = subprocess.run(
        [
            chromium,
            *options.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "wrapper.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
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
            f"figure-{name}" for name in FIGURES | QUADRANTS | {"selection"}
        }
        for figure in seen["figures"]:
            left, top, right, bottom = figure["box"]
            assert right - left > 250
            assert bottom - top > 150
            assert_texts_are_apart(figure)


def assert_texts_are_apart(figure: dict[str, Any]) -> None:
    left, top, right, bottom = figure["box"]
    shrunk = []
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
