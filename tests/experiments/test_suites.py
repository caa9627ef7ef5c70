"""The suites of experiments: all are possible, and their statistics and tables are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keep
import tables
from experiments import derive, suite

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def row(method: str, seed: int, **fields: Any) -> dict[str, str]:
    given = {name: f"{value}" for name, value in fields.items()}
    return {"method": method, "label": method, "seed": f"{seed}", **given}


def test_all_suites_claim_what_the_pages_say() -> None:
    for name in suite.names():
        for variant in ("quick", "full"):
            found = suite.load(name, variant)
            methods = {entry["name"]: entry for entry in found.methods}
            assert len(methods) == len(found.methods), name
            assert {found.baseline, *found.against, *found.ours} <= {*methods}
            for entry in found.methods:
                if "cost" in entry:
                    assert "cost" not in methods[entry["cost"]["to"]], f"{name}: {entry['name']}"
            slugs = [cell.slug for cell in found.cells]
            assert len(set(slugs)) == len(slugs), name
            for cell in found.cells:
                assert len(cell.options["seeds"]) >= 5, name
                assert cell.options["validation"] > 0, name
            # "No Train No Gain": a rival with a decayed rate.
            decayed = any(
                entry["method"] == "uniform" and "train.schedule" in entry.get("overrides", {})
                for entry in found.methods
            )
            assert decayed or name == "properties"
    with pytest.raises(ValueError, match="there is no suite 'best'; choose among properties"):
        suite.load("best")
    with pytest.raises(ValueError, match="must be some labels of that axis"):
        suite.specialise(suite.replace(found, quick={"set": ["Numbers"]}), "quick")


def test_committed_rows_are_those_of_their_suites() -> None:
    for name in suite.names():
        rows = derive.read_runs(name)
        if not rows:
            assert suite.load(name).status, name
            continue
        found = suite.load(name, rows[0]["variant"])
        wanted = {
            (cell.name, entry["name"], f"{seed}", entry["label"])
            for cell in found.cells
            for entry in found.methods
            for seed in cell.options["seeds"]
        }
        have = [(r["cell"], r["method"], r["seed"], r["label"]) for r in rows]
        assert len(have) == len(wanted), name
        assert set(have) == wanted, name
        assert all(r["commit"] and r["machine"] and r["torch"] and r["date"] for r in rows)


def test_statistics_are_taken_seed_by_seed() -> None:
    base = [row("base", seed, test=0.5 + seed / 10) for seed in range(3)]
    ours = [row("ours", seed, test=of, noisy=4, selected=16) for seed, of in enumerate((6, 7, 6))]
    ours = [{**of, "test": f"{int(of['test']) / 10}"} for of in ours]
    method = derive.methods([*base, *ours])["ours"]
    above = method.above(base)
    assert (above.n, above.ahead, above.points) == (3, 2, "+3.3 ± 6.7")
    assert method.share("noisy") == 0.25


def test_tables_are_what_the_rows_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr().out
    names = {page.name: page for page in tables.pages()}
    assert {"README.md", "RESULTS.md"} <= names.keys()
    page = tmp_path / "page.md"
    right = "<!-- table: bandwidth -->\n<!-- end -->\n\nprose\n"
    page.write_text(right)
    assert tables.main([f"{page}"]) == 0
    written = page.read_text()
    assert "| xeon | " in written
    assert written.endswith("<!-- end -->\n\nprose\n")
    capsys.readouterr()
    page.write_text(written.replace("| xeon | ", "| xeon | 1"))
    assert tables.main(["--check", f"{page}"]) == 1
    assert "-| xeon | 1" in capsys.readouterr().out
    assert "| xeon | 1" in page.read_text()
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
