"""The command line end to end: what a person runs and gets wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rho_ext
from rho_train.cli import main
from rho_train.experiment import ExperimentConfig, Method

from .command import SMALL, records, train_arguments


def test_demo_leaves_a_report_and_goes_on_where_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    command = ["demo", f"--out={out}", *SMALL, "--processes=2"]
    assert main(command) == 0
    printed = capfd.readouterr().out
    for label in ("Uniform, half", "Uniform, all", "Training loss", "holdout IL", "cross-fit IL"):
        assert label in printed
    assert "report: " in printed
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert len(list((out / "figures").glob("*.svg"))) >= 5
    summary = (out / "summary.csv").read_text().splitlines()
    assert len(summary) == 6
    ends = [record for record in records(out) if record["event"] == "end"]
    assert {end["method"] for end in ends} == {line.split(",")[0] for line in summary[1:]}
    chosen = json.loads((out / "runs" / "rho_crossfit-seed0" / "chosen.json").read_text())
    assert "".join(chosen["classes"]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert sum(chosen["chosen"]) == 60 * 32
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    files |= {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    # Two stores of IL, the label noise, a history of each method that selects, five checkpoints.
    assert len(files) == 2 + 1 + 3 + 5
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize(
    ("method", "il", "has_il"),
    [
        ("uniform", "none", False),
        ("rho", "holdout", True),
        ("grad_norm", "crossfit", False),
        ("importance", "none", False),
        ("reducr", "crossfit", True),
    ],
)
def test_train(tmp_path: Path, table: Path, method: str, il: str, has_il: bool) -> None:
    out = tmp_path / "run"
    chosen = (f"--method={method}", f"--il={il}")
    assert main(train_arguments(table, out, *chosen)) == 0
    (end,) = [record for record in records(out) if record["event"] == "end"]
    assert (end["method"], end["step"]) == (method, 40)
    assert end["trained"] == 320
    assert bool(list(out.glob("il/*.safetensors"))) is has_il
    assert (out / "report.html").exists()
    # A linearly separable problem without noise is learnt.
    evals = [record["accuracy"] for record in records(out) if record["event"] == "eval"]
    assert evals[-1] > 0.9 > evals[0]


def test_dropout_makes_methods_possible_that_need_it(tmp_path: Path, table: Path) -> None:
    arguments = train_arguments(table, tmp_path / "run", "--method=bald", "--dropout=0.1")
    assert main(arguments) == 0
    (end,) = [record for record in records(tmp_path / "run") if record["event"] == "end"]
    assert (end["method"], end["scored"], end["trained"]) == ("bald", 1600, 320)


def test_more_processes_than_one_are_refused_and_not_trained_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(train_arguments(table, tmp_path / "run")) == 1
    said = capfd.readouterr().err
    assert "one process trains one model" in said
    assert "Selector(scope='global')" in said
    assert not (tmp_path / "run").exists()


def test_config_file_and_override(tmp_path: Path, table: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("method: uniform\ntrain:\n  steps: 7\n  lr: 0.01\n")
    arguments = train_arguments(table, tmp_path / "run")
    kept = [a for a in arguments if not a.startswith("--train.steps")]
    assert main([*kept[:1], f"--config={config}", *kept[1:], "--train.lr=0.02"]) == 0
    found = json.loads((tmp_path / "run" / "experiment.json").read_text())["config"]
    assert (found["train"]["steps"], found["train"]["lr"]) == (7, 0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--method=best", r"method must be one of rho, .*uniform, .*got 'best'"),
        ("--il=none", "rho needs irreducible losses"),
        ("--method=bald", "bald needs dropout layers, got dropout = 0.0; choose dropout = 0.1"),
        ("--dropout=1", r"dropout must lie in \[0, 1\), got 1.0"),
        ("--train.batch=80", "batch = 80 must not be larger than large_batch = 40"),
        ("--data.noise=2", r"rate must lie in \[0, 1\], got 2"),
        ("--data.path=missing.npz", "there is no file missing.npz"),
        ("--data.test=900", r"test must lie in \[1, 900\)"),
        ("--folds=1", "folds must be at least 2, got 1"),
        ("--holdout=1.5", r"holdout must lie in \(0, 1\), got 1.5"),
        ("--train.large_batch=700", "rho draws 700 points .* from 600; .*train.large_batch"),
        ("--il=holdout --train.large_batch=301", "rho draws 301 points .* from 300"),
        ("--recipe.lr=0", "lr must be positive"),
    ],
)
def test_bad_options_are_named(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    assert _exit_code([*train_arguments(table, tmp_path / "run"), *change.split()]) in (1, 2)
    # Before any irreducible loss is computed.
    assert not list(tmp_path.glob("run/il/*.safetensors"))
    errors = capfd.readouterr().err
    assert re.search(message, " ".join(errors.split())), errors
    assert "Traceback" not in errors


def _exit_code(arguments: list[str]) -> str | int | None:
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code


def test_unknown_options_are_errors(capfd: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["train", "--train.stepz=3"]) == 2
    assert "stepz" in capfd.readouterr().err
    assert _exit_code(["tarin"]) == 2


def test_output_folders_are_guarded(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(table, out)) == 0
    capfd.readouterr()
    assert main(train_arguments(table, out, "--seed=5")) == 1
    assert "holds another experiment: seeds differ" in capfd.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(train_arguments(table, blocked / "run")) == 1
    assert re.search(r"cannot make the folder .*choose another --out", capfd.readouterr().err)
    (out / "experiment.json").write_text("{")
    assert main(train_arguments(table, out)) == 1
    assert "is damaged" in capfd.readouterr().err


def test_a_store_of_other_data_is_refused(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(train_arguments(table, one, "--data.noise=0.5")) == 0
    assert main(train_arguments(table, two, "--data.noise=0.1")) == 0
    (store,), (place,) = one.glob("il/*"), two.glob("il/*")
    # The name tells what a store was made from; somebody who renames one is not believed.
    assert store.name != place.name
    place.write_bytes(store.read_bytes())
    capfd.readouterr()
    assert main(train_arguments(table, two, "--data.noise=0.1")) == 1
    assert re.search(r"another data set.*labels", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"seeds": ()}, "seeds must be different and at least one"),
        ({"baseline": "best"}, "baseline must be one of uniform, got 'best'"),
        ({"methods": 2 * (Method("uniform", "u", "uniform"),)}, "methods must be different"),
        ({"validation": 1.0}, r"validation must lie in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_experiments_do_not_start(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {
        "title": "t",
        "description": "d",
        "methods": (Method("uniform", "u", "uniform"),),
        "baseline": "uniform",
        "seeds": (0,),
    }
    ExperimentConfig(**options)
    with pytest.raises(ValueError, match=message):
        ExperimentConfig(**options | changes)
    with pytest.raises(ValueError, match="points of the holdout have no irreducible loss"):
        Method("rho", "r", "rho", "holdout", "all")


def test_changed_data_are_another_experiment(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(table, out)) == 0
    with np.load(table) as arrays:
        np.savez(table, features=2 * arrays["features"] + 1, labels=arrays["labels"])
    assert main(train_arguments(table, out)) == 1
    assert "holds another experiment: data differ" in capfd.readouterr().err


def test_report_of_several_runs(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert main(train_arguments(table, one, "--method=uniform", "--il=none")) == 0
    assert main(train_arguments(table, two, "--method=grad_norm", "--il=none")) == 0
    assert main(train_arguments(table, three, "--data.noise=0.5")) == 0
    (one / "report.html").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(one), str(two)]) == 0
    page = (tmp_path / "rho-report" / "report.html").read_text()
    assert all(f"({name})" in page for name in ("one", "two"))
    assert main(["report", str(one), str(two), f"--out={tmp_path / 'both'}"]) == 0
    assert (tmp_path / "both" / "summary.csv").exists()
    assert not (one / "report.html").exists()
    assert main(["report", str(one)]) == 0
    assert (one / "report.html").exists()
    capfd.readouterr()
    assert main(["report", str(one), str(three)]) == 1
    assert "were made on other data (noise: 0.0 and 0.5)" in capfd.readouterr().err


def test_doctor_prints_the_build(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capfd.readouterr().out
    assert all(name in printed for name in rho_ext.build_info())
