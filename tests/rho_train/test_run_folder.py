"""A folder of work: what it keeps, what it refuses, and how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rho_train.progress import stop_signals
from rho_train.run_folder import RunFolder


def test_checkpoints_carry_the_identity_of_the_work(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b", where="test", identity={"seed": 1, "lr": 0.1})
    assert folder.load("x.pt") is None
    folder.save("x.pt", {"step": 3})
    assert (folder / "x.pt").exists()
    again = RunFolder(folder.path, where="test", identity={"seed": 1, "lr": 0.1})
    assert again.load("x.pt") == {"seed": 1, "lr": 0.1, "step": 3}
    other = RunFolder(folder.path, where="test", identity={"seed": 1, "lr": 0.2})
    with pytest.raises(ValueError, match=r"x\.pt belongs to a run with another lr: it has 0\.1"):
        other.load("x.pt")
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"test: cannot write to the folder .*file: File exists; choose a path"
    ):
        RunFolder(tmp_path / "file", where="test")


def test_without_a_path_nothing_is_kept() -> None:
    folder = RunFolder(None, where="test")
    folder.save("x.pt", {"step": 1})
    assert folder.load("x.pt") is None


def test_a_folder_has_one_process_and_is_cleaned(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, where="test")
    left, below = tmp_path / f".{'0' * 16}.tmp", tmp_path / "part" / f".{'1' * 16}.tmp"
    below.parent.mkdir()
    left.touch()
    below.touch()
    with folder.lock("wait"):
        assert (left.exists(), below.exists()) == (False, True)
    with folder.lock("wait", below=True):
        assert not below.exists()
        program = (
            "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        command = [sys.executable, "-c", program, str(tmp_path / ".lock")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "BlockingIOError" in ended.stderr
    subprocess.run(command, check=True)


def test_a_second_ctrl_c_acts_at_once() -> None:
    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    # The inner one is a training loop inside a comparison: it leaves the signals to the outer.
    with stop_signals() as stop, stop_signals() as inner:
        press()
        assert stop.is_set()
        assert not inner.is_set()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_inside_the_first_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(threading.Event):
        entered = False

        def set(self) -> None:
            assert not self.entered, "it would wait for the lock of the first"
            self.entered = True
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(threading, "Event", Slow)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_signals():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
