"""A program that trains in several ways, kills each run twice, and lets it finish.

test_interruption.py compares what they left.

torch is imported once: each run is a process that is forked before torch has any threads.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from ways import CONFIG, KILLED, make_trainer

from rho_train import TrainConfig, Trainer
from rho_train.files import atomic_write
from rho_train.run_folder import save_checkpoint
from rho_train.trainer.metrics_logger import MetricsFile

SEED = 0
_FUNCTIONS: dict[str, list[Any]] = {
    "start": [Trainer.__init__],
    "step": [Trainer._train_step],
    "checkpoint": [save_checkpoint],
    "file": [atomic_write],
    "metrics": [MetricsFile.write, MetricsFile.flush],
}
_PLACES = {id(f.__code__): place for place, functions in _FUNCTIONS.items() for f in functions}
# No moment: nothing watches such a run.
_LET_FINISH = ("", -1)
# Of the writing of a file, the moments before and after each system call matter.
_ON_DISK = ("file", "metrics")
_SYSTEM_CALLS = ("open", "write", "flush", "fsync", "replace", "close", "truncate", "stat")
# The kill "anywhere" comes from another process and hits what C++ or the kernel is doing then;
# the others are exact.
_FIRST_KILLS = ("file", "checkpoint", "metrics", "file", "step", "anywhere", "file", "metrics")


class Watch:
    """Counts the events of the interpreter in each place, and kills the process at one of them."""

    def __init__(self, log: Path, moment: tuple[str, int]) -> None:
        self.log, self.moment = log, moment
        self.counts = Counter[str]()
        self.places = ["elsewhere"]
        os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
        if moment != _LET_FINISH:
            sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        place = _PLACES.get(id(frame.f_code))
        if place and event == "call":
            self.places.append(place)
        here = self.places[-1]
        if here not in _ON_DISK or getattr(argument, "__name__", "") in _SYSTEM_CALLS:
            self._count(here, frame)
        self._count("anywhere", frame)
        if place and event == "return":
            self.places.pop()

    def _count(self, place: str, frame: FrameType) -> None:
        self.counts[place] += 1
        if self.moment == (place, self.counts[place]):
            self._kill(place, frame.f_code, frame.f_lineno)

    def _kill(self, place: str, code: CodeType, line: int) -> None:
        self.log.write_text(f"{Path(code.co_filename).name}:{line} in {code.co_name}")
        victim = os.getpid()
        if place != "anywhere":
            os.kill(victim, signal.SIGKILL)
        elif os.fork() == 0:
            time.sleep(0.0005)
            os.kill(victim, signal.SIGKILL)
            os._exit(0)


def config_of(number: int) -> TrainConfig:
    """Half of the ways load with workers, and each schedule comes by."""
    return dataclasses.replace(
        CONFIG,
        checkpoint_every=8,
        eval_every=5,
        log_every=3,
        schedule=("constant", "linear", "cosine")[number % 3],
        workers=2 * (number % 2),
    )


def train(folder: Path, number: int, moment: tuple[str, int]) -> None:
    torch.set_num_threads(1)
    log = folder.with_suffix(".log")
    watch = Watch(log, moment)
    make_trainer(folder, KILLED[number], config_of(number)).fit()
    sys.setprofile(None)
    if log.exists():
        signal.pause()  # the kill is on its way
    log.write_text(json.dumps(watch.counts))


@dataclasses.dataclass
class Ended:
    """A run that ended: its log, its exit code, and a pipe that ends with its last process."""

    log: str
    code: int
    pipe: int


def run(folder: Path, number: int, moment: tuple[str, int] = ("", 0)) -> Ended:
    """Train in a process of its own."""
    folder.with_suffix(".log").unlink(missing_ok=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(folder, number, moment)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    os.close(writer)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(folder.with_suffix(".log").read_text(), code, reader)


def main(out: Path) -> None:
    """Kill each way at a random moment, kill it again while it starts, and let it finish."""
    moments, runs = random.Random(SEED), list[Ended]()
    make_trainer(out / "warm")  # imports what torch imports late
    for number, way in enumerate(KILLED):
        counts = json.loads(run(out / f"{number}-whole", number).log)
        killed = out / f"{number}-killed"
        for place in (_FIRST_KILLS[number % len(_FIRST_KILLS)], "start"):
            moment = (place, moments.randint(1, int(0.9 * counts[place])))
            runs.append(run(killed, number, moment))
            end = {"way": way, "moment": moment, "at": runs[-1].log, "code": runs[-1].code}
            print(json.dumps(end), flush=True)
        runs.append(run(killed, number, _LET_FINISH))
        print(json.dumps({"way": way, "code": runs[-1].code}), flush=True)
    for ended in runs:
        # It ends with the last process of the run, for which this waits.
        assert os.read(ended.pipe, 1) == b""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
