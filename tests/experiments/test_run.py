"""Suites run by `rho_train.compare`, and leave rows, curves and figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import derive, figures, run, set_options, variants
from experiments.suite import Suite, load

TINY = Suite(
    name="tiny",
    title="Tiny",
    question="Does it run?",
    methods=[
        variants.UNIFORM_ALL_DECAY,
        variants.decayed(variants.RHO_CROSSFIT),
        variants.equal_cost(
            variants.UNIFORM_ALL_DECAY,
            "all_cost_with_il",
            variants.decayed(variants.RHO_CROSSFIT),
            "equal cost",
            True,
        ),
        variants.RHO_HOLDOUT,
    ],
    baseline="uniform_all_decay",
    options={
        **set_options.LETTERS,
        **{"seeds": [0], "validation": 0.1, "task.noise": 0.1, "task.il_model": {"widths": [8]}},
        **{"task.relevance": 0.06, "il.epochs": 1, "train.steps": 20, "train.eval_every": 5},
    },
    vary={
        "target": {"one": {"task.model": {"widths": [8]}}, "two": {"task.model": {"widths": [9]}}}
    },
    figures=["curves", "shares"],
)


def test_a_suite_leaves_one_row_a_run_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "runs", tmp_path / "results"

    def again(suite: Suite, out: Path = out) -> tuple[bool, list[dict[str, str]]]:
        return run.run(suite, tmp_path / "data", out, processes=1, results=results)

    one = replace(TINY, vary={"target": {"one": TINY.vary["target"]["one"]}})
    assert again(one)[0] is False
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("test.json")}
    assert len(finished) == 4
    failed, curves = again(TINY)
    assert not failed
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    # Both targets use one store of each kind.
    assert len(list((out / "tiny-full" / "il").glob("*.safetensors"))) == 2

    rows = derive.read_runs("tiny", results)
    names = [method["name"] for method in TINY.methods]
    assert [(row["cell"], row["method"], row["seed"]) for row in rows] == [
        (cell, name, "0") for cell in ("one", "two") for name in names
    ]
    needed = ("test", "validation", "worst_class", "noisy", "less_relevant", "correct", "cost")
    needed += ("commit", "machine", "torch", "date", "label")
    assert all(row[name] for row in rows for name in needed)
    fixed = [row for row in rows if row["method"] != "all_cost_with_il"]
    assert {row["steps"] for row in fixed} == {"20"}
    assert {row["selected"] for row in fixed} == {"640"}
    assert all((float(row["il_seconds"]) > 0) == ("rho" in row["method"]) for row in rows)
    # The baseline meets its own end, at the latest at the end.
    assert all(row["steps_to_target"] for row in rows if row["method"] == "uniform_all_decay")
    ends = {(c["cell"], c["method"]): float(c["accuracy"]) for c in curves if c["step"] == "20"}
    for (cell, name), accuracy in ends.items():
        found = derive.methods(derive.in_cell(rows, cell))[name]
        if name != "all_cost_with_il":
            assert found.mean("validation") == pytest.approx(accuracy, abs=1e-5)

    figures.draw(TINY, rows, curves, tmp_path / "figures")
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {f"tiny-{kind}.png" for kind in TINY.figures}

    # Less than there is, or a folder of another comparison, leaves the rows as they are.
    changed = replace(TINY, options={**TINY.options, "validation": 0.2})
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "tiny-full").write_text("in the way")
    for suite, place in ((changed, out), (TINY, blocked)):
        capsys.readouterr()
        assert again(suite, place)[0] is True
        assert "experiments: tiny, one: " in capsys.readouterr().err
        assert derive.read_runs("tiny", results) == rows


@pytest.mark.parametrize("variant", ["quick", "full"])
def test_every_suite_makes_arguments_of_compare(variant: str, tmp_path: Path) -> None:
    from experiments.suite import names

    for name in names():
        suite = load(name, variant)
        for cell in suite.cells:
            given: dict[str, Any] = run.arguments(suite, cell, tmp_path)
            assert len(given["methods"]) == len(suite.methods)
            assert given["train"].steps == cell.options["train.steps"]
            folder = given["task_options"].get("folder")
            assert (folder is None) == (given["task_options"]["name"] == "letters")


def test_a_short_trial_is_short_everywhere() -> None:
    suite = run.shortened(load("properties", "quick"), steps=50, seeds=2)
    assert all(cell.options["train.steps"] == 50 for cell in suite.cells)
    assert all(cell.options["train.eval_every"] == 10 for cell in suite.cells)
    assert all(cell.options["seeds"] == [0, 1] for cell in suite.cells)
    assert run.shortened(suite, None, None) == suite
