"""The command line end to end: what a person runs and gets wrong."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rho_ext
from rho_train.cli import main
from rho_train.methods.registry import unregister

from .command import SMALL, records, train_arguments


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests that are not about the report the drawing of it."""
    monkeypatch.setattr("rho_train.cli.write_report", lambda out: out / "report.html")


def test_demo_survives_a_failing_run_and_goes_on_where_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "own_methods.py").write_text(
        "from rho_train import register\n"
        "@register('lowest')\n"
        "def lowest(context):\n"
        "    return context.top(-context.losses)\n"
    )
    out = tmp_path / "demo"
    command = ["demo", f"--out={out}", *SMALL, "--processes=2"]
    # The workers import it too.
    command += ["--import=own_methods", "--methods=[lowest]"]
    blocked = out / "runs" / "train_loss-seed0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    assert main(command) == 1
    captured = capfd.readouterr()
    assert re.search(r"error: train_loss-0: .*train_loss-seed0", captured.err)
    # The others are finished and reported.
    assert f"next: open {out}" in captured.out
    finished = {record["method"] for record in records(out) if record["event"] == "end"}
    ours = {"uniform_half", "uniform_all", "smoothing", "agreement", "rho_holdout", "rho_crossfit"}
    ours.add("lowest")
    assert finished == ours
    blocked.unlink()
    files = {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    files |= {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    # Seven checkpoints, two stores of IL.
    assert len(files) == 7 + 2
    assert main([*command, "--processes=1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    printed = capfd.readouterr().out
    for label in ("Uniform, half", "Agreement, all", "Training loss", "holdout IL", "cross-fit IL"):
        assert label in printed
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    summary = (out / "summary.csv").read_text().splitlines()
    ends = [record["method"] for record in records(out) if record["event"] == "end"]
    assert sorted(ends) == sorted(line.split(",")[0] for line in summary[1:])
    assert len(ends) == 8
    unregister("lowest")
    selected = json.loads((out / "runs" / "rho_crossfit-seed0" / "selected.json").read_text())
    assert "".join(selected["classes"]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert selected["most_selected"][0]["selected"] > 1


def test_train(tmp_path: Path, table: Path, unreported: None) -> None:
    for method, il, has_il in (
        ("uniform", "none", False),
        ("rho", "holdout", True),
        ("rho", "crossfit", True),
        ("grad_norm", "crossfit", False),
    ):
        out = tmp_path / f"{method}-{il}"
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
    assert main(["demo", f"--out={tmp_path / 'run'}"]) == 2
    assert "2 ranks train one run together; give one method" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["plan"]) == 2
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


# What a person types and what is printed; a file with the text is given as --config.
MISTAKES = (
    ("", "a command is missing, one of demo,"),
    ("tarin", r"no command 'tarin'; did you mean train\? see rho-ext --help"),
    ("il", "a command is missing, one of compute,.* see rho-ext il --help"),
    ("il comptue", "did you mean il compute"),
    ("report", "the argument 'run' is missing see rho-ext report --help"),
    ("report FOLDER --out page.html", "--out must be a folder, as page"),
    ("doctor x", "options have names, as --out x; got 'x'"),
    ("plan --out x", "no option --out x; it is an option of demo, train, il compute"),
    ("plan --ratios 3", r"--ratios must be a list, as \[3\], got '3'"),
    ("demo --seeds 0", "--seeds must be at least 1, got 0"),
    ("demo --seed 3", "no option --seed 3; did you mean --seeds"),
    ("plan --models 0", "--models must be at least 1, got 0"),
    ("train --lr 1", r"did you mean --train.lr\?"),
    ("train --method RHO", r"got 'RHO'; did you mean rho\?"),
    ("demo --methods [entropi]", "method must be one of .*, got 'entropi'; did you mean entropy"),
    ("train --import no_such", "--import no_such: No module named 'no_such'"),
    ("train --import broken", r"--import broken: KeyError: 'x' \(broken.py, line 2\) see rho-ext"),
    ("train --import own.py", "--import own.py: give the name of a module, as my_module for"),
    ("train --import ./own", "--import ./own: give the name of a module"),
    ("train --scope globl", "--scope must be one of 'local', .* got 'globl'; did you mean global"),
    ("train --out", "--out: a value is missing"),
    ("TRAIN --method=best", r"method must be one of rho, .*uniform, .*got 'best'"),
    ("TRAIN --il=none", "rho needs irreducible losses"),
    ("TRAIN --task.dropout=1", r"dropout must lie in \[0, 1\), got 1"),
    ("TRAIN --train.batch=80", "batch = 80 must not be larger than large_batch = 40"),
    ("TRAIN --task=letters", "task letters: options are one of noise.* got 'path'"),
    ("TRAIN --task.path=missing.npz", "there is no file missing.npz"),
    ("TRAIN --task.test=900", r"test must lie in \[1, 900\)"),
    ("TRAIN --task.hidden=x", r"hidden must be tuple, as .* is, got 'x'"),
    ("TRAIN --task.hidden=16", r"hidden must be tuple, .* got 16; write \[16\]"),
    ("TRAIN --folds=1", "folds must be at least 2, got 1"),
    ("TRAIN --holdout=1.5", r"holdout must lie in \(0, 1\), got 1.5"),
    ("TRAIN --train.large_batch=700", r"rho: .*large_batch must lie in \[1, 600\], .* got 700"),
    ("TRAIN --il=holdout --train.large_batch=301", r"large_batch must lie in \[1, 300\]"),
    ("TRAIN --recipe.lr=0", "lr must be positive.* see rho-ext train --help"),
    ("TRAIN --train.step=3", "no option --train.step=3; did you mean --train.steps"),
    ("TRAIN --train.steps=many", "--train.steps must be a number .int., got 'many'"),
    ("TRAIN --il=crosfit", "--il must be one of .* got 'crosfit'; .* did you mean crossfit"),
    ("TRAIN --il.epochs=3", "no option --il.epochs; did you mean --recipe.epochs"),
    ("TRAIN --dropout=0.1", r"did you mean --task.dropout\?"),
    ("TRAIN --steps=9", r"did you mean --train.steps\?"),
    (b"train: {step: 9}", "no option --train.step; did you mean --train.steps"),
    (b"train: {steps: many}", "--train.steps must be .* got 'many'"),
    (b"train: {compile: 3}", "--train.compile must be true or false, got '3'"),
    (b"seed: 1\ntrain:\n  lr: 1\n  lr: 2", "run.yaml: the key 'lr' stands twice, again in line 4"),
    (b"train:\n\tlr: 1", r"run.yaml: .*found character .* line 2"),
    (b"- 1", "--config must hold options, as seed: 1; got - 1"),
    (b"", "must hold options"),
    (b"out: \xe4", "'utf-8' codec can't decode"),
    (b"out: " + b"[" * 100_000, "depth"),
    (b"out: !!python/name:os.system", "could not determine a constructor"),
    ("train --config missing.yaml", "File does not exist.*missing.yaml"),
)


def test_mistakes_are_explained(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("broken.py").write_text("known = {}\nknown['x']\n")
    config, run = tmp_path / "run.yaml", tmp_path / "run"
    for typed, message in MISTAKES:
        arguments = ["train", f"--config={config}", f"--out={run}"]
        if isinstance(typed, bytes):
            config.write_bytes(typed)
        else:
            command, *more = typed.split() or [""]
            own = train_arguments(table, run) if command == "TRAIN" else typed.split()
            arguments = [*own, *more] if command == "TRAIN" else own
        assert main(arguments) == 2, typed
        errors = capfd.readouterr().err
        assert errors.startswith("rho-ext: error: ")
        assert re.search(message, " ".join(errors.split())), (typed, errors)
        assert "Traceback" not in errors
        assert len(errors) < 400
        assert errors.count("\n") <= 3
        # Before any irreducible loss is computed.
        assert not run.exists(), typed


def test_errors_are_red_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["tarin"])
    monkeypatch.setattr(shown, "isatty", lambda: True)
    main(["tarin"])
    monkeypatch.setenv("NO_COLOR", "1")
    main(["tarin"])
    lines = shown.getvalue().splitlines()[::2]
    assert lines[0] == lines[2] != lines[1]
    assert lines[1].startswith("rho-ext: \x1b[31merror: ")


def test_the_page_of_the_commands_is_up_to_date() -> None:
    program = Path(__file__).parents[2] / "docs" / "command_line.py"
    page = runpy.run_path(f"{program}")["page"]()
    assert program.with_suffix(".md").read_text("utf-8") == page, "run docs/command_line.py"


COMMANDS = ("demo", "train", "plan", "report", "doctor", "il compute", "il inspect", "il verify")


def test_every_option_of_every_command_is_explained(capfd: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([*command.split(), "--help"])
        printed = capfd.readouterr().out
        # An option or argument begins at the second column; its text follows, on other lines too.
        found = re.findall(r"^  (\S.*(?:\n {4,}.*)*)", printed, re.MULTILINE)
        assert found, command
        for option in found:
            names, _, text = re.sub(r"\s{2,}", "\x00", option).partition("\x00")
            explained = re.search(r"[a-zA-Z]{2,} [a-zA-Z]", text.partition("(type:")[0])
            assert explained or names.startswith("-h"), f"{command}: {option}"
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capfd.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^ +{command.partition(' ')[0]} +[A-Z]", printed, re.MULTILINE)


def test_output_folders_are_guarded(
    tmp_path: Path, table: Path, unreported: None, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(table, out)) == 0
    capfd.readouterr()
    assert main(train_arguments(table, out, "--train.lr=0.5")) == 2
    assert "holds another comparison: train differ" in capfd.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(train_arguments(table, blocked / "run")) == 1
    assert re.search(
        r"cannot write to the folder .*choose a path whose parent is a folder",
        capfd.readouterr().err,
    )
    (out / "experiment.json").write_text("{")
    assert main(train_arguments(table, out)) == 2
    assert "is damaged" in capfd.readouterr().err


def test_changed_data_are_another_experiment(
    tmp_path: Path, table: Path, unreported: None, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(table, out)) == 0
    with np.load(table) as arrays:
        np.savez(table, features=arrays["features"] ** 3, labels=arrays["labels"])
    assert main(train_arguments(table, out)) == 2
    assert "holds another comparison: data of seed 0 differ" in capfd.readouterr().err


def test_report_is_written_again_elsewhere(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("rho_train.cli.write_report", lambda out: out)
        assert main(train_arguments(table, run, "--method=uniform", "--il=none")) == 0
    assert main(["report", str(run), f"--out={tmp_path / 'alone'}"]) == 0
    assert (tmp_path / "alone" / "report.html").exists()
    assert (tmp_path / "alone" / "summary.csv").exists()
    assert not (run / "report.html").exists()


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
    assert main(["demo", *given, *small, "--recipe.epochs=1", "--seeds=1", "--processes=1"]) == 0
    assert "RHO-LOSS, all (cross-fit IL)" in capfd.readouterr().out
    described = json.loads((tmp_path / "rho-demo" / "experiment.json").read_text())
    assert described["config"]["model"]["parameters"] == 9
    store = tmp_path / "il"
    assert main(["il", "compute", *given, "--recipe.epochs=1"]) == 0
    assert main(["train", *given, *small, f"--il={store}"]) == 0
    assert main(["il", "verify", str(store)]) == 0
    capfd.readouterr()
    assert main(["train", *given, *small, "--seed=1", f"--il={store}", "--out=other"]) == 2
    assert "belongs to another data set" in capfd.readouterr().err
    (file,) = store.iterdir()
    damaged = bytearray(file.read_bytes())
    damaged[-300] ^= 1
    file.write_bytes(damaged)
    assert main(["train", *given, *small, f"--il={store}", "--out=other"]) == 2
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
        assert main(arguments) == 2
        said = capfd.readouterr().err
        assert re.search(message, said), said
        # The workers of a demo make the task too.
        assert said.count("rho-ext: warning: Task odd: the classes [1] are without") == warned, said
        assert (said.count("without an example"), said.count("rho-ext: error: ")) == (warned, 1)
        assert "Traceback" not in said
