"""A program whose jobs never stop when they are asked to, as in a very long step, or die of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from tqdm.auto import tqdm

from rho_train import cli
from rho_train.comparison.runner import Job, run_jobs
from rho_train.progress import Progress, stop_signals


def say(line: bytes) -> None:
    """Write a line at once: two processes print, and unbuffered `print` writes its end apart."""
    os.write(1, line)


class Bar(tqdm):  # type: ignore[type-arg]
    """Says when a step was made."""

    def update(self, n: float | None = 1) -> bool | None:
        if n:
            say(b"step\n")
        return None


def deaf(on_step: Callable[[int], bool]) -> None:
    told = False
    while True:
        if on_step(50) and not told:
            told = True
            say(b"stopping\n")
        time.sleep(0.01)


def polite(on_step: Callable[[int], bool]) -> None:
    say(b"began\n")
    while not on_step(50):
        time.sleep(0.01)


def dying(on_step: Callable[[int], bool]) -> None:
    polite(on_step)
    os._exit(1)


def doctor() -> None:
    with stop_signals() as stop:
        kinds = {"polite": polite, "dying": dying, "deaf": deaf}
        jobs = [Job(name, kinds[sys.argv[2]], 1) for name in "abcdefgh"]
        run_jobs(jobs, Progress(Bar(disable=True), stop), int(sys.argv[1]), 1)


if __name__ == "__main__":
    cli._COMMANDS["doctor"] = doctor
    sys.exit(cli.main(["doctor"]))
