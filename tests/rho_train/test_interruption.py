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
from rho_train.run_folder import RunFolder

from .command import demo_arguments, records, run, train_arguments
from .ways import KILLED, ending


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Wait until the process has made a file."""
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, module_table: Path) -> Path:
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert main(train_arguments(module_table, out)) == 0
    return out


def test_a_killed_run_resumes(tmp_path: Path, module_table: Path, whole: Path) -> None:
    arguments = train_arguments(module_table, tmp_path)
    process = run([*arguments, "--train.checkpoint_every=1"])
    wait_for(process, tmp_path, "runs/*/checkpoint.pt")
    process.kill()
    process.communicate()
    assert main([*arguments, "--train.checkpoint_every=1"]) == 0
    assert records(tmp_path) == records(whole)


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    # As a terminal does: to the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert printed == ""


@pytest.mark.parametrize(
    ("processes", "kind"), [("1", "deaf"), ("2", "deaf"), ("2", "dying"), ("2", "polite")]
)
def test_ctrl_c_ends_work(processes: str, kind: str) -> None:
    """Only work that does not stop needs a second one; jobs that wait do not begin any more."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("deaf_program.py")), processes, kind],
        cwd=sys.prefix,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = list[str]()
    for seen in ("step\n", "stopping\n")[: 2 if kind == "deaf" else 1]:
        while not lines or lines[-1] != seen:
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        os.killpg(process.pid, signal.SIGINT)
    # Workers hold the pipes too, so this returns when all have ended.
    printed, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors == "rho-ext: stopped; run the same command again to go on\n"
    assert "".join([*lines, printed]).count("began") <= 2


@pytest.mark.slow
def test_ctrl_c_leaves_a_demo_that_resumes(tmp_path: Path, module_table: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    long = [f"--train.{part}=200" for part in ("steps", "eval_every", "checkpoint_every")]
    assert main(demo_arguments(module_table, whole, *long, "--processes=1")) == 0
    command = demo_arguments(module_table, stopped, *long, "--processes=2")
    process = run(command, start_new_session=True)
    wait_for(process, stopped, "runs/*/metrics.jsonl")
    press_ctrl_c(process)
    assert main([*command, "--processes=1"]) == 0
    assert records(stopped) == records(whole)


@pytest.mark.slow
def test_training_survives_kills_at_random_moments(tmp_path: Path) -> None:
    program = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path)],
        cwd=sys.prefix,
        capture_output=True,
        text=True,
        check=False,
    )
    print(program.stdout)
    assert program.returncode == 0, program.stderr
    runs = [json.loads(line) for line in program.stdout.splitlines()]
    assert [run["code"] for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 0] * len(KILLED)
    for number, way in enumerate(KILLED):
        killed, whole = tmp_path / f"{number}-killed", tmp_path / f"{number}-whole"
        assert ending(killed) == ending(whole), way
        # Nothing half-written is left; a history and what was selected are there to the bit.
        names = {path.name for path in killed.iterdir()}
        assert names == {path.name for path in whole.iterdir()}
        for name in names - {"checkpoint.pt", "metrics.jsonl"}:
            assert (killed / name).read_bytes() == (whole / name).read_bytes(), (way, name)


@pytest.mark.slow
def test_a_full_disk_is_named_and_loses_nothing(
    tmp_path: Path, module_table: Path, whole: Path
) -> None:
    # The records come to be larger than the store before the first checkpoint is written.
    arguments = train_arguments(module_table, tmp_path, "--train.checkpoint_every=40")
    # A limit on the size of files is a full disk that a test can have: the store still fits.
    limit = 20_000
    process = run(
        arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, errors = process.communicate()
    assert process.returncode == 1
    assert re.search(r"error: rho-0: .*cannot write .*: File too large; check the disk", errors), (
        errors
    )
    assert "Traceback" not in errors
    stores = {path: path.read_bytes() for path in tmp_path.glob("il/*")}
    assert stores
    assert not list(tmp_path.rglob("*.tmp"))
    assert main(arguments) == 0
    assert {path: path.read_bytes() for path in stores} == stores
    assert records(tmp_path) == records(whole)


def test_one_process_at_a_time_in_a_folder(
    tmp_path: Path, module_table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(RunFolder(tmp_path, where="test") / ".lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert main(train_arguments(module_table, tmp_path)) == 2
        assert "another process is running in" in capfd.readouterr().err
        other.communicate("\n")
