"""The parts of the report: cost, classes, galleries, regions, and several folders side by side."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from rho_train.report import read_experiment, summarize, write_report
from rho_train.report.axis import Axis
from rho_train.report.bars import Bar, Part, stacked_bars
from rho_train.report.classes import by_class, class_names, listed_classes
from rho_train.report.cost import break_even, ledger_rows
from rho_train.report.figures import make_figures
from rho_train.report.gallery import galleries
from rho_train.report.merge import read_experiments
from rho_train.report.svg import STYLES, mark

from .folders import NASTY, end, hand_checkable, synthetic, what_was_chosen, write_plan, write_run


def test_break_even_by_hand(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    fast, slow = break_even(read_experiment(tmp_path))
    # The baseline meets its targets at steps 20, 30, 30, after 2, 3, 3 seconds; every step takes
    # 0.1 s, and `fast` is there at step 10, never, 20. Its IL takes 5 s, longer than any of these.
    assert (fast.cost, fast.had, fast.charged) == (pytest.approx(1.0), 1.5, math.inf)
    assert fast.step_seconds == pytest.approx(0.1)
    # `slow` has no IL: what it needs with the IL charged is what it needs without.
    assert (slow.cost, slow.charged, slow.had) == (pytest.approx(1.0), pytest.approx(1.0), 0.0)


def test_the_charge_of_the_il_is_paid_out_of_the_steps_that_are_left(tmp_path: Path) -> None:
    write_plan(tmp_path, {"base": "B", "rho": "R"}, [0], baseline="base", steps=100)
    for method, step_seconds, il_seconds in (("base", 0.1, 0.0), ("rho", 0.2, 4.0)):
        records = [
            {"event": "eval", "step": s, "accuracy": s / 100, "seconds": step_seconds * s}
            for s in (0, 50, 100)
        ]
        last = end(100, il_seconds) | {"seconds": step_seconds * 100}
        write_run(tmp_path, method, 0, [*records, last])
    (row,) = break_even(read_experiment(tmp_path))
    # 10 s to the target; 4 s for the IL leave 6 s for 30 steps, instead of 100.
    assert (row.cost, row.charged) == (pytest.approx(2.0), pytest.approx(100 / 30))
    assert row.had == 1.0


def test_ledger_is_the_mean_over_seeds(tmp_path: Path) -> None:
    synthetic(tmp_path, seeds=2)
    rows = ledger_rows(read_experiment(tmp_path))
    assert [row.parts["scoring"] for row in rows] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert [row.il_seconds for row in rows] == [0.0, 0.0, 0.0, 4.0, 4.0]
    # Loading, selecting, training and other are 6.5; evaluation is not charged.
    assert [row.charged for row in rows] == [6.5, 8.5, 10.5, 16.5, 18.5]
    synthetic(tmp_path / "old", with_records=False)
    assert ledger_rows(read_experiment(tmp_path / "old")) == []


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    drawing = stacked_bars(
        [Bar("one", [1.0, 0.0, 3.0], "4"), Bar("<two>", [2.0, 2.0, 6.0], "10")],
        [Part("a", 0), Part("b", 2), Part("c", None)],
        name="n",
        title="t",
        desc="d",
        x=Axis("Seconds", 0, 10),
    )
    boxes = re.findall(
        r'<rect class="(?:mark|faint)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawing
    )
    rows: dict[str, list[tuple[float, float]]] = {}
    for x, y, width in boxes:
        rows.setdefault(y, []).append((float(x), float(width)))
    second = 458 / 10
    for drawn, sizes in zip(rows.values(), ([1.0, 3.0], [2.0, 2.0, 6.0]), strict=True):
        left = 8.0
        for (x, width), size in zip(drawn, sizes, strict=True):
            # Coordinates have one decimal.
            assert (x, width) == (
                pytest.approx(left, abs=0.1),
                pytest.approx(size * second, abs=0.1),
            )
            left += size * second
    assert "&lt;two&gt;" in drawing


def test_classes_by_hand(tmp_path: Path) -> None:
    synthetic(tmp_path, seeds=1)
    experiment = read_experiment(tmp_path)
    rows = by_class(experiment)
    last = experiment.of("crossfit")[0].evals[-1]
    crossfit = rows[-1]
    assert crossfit.accuracy == last.class_accuracy
    # Class 2 has no test point; class 1 has half of the accuracy.
    assert (crossfit.known[0], 2 in crossfit.known) == (1, False)
    # 40 %, 30 %, 20 %, 10 % of the points got 10 %, 60 %, 0, 30 % of the choices.
    assert crossfit.favour == pytest.approx((0.25, 2.0, 0.0, 3.0))
    assert (crossfit.favoured[0], crossfit.favoured[-1]) == (2, 3)
    assert rows[0].favour == ()
    assert class_names(experiment)[1] == NASTY
    assert listed_classes(experiment, rows) == [0, 1, 3]


def test_galleries_show_the_points_and_escape_them(tmp_path: Path) -> None:
    synthetic(tmp_path, seeds=2)
    shown = galleries(read_experiment(tmp_path))
    assert [gallery.method.name for gallery in shown] == ["loss", "holdout", "crossfit"]
    (most, remark, cards), (never, why, others) = shown[0].groups
    assert (most, never, len(cards), len(others)) == ("Selected most", "Never chosen", 3, 3)
    assert remark == "The 3 points at the top; 3 of them have a wrong label."
    assert why.startswith("40 points were drawn and never chosen, 25% of them with a wrong label")
    assert cards[1].point.label == NASTY
    assert cards[0].facts == ("drawn 9, chosen 7", "loss 1.50, IL 0.25")
    assert [bool(card.drawing) for card in cards] == [False, False, True]
    path = tmp_path / "runs" / "loss-0" / "chosen.json"
    path.write_text(json.dumps(what_was_chosen() | {"tied": 4}))
    ((_, remark, _), _) = galleries(read_experiment(tmp_path))[0].groups
    assert "4 points were chosen as often as the last of them, 7 times: the 3 shown" in remark
    page = write_report(tmp_path).read_text()
    assert NASTY not in page
    assert page.count("Loss &lt;b&gt; &amp; ") > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": [1, 2]}, "points and chosen must be counts of the same classes"),
        ({"chosen": [1, -2, 3, 4]}, "points and chosen must be counts of the same classes"),
        ({"classes": ["one"]}, "classes must name all 4, got 1"),
        ({"never_noisy": 41}, r"field 'never_noisy' must be an integer in \[0, 40\]"),
        ({"most_chosen": [{}]}, "most_chosen: field 'label' must be an integer, got nothing"),
    ],
)
def test_a_damaged_record_of_what_was_chosen_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    synthetic(tmp_path, seeds=1)
    path = tmp_path / "runs" / "loss-0" / "chosen.json"
    path.write_text(json.dumps(what_was_chosen() | change))
    with pytest.raises(ValueError, match=message) as caught:
        read_experiment(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"text": "a", "features": [1.0]},
        {"image": "https://example.org/x.png"},
        {"image": 'data:image/png;base64,AAAA" onload="alert(1)'},
        {"image": "data:image/svg+xml;base64,AAAA"},
    ],
)
def test_a_point_has_one_view_and_an_image_is_a_png_in_the_file(
    tmp_path: Path, view: dict[str, Any]
) -> None:
    synthetic(tmp_path, seeds=1)
    record = what_was_chosen()
    point = {k: v for k, v in record["most_chosen"][0].items() if k != "image"}
    record["most_chosen"] = [point | view]
    (tmp_path / "runs" / "loss-0" / "chosen.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="needs one of image, text|image must be a PNG"):
        read_experiment(tmp_path)


def test_regions_of_loss_against_il_are_named(tmp_path: Path) -> None:
    synthetic(tmp_path, seeds=1)
    experiment = read_experiment(tmp_path)
    figures = make_figures(experiment, summarize(experiment))
    (drawing,) = [figure.svg for figure in figures if figure.name == "quadrant-4"]
    regions = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="region">([^<]*)<', drawing)
    place = {name: (float(x), float(y)) for x, y, name in regions}
    assert len(place) == 4
    high_loss = {name for name, (_, y) in place.items() if y < 200}
    high_il = {name for name, (x, _) in place.items() if x > 200}
    assert high_loss == {"learnable", "noisy or not learnable"}
    assert high_il == {"noisy or not learnable", "forgotten by the IL model"}


def named(out: Path, data: object, **options: Any) -> Path:
    """An experiment that says what its data are."""
    synthetic(out, **options)
    path = out / "experiment.json"
    plan = json.loads(path.read_text())
    plan["config"]["data"] = data
    path.write_text(json.dumps(plan))
    return out


def test_several_folders_stand_side_by_side(tmp_path: Path) -> None:
    data = {"path": "a.npz", "sha256": "x", "noise": 0.1}
    one = named(tmp_path / "one", data, seeds=2)
    two = named(tmp_path / "two", data | {"path": "renamed.npz"}, seeds=3)
    experiment = read_experiments([one, two])
    assert [m.name for m in experiment.methods][4:6] == ["one/crossfit", "two/half"]
    assert experiment.methods[4].label == f"{NASTY} (one)"
    assert experiment.baseline == "one/all"
    assert len(experiment.runs) == 5 * 2 + 5 * 3
    rows = summarize(experiment).methods
    assert [row.paired for row in rows] == [2] * 10
    alone = summarize(read_experiment(one)).methods
    assert [row.accuracy for row in rows[:5]] == [row.accuracy for row in alone]
    page = write_report(one, two, out=tmp_path / "both")
    assert page == tmp_path / "both" / "report.html"
    assert "one beside two" in page.read_text()
    assert not (one / "report.html").exists()
    with pytest.raises(ValueError, match="2 folders need an output folder"):
        write_report(one, two)


def test_folders_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = named(tmp_path / "one", {"sha256": "x", "noise": 0.1}, seeds=1)
    other = named(tmp_path / "other", {"sha256": "x", "noise": 0.2}, seeds=1)
    synthetic(tmp_path / "silent", seeds=1)
    with pytest.raises(ValueError, match=r"one and .*other were made on other data \(noise: 0.1 "):
        read_experiments([one, other])
    with pytest.raises(ValueError, match="silent does not say what it was trained on"):
        read_experiments([one, tmp_path / "silent"])
    validated = named(tmp_path / "validated", {"sha256": "x", "noise": 0.1}, seeds=1)
    plan = json.loads((validated / "experiment.json").read_text())
    plan["config"]["validation"] = 0.1
    (validated / "experiment.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=r"other data \(validation: 0\.0 and 0\.1\)"):
        read_experiments([one, validated])
    with pytest.raises(ValueError, match="a folder is given twice"):
        read_experiments([one, tmp_path / "other" / ".." / "one"])
    folders = [one]
    for index in range(4):
        folders.append(named(tmp_path / str(index), {"sha256": "x", "noise": 0.1}, seeds=1))
    with pytest.raises(ValueError, match="have 25 methods in all, at most 24 can be told apart"):
        read_experiments(folders)


def test_shares_over_time_are_of_whole_records(tmp_path: Path) -> None:
    # A record of 50 steps; 100 / 25 would be 4.
    write_plan(tmp_path, {"one": "One"}, [0], baseline="one", steps=100)
    records = [
        {"event": "train", "step": step, "selected": 10, "noisy": noisy, "correct": 5}
        for step, noisy in ((50, 2), (100, 6))
    ]
    look = {"event": "eval", "step": 100, "accuracy": 0.5, "seconds": 1.0}
    write_run(tmp_path, "one", 0, [*records, look, end(100) | {"noisy": 0.3}])
    experiment = read_experiment(tmp_path)
    summary = summarize(experiment)
    assert summary.base_rate == pytest.approx(0.3)
    (figure,) = [f for f in make_figures(experiment, summary) if f.name == "noisy"]
    assert "Each point is the mean of 50 steps." in figure.caption
    assert "all points: 30.0%" in figure.svg


@pytest.mark.parametrize("drawn", [[320, 320], [320, 160]])
def test_the_overlap_is_set_against_chance_where_there_is_one(
    tmp_path: Path, drawn: list[int]
) -> None:
    write_plan(tmp_path, {"one": "One", "two": "Two"}, [0], baseline="one", steps=30)
    for name, large in zip(("one", "two"), drawn, strict=True):
        epochs = [
            {
                "event": "epoch",
                "step": 10 * i,
                "epoch": i,
                "chosen": 9,
                "again": None if i < 2 else 3,
            }
            for i in (1, 2, 3)
        ]
        look = {"event": "eval", "step": 30, "accuracy": 0.5, "seconds": 1.0}
        last = {"batch": 32, "large_batch": large, "scored": 7, "trained": 5}
        write_run(tmp_path, name, 0, [*epochs, look, end(30) | last])
    experiment = read_experiment(tmp_path)
    (figure,) = [f for f in make_figures(experiment, summarize(experiment)) if f.name == "overlap"]
    equal = drawn[0] == drawn[1]
    assert ("at random: 10%" in figure.svg) == equal
    assert ("dashed line" in figure.caption) == equal


def test_every_style_has_a_look_of_its_own() -> None:
    looks = {(style % 8, mark(style, 0.0, 0.0)) for style in range(STYLES)}
    assert len(looks) == STYLES


def test_a_method_may_have_steps_of_its_own(tmp_path: Path) -> None:
    hand_checkable(tmp_path)
    plan = json.loads((tmp_path / "experiment.json").read_text())
    plan["methods"][2]["steps"] = 60
    plan["methods"][1]["steps"] = None
    (tmp_path / "experiment.json").write_text(json.dumps(plan))
    for seed in range(3):
        evals = [
            {"event": "eval", "step": s, "accuracy": 0.5, "seconds": s / 10}
            for s in range(0, 61, 10)
        ]
        write_run(tmp_path, "slow", seed, [*evals, end(60)])
    path = write_run(tmp_path, "fast", 0, [*evals[:3], end(20)])
    path.with_name("plan.json").write_text('{"steps": 20}')
    experiment = read_experiment(tmp_path)
    assert experiment.left_out == ()
    assert {run.steps for run in experiment.of("slow").values()} == {60}
    assert [run.steps for run in experiment.of("fast").values()] == [20, 30, 30]
    steps, *_ = make_figures(experiment, summarize(experiment))
    assert "“slow” goes on to step 60" in steps.caption
    page = write_report(tmp_path).read_text()
    assert "At the end of the runs, " in page
    assert "“slow” makes up to 60 steps instead of 30." in page
