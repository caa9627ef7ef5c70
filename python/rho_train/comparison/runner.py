"""Run jobs in processes as soon as the jobs that they need are done."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from tqdm.auto import tqdm

from rho_train import console
from rho_train.files import error_text
from rho_train.progress import OnStep, Stopped, leave_with_parent

_POLL_SECONDS = 0.2
# What bad input, a full disk or a diverged model raise; other errors come with their traceback.
EXPECTED = (ValueError, TypeError, IndexError, OSError, FloatingPointError)


@dataclass(frozen=True)
class Job:
    """Work that can start when the job that it needs is done."""

    name: str
    work: Callable[[OnStep], None]
    steps: int
    needs: str = ""


# A function that submits a job, and the queue of the steps that workers report.
_Executor: TypeAlias = tuple[Callable[[Job], Future[None]], Any]


class JobsFailed(Exception):
    """Some jobs of a comparison failed; the message names each with its error."""


def run_jobs(
    jobs: list[Job], bar: tqdm[Any], stop: threading.Event, processes: int, threads: int
) -> dict[str, str]:
    """Run jobs, `processes` at a time with `threads` threads each; return the errors by name."""
    waiting, done, failed = list(jobs), {""}, dict[str, str]()
    running: dict[Future[None], Job] = {}
    executor = _here(bar, stop) if processes == 1 else _pool(processes, threads)
    with executor as (submit, progress):
        while True:
            for job in [job for job in waiting if job.needs in failed]:
                waiting.remove(job)
                failed[job.name] = f"not run, {job.needs} failed"
            for job in [job for job in waiting if job.needs in done]:
                if not stop.is_set():
                    waiting.remove(job)
                    running[submit(job)] = job
            if stop.is_set():
                raise Stopped("stopped; run the same command again to go on")
            if not running:
                return failed
            bar.set_postfix_str(", ".join(job.name for job in running.values()), refresh=False)
            finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            with suppress(queue.Empty):
                while True:
                    bar.update(progress.get_nowait())
            for future in finished:
                job = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    failed[job.name] = _text(error)
                else:
                    done.add(job.name)


def _text(error: Exception) -> str:
    if isinstance(error, EXPECTED):
        return error_text(error)
    return "".join(traceback.format_exception(error)).rstrip()


@contextmanager
def _here(bar: tqdm[Any], stop: threading.Event) -> Iterator[_Executor]:
    """Run jobs in this process."""

    def on_step(steps: int) -> bool:
        bar.update(steps)
        return stop.is_set()

    def submit(job: Job) -> Future[None]:
        future: Future[None] = Future()
        bar.set_description(job.name)
        try:
            job.work(on_step)
            future.set_result(None)
        except Stopped:
            raise
        except Exception as error:
            future.set_exception(error)
        return future

    yield submit, queue.SimpleQueue()


@contextmanager
def _pool(processes: int, threads: int) -> Iterator[_Executor]:
    """Run jobs in workers, which all stop at a whole step if anything fails here."""
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    progress, stop_all = context.Queue(), context.Event()
    start = (threads, progress, stop_all, console.warned)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=start)
    others = {*multiprocessing.active_children()}

    def submit(job: Job) -> Future[None]:
        # Ctrl-C goes to the whole process group; the parent alone decides, so new workers, which
        # inherit the mask, never see it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return pool.submit(_work, job.work)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        try:
            yield submit, progress
        except Exception:
            stop_all.set()
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()
    except BrokenProcessPool as error:
        raise JobsFailed(
            "a worker process was killed, perhaps for lack of memory (use fewer --processes), or "
            "could not start (a script needs 'if __name__ == \"__main__\":'); run it again to go on"
        ) from error
    except KeyboardInterrupt:
        # A second Ctrl-C waits for no step. What is written is whole, so work goes on from there.
        for worker in {*multiprocessing.active_children()} - others:
            worker.kill()
        raise


# In a worker process:
_progress: Any = None
_stop_all: Any = None


def _start(threads: int, progress: Any, stop_all: Any, warned: set[str]) -> None:
    global _progress, _stop_all
    _progress, _stop_all = progress, stop_all
    torch.set_num_threads(threads)
    console.warned |= warned
    warnings.showwarning = console.show_warning
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
