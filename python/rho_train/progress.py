"""Progress reports, and requests to stop."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tqdm.auto import tqdm

OnStep = Callable[[int], bool]
"""Called with the number of steps just made; returns whether the work should stop."""


def no_op(steps: int) -> bool:
    """Report nothing and never stop: the default OnStep."""
    return False


class Stopped(Exception):
    """The work was asked to stop; it can be resumed."""


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that no step is cut in half.

    A second one acts at once. Signals that somebody else handles, as an outer `stop_signals`, are
    left alone. So are threads other than the main one, and child processes of multiprocessing.
    """
    stop = threading.Event()
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    in_main = threading.current_thread() is threading.main_thread()
    ours = in_main and multiprocessing.parent_process() is None
    before = {n: d for n, d in defaults.items() if ours and signal.getsignal(n) is d}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        # In this order: a second signal inside `set` would wait for the lock that it holds.
        restore()
        stop.set()

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()


@dataclass
class Progress:
    """Count steps on a bar, and ask to stop after the first Ctrl-C or SIGTERM; an OnStep."""

    bar: tqdm[Any]
    stop: threading.Event
    done: int = 0

    def __call__(self, steps: int) -> bool:
        """Count steps, and return whether to stop."""
        self.done += steps  # a bar that is not shown does not count
        self.bar.update(steps)
        return self.stop.is_set()


@contextlib.contextmanager
def progress_bar(total: int, *, hidden: bool) -> Iterator[Progress]:
    """Show a bar of steps where standard error is a terminal; Stopped says how far they came."""
    with (
        tqdm(total=total, unit="step", dynamic_ncols=True, disable=hidden or None) as bar,
        stop_signals() as stop,
    ):
        progress = Progress(bar, stop)
        try:
            yield progress
        except Stopped as error:
            at = f"stopped at step {progress.done:,} of {total:,}"
            raise Stopped(f"{at}; run the same command again to go on") from error


def leave_with_parent() -> None:
    """End this worker process when its parent ends, by a kill too."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
