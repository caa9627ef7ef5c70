"""The command line end to end: what a person runs, stops, runs again and gets wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rho_ext
from rho_train.cli import main
from rho_train.experiment import ExperimentConfig, Method

SMALL = ["--train.steps=60", "--train.eval_every=20", "--il.epochs=1", "--seeds=1"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path / "table.npz"
    features = generator.normal(size=(900, 4))
    np.savez(path, features=features, labels=(features[:, 0] > 0).astype(np.int64))
    return path


def train_arguments(table: Path, out: Path, *more: str) -> list[str]:
    return [
        "train",
        f"--data.path={table}",
        "--data.test=300",
        f"--out={out}",
        "--train.steps=40",
        "--train.large_batch=40",
        "--train.batch=8",
        "--train.eval_every=10",
        "--train.checkpoint_every=5",
        "--hidden=[16]",
        "--recipe.epochs=2",
        "--train.lr=0.03",
        *more,
    ]


def records(out: Path) -> list[dict[str, Any]]:
    """Read the metrics without the clock."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in lines
    ]


def run(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rho_train", *arguments],
        # Not the source tree: Python would import the folder without the library.
        cwd=sys.prefix,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


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
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    files |= {path: path.stat().st_mtime_ns for path in out.rglob("checkpoint.pt")}
    assert len(files) == 2 + 5
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_leaves_a_demo_that_goes_on(tmp_path: Path, processes: int) -> None:
    long = [*SMALL, "--train.steps=200", "--train.eval_every=100", f"--processes={processes}"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(["demo", f"--out={whole}", *long]) == 0
    command = ["demo", f"--out={stopped}", *long]
    process = run(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(stopped.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    # As a terminal does: to the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert printed == ""
    assert main(command) == 0
    assert records(stopped) == records(whole)


def test_kill_leaves_no_process_and_a_run_that_goes_on(tmp_path: Path, table: Path) -> None:
    # Long enough that the kill comes before the end.
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    long = "--train.steps=400"
    assert main([*train_arguments(table, whole), long]) == 0
    process = run([*train_arguments(table, killed), long])
    while not list(killed.glob("runs/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert main([*train_arguments(table, killed), long]) == 0
    assert records(killed) == records(whole)
    demo = run(["demo", f"--out={tmp_path / 'demo'}", *SMALL, "--train.steps=5000"])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("demo/runs/*/metrics.jsonl")):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = _children(demo.pid)
    assert len(children) >= 2
    demo.kill()
    demo.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.05)


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, table: Path) -> None:
    whole, full = tmp_path / "whole", tmp_path / "full"
    assert main(train_arguments(table, whole)) == 0
    # A limit on the size of files is a full disk that a test can have: the store still fits.
    limit = 7000
    process = run(
        train_arguments(table, full),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(
        r"error: rho-0: cannot write .*: File too large.*run the same command again", errors
    ), errors
    assert "Traceback" not in errors
    stores = {path: path.read_bytes() for path in full.glob("il/*")}
    assert stores
    assert not list(full.rglob("*.tmp"))
    assert main(train_arguments(table, full)) == 0
    assert {path: path.read_bytes() for path in stores} == stores
    assert records(full) == records(whole)


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    long = [*SMALL, "--train.steps=5000"]
    demo = run(["demo", f"--out={tmp_path / 'demo'}", *long, "--processes=2"])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("demo/runs/*/metrics.jsonl")):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [child for child in _children(demo.pid) if _is_worker(child)]
    os.kill(workers[0], signal.SIGKILL)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "a worker process was killed" in errors
    assert "Traceback" not in errors


def _is_worker(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.mark.parametrize(
    ("method", "il", "has_il"),
    [("uniform", "none", False), ("rho", "holdout", True), ("grad_norm", "crossfit", False)],
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
        ("--method=best", r"method must be one of uniform, rho, .*got 'best'"),
        ("--il=none", "rho needs irreducible losses"),
        ("--train.batch=80", "batch = 80 must not be larger than large_batch = 40"),
        ("--data.noise=2", r"rate must lie in \[0, 1\], got 2"),
        ("--data.path=missing.npz", "there is no file missing.npz"),
        ("--data.test=900", r"test must lie in \[1, 900\)"),
        ("--folds=1", "folds must be at least 2, got 1"),
        ("--holdout=1.5", r"holdout must lie in \(0, 1\), got 1.5"),
        ("--train.large_batch=700", r"batch_size must lie in \[1, 600\]"),
        ("--recipe.lr=0", "lr must be positive"),
    ],
)
def test_bad_options_are_named(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    name = change.partition("=")[0]
    arguments = [a for a in train_arguments(table, tmp_path / "run") if not a.startswith(name)]
    assert _exit_code([*arguments, change]) in (1, 2)
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
    (two / "il").mkdir(parents=True)
    (store,) = one.glob("il/*")
    (two / "il" / store.name).write_bytes(store.read_bytes())
    capfd.readouterr()
    assert main(train_arguments(table, two, "--data.noise=0.1")) == 1
    assert re.search(r"another data set.*labels", capfd.readouterr().err)


def test_one_process_at_a_time_in_a_folder(tmp_path: Path, table: Path) -> None:
    out = tmp_path / "run"
    first = run([*train_arguments(table, out), "--train.steps=20000"])
    while not (out / "experiment.json").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = run(train_arguments(table, out))
    _, errors = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert "another process is running in" in errors


def test_a_second_ctrl_c_acts_at_once(tmp_path: Path) -> None:
    process = run(["demo", f"--out={tmp_path / 'demo'}", "--processes=1", "--il.epochs=100000"])
    while not (tmp_path / "demo" / "experiment.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0


@pytest.mark.parametrize("processes", [1, 2])
def test_one_failing_method_does_not_stop_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], processes: int
) -> None:
    out = tmp_path / "demo"
    blocked = out / "runs" / "train_loss-seed0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    arguments = ["demo", f"--out={out}", *SMALL, f"--processes={processes}"]
    assert main(arguments) == 1
    captured = capfd.readouterr()
    assert re.search(r"error: train_loss-0: .*train_loss-seed0", captured.err)
    assert "report: " in captured.out
    finished = {record["method"] for record in records(out) if record["event"] == "end"}
    assert finished == {"uniform_half", "uniform_all", "rho_holdout", "rho_crossfit"}
    blocked.unlink()
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"seeds": ()}, "seeds must be different and at least one"),
        ({"baseline": "best"}, "baseline must be one of uniform, got 'best'"),
        ({"methods": 2 * (Method("uniform", "u", "uniform"),)}, "methods must be different"),
        ({"hidden": (0,)}, "hidden must be positive"),
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


def test_doctor_prints_the_build(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capfd.readouterr().out
    assert all(name in printed for name in rho_ext.build_info())
