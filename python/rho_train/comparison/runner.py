"""Run jobs in processes as soon as the jobs that they need are done."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from rho_train.files import error_text
from rho_train.progress import OnStep, Stopped, leave_with_parent

_POLL_SECONDS = 0.2
_AGAIN = "stopped; run the same command again to go on"
# What bad input, a full disk or a diverged model raise; other errors are named by their type.
_EXPECTED = (ValueError, IndexError, OSError, FloatingPointError)


@dataclass(frozen=True)
class Job:
    """Work that can start when the jobs that it needs are done; `planned` steps depend on them."""

    name: str
    work: Callable[[OnStep], None]
    steps: Callable[[], int]
    needs: frozenset[str] = frozenset()
    planned: bool = False


class JobsFailed(Exception):
    """Some jobs of a comparison failed; the message names each with its error."""


def run_jobs(
    jobs: list[Job], bar: tqdm[Any], stop: threading.Event, processes: int, threads: int
) -> dict[str, str]:
    """Run jobs, `processes` at a time with `threads` threads each; return the errors by name.

    Raises:
        Stopped: `stop` was set.
        JobsFailed: a process was killed.
    """
    if processes == 1:
        return _run_here(jobs, bar, stop)
    return _run_in_processes(jobs, bar, stop, processes, threads)


def _ready(waiting: list[Job], done: set[str], failed: dict[str, str], bar: tqdm[Any]) -> list[Job]:
    """Take the jobs out of `waiting` that can start now; those that never can fail."""
    ready: list[Job] = []
    # One that fails here may be what another one, looked at before, waits for.
    while not ready and _take(waiting, ready, done, failed, bar):
        pass
    return ready


def _take(
    waiting: list[Job],
    ready: list[Job],
    done: set[str],
    failed: dict[str, str],
    bar: tqdm[Any],
) -> bool:
    """Look at every job in `waiting` once; return whether any was taken out."""
    before = len(waiting)
    for job in list(waiting):
        if broken := sorted(job.needs & failed.keys()):
            failed[job.name] = f"not run, {broken[0]} failed"
        elif not job.needs <= done:
            continue
        elif job.planned:
            try:
                bar.total = (bar.total or 0) + job.steps()
            except Exception as error:
                failed[job.name] = _text(error)
            else:
                ready.append(job)
        else:
            ready.append(job)
        waiting.remove(job)
    return len(waiting) < before


def _run_here(jobs: list[Job], bar: tqdm[Any], stop: threading.Event) -> dict[str, str]:
    def on_step(steps: int) -> bool:
        bar.update(steps)
        return stop.is_set()

    waiting, done, failed = list(jobs), set[str](), dict[str, str]()
    while ready := _ready(waiting, done, failed, bar):
        for job in ready:
            bar.set_description(job.name)
            try:
                job.work(on_step)
            except Stopped:
                raise
            except Exception as error:
                failed[job.name] = _text(error)
            else:
                done.add(job.name)
            if stop.is_set():
                raise Stopped(_AGAIN)
    return failed


def _run_in_processes(
    jobs: list[Job], bar: tqdm[Any], stop: threading.Event, processes: int, threads: int
) -> dict[str, str]:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    progress: Any = context.Queue()
    stop_all = context.Event()
    waiting, done, failed = list(jobs), set[str](), dict[str, str]()
    running: dict[Future[None], Job] = {}
    with _pool(context, processes, threads, progress, stop_all) as pool:
        while True:
            for job in _ready(waiting, done, failed, bar):
                running[pool.submit(_work, job.work)] = job
            if not running:
                break
            bar.set_postfix_str(", ".join(job.name for job in running.values()), refresh=False)
            finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            bar.update(_drain(progress))
            if stop.is_set():
                raise Stopped(_AGAIN)
            for future in finished:
                job = running.pop(future)
                try:
                    future.result()
                except (Stopped, BrokenProcessPool):
                    raise
                except Exception as error:
                    failed[job.name] = _text(error)
                else:
                    done.add(job.name)
    # What the last workers reported may still be on its way.
    bar.update(0 if failed else (bar.total or 0) - bar.n)
    return failed


def _text(error: Exception) -> str:
    text = error_text(error)
    return text if isinstance(error, _EXPECTED) else f"{type(error).__name__}: {text}"


@contextmanager
def _pool(
    context: Any, processes: int, threads: int, progress: Any, stop_all: Any
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool whose workers stop at a whole step when anything goes wrong here."""
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_start, initargs=(threads, progress, stop_all)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise JobsFailed(
            "a worker process was killed, perhaps for lack of memory (then use fewer --processes), "
            "or could not start (a script needs 'if __name__ == \"__main__\":'); run the same "
            "command again to go on"
        ) from error
    finally:
        stop_all.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _drain(progress: Any) -> int:
    steps = 0
    while True:
        try:
            steps += progress.get_nowait()
        except queue.Empty:
            return steps


# In a worker process:
_progress: Any = None
_stop_all: Any = None


def _start(threads: int, progress: Any, stop_all: Any) -> None:
    global _progress, _stop_all
    _progress, _stop_all = progress, stop_all
    torch.set_num_threads(threads)
    # Ctrl-C goes to the whole process group; the parent alone decides, through stop_all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()


def _work(work: Callable[[OnStep], None]) -> None:
    pending = 0

    def on_step(steps: int) -> bool:
        nonlocal pending
        pending += steps
        # One message for many steps: a queue costs more than a step of a small model.
        if pending >= 50:
            _progress.put(pending)
            pending = 0
        return bool(_stop_all.is_set())

    work(on_step)
    _progress.put(pending)
