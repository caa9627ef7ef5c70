"""The command line end to end: what a person runs and gets wrong."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rho_ext
from rho_train.cli import main

from .command import SMALL, records, train_arguments


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests that are not about the report the drawing of it."""
    monkeypatch.setattr("rho_train.cli.write_report", lambda out: out / "report.html")


def test_demo_survives_a_failing_run_and_goes_on_where_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    command = ["demo", f"--out={out}", *SMALL, "--processes=2"]
    blocked = out / "runs" / "train_loss-seed0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    assert main(command) == 1
    captured = capfd.readouterr()
    assert re.search(r"error: train_loss-0: .*train_loss-seed0", captured.err)
    # The others are finished and reported.
    assert "report: " in captured.out
    finished = {record["method"] for record in records(out) if record["event"] == "end"}
    ours = {"uniform_half", "uniform_all", "smoothing", "agreement", "rho_holdout", "rho_crossfit"}
    assert finished == ours
    blocked.unlink()
    files = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    files |= {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    # Six checkpoints, two stores of IL, a history of each method that selects.
    assert len(files) == 6 + 2 + 2
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    printed = capfd.readouterr().out
    for label in ("Uniform, half", "Agreement, all", "Training loss", "holdout IL", "cross-fit IL"):
        assert label in printed
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    summary = (out / "summary.csv").read_text().splitlines()
    ends = [record["method"] for record in records(out) if record["event"] == "end"]
    assert sorted(ends) == sorted(line.split(",")[0] for line in summary[1:])
    assert len(ends) == 7
    selected = json.loads((out / "runs" / "rho_crossfit-seed0" / "selected.json").read_text())
    assert "".join(selected["classes"]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert selected["most_selected"][0]["selected"] > 1


def test_train(tmp_path: Path, table: Path, unreported: None) -> None:
    for method, il, has_il in (
        ("uniform", "none", False),
        ("rho", "holdout", True),
        ("grad_norm", "crossfit", False),
        ("reducr", "crossfit", True),
    ):
        out = tmp_path / method
        assert main(train_arguments(table, out, f"--method={method}", f"--il={il}")) == 0
        (end,) = [record for record in records(out) if record["event"] == "end"]
        assert (end["method"], end["step"], end["trained"]) == (method, 40, 320)
        assert bool(list(out.glob("il/*.safetensors"))) is has_il
        # A linearly separable problem without noise is learnt.
        evals = [record["accuracy"] for record in records(out) if record["event"] == "eval"]
        assert evals[-1] > 0.9 > evals[0]


def test_ranks_train_one_run_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compare = sys.modules["rho_train.compare"]  # the function has its name
    monkeypatch.setattr(compare, "rank_and_world", lambda: (0, 2))
    assert main(["demo", f"--out={tmp_path / 'run'}"]) == 1
    assert "2 ranks train one run together; give one method" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plan"]) == 1
    assert "plan: it measures one process on one device" in capfd.readouterr().err


def test_config_file_and_override(tmp_path: Path, table: Path, unreported: None) -> None:
    config = tmp_path / "run.yaml"
    # With a BOM, and a number that YAML 1.1 takes as a text.
    text = "method: uniform\ntrain:\n  steps: 7\n  lr: 0.01\n  weight_decay: 1e-3\n"
    config.write_text(text, encoding="utf-8-sig")
    arguments = train_arguments(table, tmp_path / "run")
    kept = [a for a in arguments if not a.startswith("--train.steps")]
    assert main([*kept[:1], f"--config={config}", *kept[1:], "--train.lr=0.02"]) == 0
    found = json.loads((tmp_path / "run" / "experiment.json").read_text())["config"]
    assert (found["train"]["steps"], found["train"]["lr"]) == (7, 0.02)
    assert found["train"]["weight_decay"] == 0.001


def test_a_wrong_config_file_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    for content, message in (
        (b"train: {step: 9}", "does not accept option 'train.step'; did you mean --train.steps"),
        (b"train: {steps: many}", "train.steps.* Got value: many"),
        (b"train: {compile: 3}", "train.compile.* Got value: 3"),
        (b"train:\n\tlr: 1", r"found character .* line 2"),
        (b"- 1", "Unexpected config: - 1"),
        (b"", "Unexpected config"),
        (b"out: \xe4", "'utf-8' codec can't decode"),
        (b"out: " + b"[" * 100_000, "depth"),
        (b"out: !!python/name:os.system", "could not determine a constructor"),
        (None, "File does not exist.*run.yaml"),
    ):
        config.unlink(missing_ok=True)
        if content is not None:
            config.write_bytes(content)
        assert main(["train", f"--config={config}", f"--out={tmp_path / 'run'}"]) in (1, 2)
        errors = capfd.readouterr().err
        assert re.match(f"rho-ext: error: .*{message}", errors), errors
        assert len(errors) < 400
    assert not (tmp_path / "run").exists()


def test_no_terminal_costs_the_work(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(code: int, **options: Any) -> None:
        out = tmp_path / f"Größe-{len(list(tmp_path.iterdir()))}"
        with monkeypatch.context() as patched:
            for name, stream in options.items():
                patched.setattr(sys, name, stream)
            assert main(train_arguments(table, out, "--il=none", "--method=uniform")) == code
        assert (out / "report.html").exists()

    ascii_only = io.TextIOWrapper(io.BytesIO(), "ascii")
    folder(0, stdout=ascii_only)
    ascii_only.flush()
    assert b"Gr??e-" in ascii_only.buffer.getvalue()  # type: ignore[attr-defined]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:
        folder(1, stdout=broken)
        # What is left in its buffer must not fail when Python ends.
        broken.flush()
    folder(0, stdout=None, stderr=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--method=best", r"method must be one of rho, .*uniform, .*got 'best'"),
        ("--il=none", "rho needs irreducible losses"),
        ("--task.dropout=1", r"dropout must lie in \[0, 1\), got 1"),
        ("--train.batch=80", "batch = 80 must not be larger than large_batch = 40"),
        ("--task=letters", "task letters: .*'path'.*; its options are noise"),
        ("--task.path=missing.npz", "there is no file missing.npz"),
        ("--task.test=900", r"test must lie in \[1, 900\)"),
        ("--task.hidden=x", r"hidden must be tuple, as .* is, got 'x'"),
        ("--folds=1", "folds must be at least 2, got 1"),
        ("--holdout=1.5", r"holdout must lie in \(0, 1\), got 1.5"),
        (
            "--train.large_batch=700",
            "rho: .*large_batch = 700 examples .* from 600; choose a smaller",
        ),
        ("--il=holdout --train.large_batch=301", "rho: .*large_batch = 301 examples .* from 300"),
        ("--recipe.lr=0", "lr must be positive"),
        (
            "--train.step=3",
            r"--train.step=3; did you mean --train.steps\? see rho-ext train",
        ),
        ("--train.steps=many", "steps.* Got value: many"),
        ("--task.hidden=16", r"hidden must be tuple, .* got 16; write \[16\]"),
        ("--il=holdot", "there is no store holdot; check --il, or give none, holdout or crossfit"),
        ("--dropout=0.1", r"did you mean --task.dropout\?"),
        ("--steps=9", r"did you mean --train.steps\?"),
    ],
)
def test_bad_options_are_named(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    assert _exit_code([*train_arguments(table, tmp_path / "run"), *change.split()]) in (1, 2)
    # Before any irreducible loss is computed.
    assert not (tmp_path / "run").exists()
    errors = capfd.readouterr().err
    # The error comes first.
    assert errors.startswith("rho-ext: error: ")
    assert re.search(message, " ".join(errors.split())), errors
    assert "Traceback" not in errors


def _exit_code(arguments: list[str]) -> str | int | None:
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code


def test_unknown_commands_are_errors(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["tarin"], [], ["il"], ["report"]):
        assert _exit_code(arguments) == 2
        assert capfd.readouterr().err.startswith("rho-ext: error: ")


COMMANDS = ("demo", "train", "plan", "report", "doctor", "il compute", "il inspect", "il verify")


def test_every_option_of_every_command_is_explained(capfd: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert _exit_code([*command.split(), "--help"]) == 0
        printed = capfd.readouterr().out
        # An option or argument begins at the second column; its text follows, on other lines too.
        found = re.findall(r"^  (\S.*(?:\n {4,}.*)*)", printed, re.MULTILINE)
        assert found, command
        for option in found:
            names, _, text = re.sub(r"\s{2,}", "\x00", option).partition("\x00")
            explained = re.search(r"[a-zA-Z]{2,} [a-zA-Z]", text.partition("(type:")[0])
            assert explained or names.startswith("-h"), f"{command}: {option}"
    assert _exit_code(["--help"]) == 0
    printed = capfd.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^ +{command.partition(' ')[0]} +[A-Z]", printed, re.MULTILINE)


def test_output_folders_are_guarded(
    tmp_path: Path, table: Path, unreported: None, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(table, out)) == 0
    capfd.readouterr()
    assert main(train_arguments(table, out, "--train.lr=0.5")) == 1
    assert "holds another comparison: train differ" in capfd.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(train_arguments(table, blocked / "run")) == 1
    assert re.search(
        r"cannot write to the folder .*choose a path whose parent is a folder",
        capfd.readouterr().err,
    )
    (out / "experiment.json").write_text("{")
    assert main(train_arguments(table, out)) == 1
    assert "is damaged" in capfd.readouterr().err


def test_changed_data_are_another_experiment(
    tmp_path: Path, table: Path, unreported: None, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(table, out)) == 0
    with np.load(table) as arrays:
        np.savez(table, features=arrays["features"] ** 3, labels=arrays["labels"])
    assert main(train_arguments(table, out)) == 1
    assert "holds another comparison: data of seed 0 differ" in capfd.readouterr().err


def test_report_is_written_again_elsewhere(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("rho_train.cli.write_report", lambda out: out)
        assert main(train_arguments(table, run, "--method=uniform", "--il=none")) == 0
    assert main(["report", str(run), f"--out={tmp_path / 'alone'}"]) == 0
    assert (tmp_path / "alone" / "report.html").exists()
    assert (tmp_path / "alone" / "summary.csv").exists()
    assert not (run / "report.html").exists()
    capfd.readouterr()
    assert main(["report", str(run), f"--out={tmp_path / 'page.html'}"]) == 1
    assert "--out must be a folder" in capfd.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_doctor_prints_the_build(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capfd.readouterr().out
    assert all(name in printed for name in rho_ext.build_info())


def test_images_are_trained_on_from_their_files(tmp_path: Path, unreported: None) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for name, channel in (("blue", 2), ("red", 0)):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    arguments = ["train", f"--out={tmp_path / 'out'}", "--recipe.epochs=2", "--task=images"]
    arguments += [f"--task.folder={tmp_path / 'images'}", "--task.hidden=[8,8,16]"]
    arguments += ["--task.size=8", "--train.steps=30", "--train.large_batch=20", "--train.batch=10"]
    assert main(arguments) == 0
    last = [r for r in records(tmp_path / "out") if r["event"] == "eval"][-1]
    assert last["accuracy"] == 1.0


def test_a_task_of_your_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unreported: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "task_of_a_user.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "from rho_train import Task\n"
        "def task(seed, width: int = 8):\n"
        "    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(seed))\n"
        "    data = TensorDataset(x, (x[:, 0] > 0).long())\n"
        "    make = lambda seed: torch.nn.Linear(2, 2 if width else 3)\n"
        "    return Task(name='mine', train=data, test=data, make_model=make)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    small = ["--train.steps=10", "--train.large_batch=20", "--train.batch=4"]
    given = ["--task=task_of_a_user:task", "--task.width=0"]
    assert main(["demo", *given, *small, "--il.epochs=1", "--seeds=1", "--processes=1"]) == 0
    assert "RHO-LOSS, all (cross-fit IL)" in capfd.readouterr().out
    described = json.loads((tmp_path / "rho-demo" / "experiment.json").read_text())
    assert described["config"]["model"]["parameters"] == 9
    store = tmp_path / "il.safetensors"
    assert main(["il", "compute", *given, "--recipe.epochs=1"]) == 0
    assert main(["train", *given, *small, f"--il={store}"]) == 0
    assert main(["il", "verify", str(store)]) == 0
    capfd.readouterr()
    assert main(["train", *given, *small, "--seed=1", f"--il={store}", "--out=other"]) == 1
    assert "belongs to another data set" in capfd.readouterr().err
    damaged = bytearray(store.read_bytes())
    damaged[-300] ^= 1
    store.write_bytes(damaged)
    assert main(["train", *given, *small, f"--il={store}", "--out=other"]) == 1
    assert "checksum" in capfd.readouterr().err
    # Before any training.
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("default")
def test_mistakes_in_a_task_are_named_and_a_warning_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd_task.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "from rho_train import Task\n"
        "def task():\n"
        "    data = TensorDataset(torch.zeros(100, 3), torch.arange(100) % 2 * 2)\n"
        "    make = lambda seed: torch.nn.Linear(4, 3)\n"
        "    return Task(name='odd', train=data, test=data, make_model=make)\n"
    )
    (tmp_path / "broken_task.py").write_text("def task(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    odd = ["--task=odd_task:task", "--train.batch=4"]
    demo = ["demo", *odd, "--seeds=1", "--train.large_batch=8", "--processes=2"]
    cannot = r"the model cannot take the batch \(.* shapes .*\); check shapes and dtypes"
    for arguments, warned, message in (
        (demo, 1, f"error: compare: {cannot}"),
        (["plan", *odd, "--ratios=[2]"], 1, f"plan: {cannot}"),
        (["train", "--task=broken_task:task"], 0, r"invalid syntax \(broken_task.py, line 1\)"),
    ):
        assert main(arguments) == 1
        said = capfd.readouterr().err
        assert re.search(message, said), said
        # The workers of a demo make the task too.
        assert said.count("rho-ext: warning: Task odd: the classes [1] are without") == warned, said
        assert (said.count("without an example"), said.count("rho-ext: error: ")) == (warned, 1)
        assert "Traceback" not in said
