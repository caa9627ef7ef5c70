"""How long work reports its progress and learns that it should stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

OnStep = Callable[[int], bool]
"""Called with the number of steps just made; returns whether the work should stop."""


def go_on(steps: int) -> bool:
    """Report nothing and never stop: the default OnStep."""
    return False


class Stopped(Exception):
    """The work was asked to stop; what it left behind says where to go on."""


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that no step is cut in half.

    A second one acts at once. Only the main thread can receive signals; elsewhere the flag stays
    unset.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()
