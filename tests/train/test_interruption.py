"""Stopped, killed, out of disk, twice at a time: nothing that was finished is lost."""

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

import pytest

from rho_train.cli import main

from .command import SMALL, records, run, train_arguments
from .ways import WAYS, ending


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


def test_every_way_to_train_survives_kills_at_random_moments(tmp_path: Path) -> None:
    program = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path)],
        cwd=sys.prefix,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(program.stdout)
    assert program.returncode == 0, program.stderr
    runs = [json.loads(line) for line in program.stdout.splitlines()]
    assert [run["code"] for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 0] * len(WAYS)
    for number, way in enumerate(WAYS):
        killed, whole = tmp_path / f"{number}-killed", tmp_path / f"{number}-whole"
        assert ending(killed) == ending(whole), way
        # Nothing half-written is left; a history and what was chosen are there to the bit.
        names = {path.name for path in killed.iterdir()}
        assert names == {path.name for path in whole.iterdir()}
        for name in names - {"checkpoint.pt", "metrics.jsonl"}:
            assert (killed / name).read_bytes() == (whole / name).read_bytes(), (way, name)


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, table: Path) -> None:
    whole, full = tmp_path / "whole", tmp_path / "full"
    # The records come to be larger than the store before the first checkpoint is written.
    late = "--train.checkpoint_every=40"
    assert main(train_arguments(table, whole, late)) == 0
    # A limit on the size of files is a full disk that a test can have: the store still fits.
    limit = 20_000
    process = run(
        train_arguments(table, full, late),
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
    assert main(train_arguments(table, full, late)) == 0
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
