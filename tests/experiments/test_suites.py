"""The suites of experiments: all are possible, and their statistics and tables are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keep
import tables
from experiments import derive, suite, variants

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def row(method: str, seed: int, **fields: Any) -> dict[str, str]:
    columns = ("cell", "test", "validation", "steps_to_target", "seconds_to_target", "il_seconds")
    known = dict.fromkeys(columns, "")
    given = {name: f"{value}" for name, value in fields.items()}
    return {**known, "method": method, "label": method, "seed": f"{seed}", **given}


def test_all_suites_claim_what_the_pages_say() -> None:
    for name in suite.names():
        for variant in ("quick", "full"):
            found = suite.load(name, variant)
            methods = {entry["name"]: entry for entry in found.methods}
            assert len(methods) == len(found.methods), name
            assert {found.baseline, *found.against, *found.ours, *found.curves} <= {*methods}
            for entry in found.methods:
                if "cost" in entry:
                    assert "cost" not in methods[entry["cost"]["to"]], f"{name}: {entry['name']}"
            slugs = [cell.slug for cell in found.cells]
            assert len(set(slugs)) == len(slugs), name
            for cell in found.cells:
                # Seeds enough, and nothing selected on the test set.
                assert len(cell.options["seeds"]) >= 5 or found.tune, name
                assert cell.options["validation"] > 0, name
                if variant == "quick" and cell.rates is not None:
                    tuned = derive.read_runs(cell.rates[0])
                    given = suite.with_rates(found.methods, cell, tuned)
                    assert all(entry["overrides"]["train.lr"] > 0 for entry in given), cell
            # "No Train No Gain": a rival with a decayed rate.
            decayed = any(
                entry["method"] == "uniform" and "train.schedule" in entry.get("overrides", {})
                for entry in found.methods
            )
            assert decayed or found.tune or name == "properties"
    with pytest.raises(ValueError, match="there is no suite 'best'; choose among tune_il"):
        suite.load("best")
    with pytest.raises(ValueError, match="must be some labels of that axis"):
        suite.specialise(suite.replace(found, quick={"set": ["Numbers"]}), "quick")


def test_committed_rows_are_those_of_their_suites() -> None:
    for name in suite.names():
        # Those with statistics of BatchNorm made anew are from before the suite left that to torch.
        rows = [row for row in derive.read_runs(name) if "recalibrated" not in row["method"]]
        if not rows:
            assert suite.load(name).status, name
            continue
        found = suite.load(name, rows[0]["variant"])
        labels = {entry["name"]: entry["label"] for entry in found.methods}
        if not derive.counted(rows):
            kept = {row["method"]: row["label"] for row in rows if "_minutes" in row["method"]}
            labels = {n: of for n, of in labels.items() if "_cost" not in n} | kept
            assert {*map(derive.earlier, (e["name"] for e in found.methods))} == {*labels}
        wanted = {
            (cell.name, method, f"{seed}", label)
            for cell in found.cells
            for method, label in labels.items()
            for seed in cell.options["seeds"]
        }
        have = [(r["cell"], r["method"], r["seed"], r["label"]) for r in rows]
        assert len(have) == len(wanted), name
        assert set(have) == wanted, name
        assert all(r["commit"] and r["machine"] and r["torch"] and r["date"] for r in rows)
        assert found.tune == "" or not any(r["test"] for r in rows)


def test_a_grid_makes_every_combination() -> None:
    made = variants.grid(variants.RHO_CROSSFIT, il__epochs=[3, 6], il__lr=[0.1])
    assert [entry["name"] for entry in made] == [
        "rho_crossfit-epochs-3-lr-0.1",
        "rho_crossfit-epochs-6-lr-0.1",
    ]
    assert made[1]["label"] == "RHO-LOSS, all, epochs 6, lr 0.1"
    assert made[1]["overrides"] == {"il.epochs": 6, "il.lr": 0.1}
    assert "overrides" not in variants.RHO_CROSSFIT


def test_rates_come_from_the_tuning() -> None:
    methods = [variants.UNIFORM_ALL, variants.RHO_CROSSFIT_DECAY, variants.ALL_COST]
    methods += [variants.changed(variants.RHO_CROSSFIT, "own", "own", train__lr=0.5)]
    kinds = {"uniform_all": (1, 3), "uniform_all_decay": (2, 1), "rho_crossfit_decay": (0.5, 0.6)}
    rows = [
        row(f"{kind}-lr-{i + 1}e-05", seed, cell=cell, validation=of[i] + seed)
        for kind, of in kinds.items()
        for i in (0, 1)
        for seed in (0, 1)
        for cell in ("x", "y", "z")
    ]
    cell = suite.Cell("", {}, ("t", "x"))
    given = [entry["overrides"]["train.lr"] for entry in suite.with_rates(methods, cell, rows)]
    assert given == [2e-05, 2e-05, 1e-05, 0.5]
    # Of y one kind is missing; of z one run of a seed.
    rows = [r for r in rows if r["cell"] != "y" or r["method"].startswith("uniform_all-")]
    rows = [r for r in rows if r["cell"] != "z" or r["seed"] == "0" or "rho" not in r["method"]]
    for name, message in {
        "w": "rates of t: no results for 'w'; run the suite t first",
        "y": "rates of t: 'y' has no results for rho_crossfit_decay",
        "z": "rates of t: results for 'z' are not complete",
    }.items():
        with pytest.raises(ValueError, match=message):
            suite.with_rates(methods, suite.Cell("", {}, ("t", name)), rows)


def test_statistics_are_taken_seed_by_seed() -> None:
    base = [
        row("base", s, test=0.5 + s / 10, steps_to_target=100, seconds_to_target=1.0, il_seconds=0)
        for s in range(3)
    ]
    ours = [
        row("ours", 0, test=0.6, steps_to_target=50, seconds_to_target=2.0, il_seconds=2, noisy=4),
        row("ours", 1, test=0.7, steps_to_target=25, seconds_to_target=0.25, il_seconds=1, noisy=4),
        row("ours", 2, test=0.6, il_seconds=1, noisy=4),
    ]
    found = derive.methods([*base, *[{**of, "selected": "16"} for of in ours]], "base")
    method = found["ours"]
    above = method.above(base)
    assert (above.n, above.ahead, above.points) == (3, 2, "+3.3 ± 6.7")
    # The third seed never meets the target, so it is infinitely late and its factor is 0.
    assert (method.reached, method.median(derive.steps), method.factor(derive.steps)) == (2, 50, 2)
    assert method.factor(derive.cost) == 0.5
    assert method.factor(derive.cost_with_il) == 0.25
    costs = [{**of, "cost_to_target": "4", "il_cost": "4"} for of in ours]
    assert derive.cost_with_il(costs[0]) == 8
    assert method.share("noisy") == 0.25
    late = derive.methods([*base, ours[0], ours[2], {**ours[2], "seed": "1"}], "base")["ours"]
    assert late.median(derive.steps) is None
    assert late.factor(derive.steps) is None


def test_tables_are_what_the_rows_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out
    names = {page.name: page for page in tables.pages()}
    assert {"README.md", "RESULTS.md"} <= names.keys()
    page = tmp_path / "page.md"
    right = "<!-- table: larger models -->\n<!-- end -->\n\nprose\n"
    page.write_text(right)
    assert tables.main([f"{page}"]) == 0
    written = page.read_text()
    assert "| MLP of 3 x 768 | OCR letters, 40 % noise | +5.2 ± 0.3 | +1.6 ± 0.1 |" in written
    assert written.endswith("<!-- end -->\n\nprose\n")
    capsys.readouterr()
    page.write_text(written.replace("+5.2 ± 0.3", "+5.3 ± 0.3"))
    assert tables.main(["--check", f"{page}"]) == 1
    assert "-| MLP of 3 x 768 | OCR letters, 40 % noise | +5.3" in capsys.readouterr().out
    assert "+5.3" in page.read_text()
    for wrong, message in {
        "<!-- table: largest -->\n<!-- end -->": "no table 'largest'; choose among demo",
        "<!-- table: demo -->\n": "a table has no <!-- end -->",
    }.items():
        page.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            tables.main([f"{page}"])


def test_kept_rows_replace_those_of_the_same_case(tmp_path: Path) -> None:
    for median in ("7.5", "6.5"):
        file = tmp_path / "dispatch.csv"
        rows = [
            {"benchmark": "dispatch", "machine": "long name", "date": "today", "commit": "c"}
            | {"torch": "t", "threads": "1", "path": path, "median_us": median}
            | {"minimum_us": "1", "over_cheapest": "2"}
            for path in ("a", "b")
        ]
        file.write_text(keep.csv_text(rows))
        assert keep.main(["--machine=m", f"--results={tmp_path}", f"{file}"]) == 0
    kept = keep.read_csv(tmp_path / "dispatch" / "runs.csv")
    assert [(r["machine"], r["path"], r["median_us"]) for r in kept] == [
        ("m", "a", "6.5"),
        ("m", "b", "6.5"),
    ]
    (tmp_path / "other.csv").write_text("benchmark\nother\n")
    with pytest.raises(SystemExit, match="benchmark must be one of select, step"):
        keep.main(["--machine=m", f"{tmp_path / 'other.csv'}"])


def test_generated_files_stay_small() -> None:
    figures = list(BENCHMARKS.glob("**/*.png"))
    assert figures
    assert max(path.stat().st_size for path in figures) < 150_000
    committed = [*figures, *BENCHMARKS.glob("**/results/*/*.csv")]
    committed += BENCHMARKS.glob("experiments/RESULTS.md")
    assert sum(path.stat().st_size for path in committed) < 2_000_000


def test_figures_are_drawn_from_kept_rows(tmp_path: Path) -> None:
    import figures

    for subject, machine, names in (
        ("memory", "epyc-zen4", ("memory",)),
        ("dispatch", "xeon", ("dispatch",)),
    ):
        file = BENCHMARKS / "results" / subject / "runs.csv"
        assert figures.main([f"{file}", f"--machine={machine}", f"--out={tmp_path}"]) == 0
        assert all((tmp_path / f"{machine}-{name}.png").exists() for name in names)
    # A part of a step is as long as its share of the whole.
    kept = [r for r in keep.read_csv(BENCHMARKS / "results/step/runs.csv") if r["step"] == "eager"]
    parts = keep.raw("step", kept[:1])
    total = float(next(r["median_us"] for r in parts if r["part"] == "total"))
    assert sum(float(r["median_us"]) for r in parts) == pytest.approx(2 * total, rel=0.01)
    kept = keep.read_csv(BENCHMARKS / "results/select/runs.csv")[:1]
    times = {r["provider"]: r["median_us"] for r in keep.raw("select", kept)}
    assert times == {name: kept[0][name] for name in times}
    assert {"eager", "compile", "rho_ext", "read"} <= times.keys()
    with pytest.raises(SystemExit, match="--machine must be one of epyc-zen4, xeon, got None"):
        figures.main([f"{BENCHMARKS / 'results' / 'select' / 'runs.csv'}"])
