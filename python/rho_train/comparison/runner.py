"""Run jobs in processes as soon as the jobs that they need are done."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from rho_train.files import error_text
from rho_train.methods.registry import modules
from rho_train.progress import OnStep, Progress, Stopped, leave_with_parent

_POLL_SECONDS = 0.2
# What bad input, a full disk or a diverged model raise; other errors come with their traceback.
EXPECTED = (ValueError, TypeError, IndexError, OSError, FloatingPointError)

warned = set[str]()  # the texts that are said already


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print the text of a warning once, in place of `warnings.showwarning`."""
    if f"{message}" not in warned:
        warned.add(f"{message}")
        print(f"rho-ext: warning: {message}", file=sys.stderr)


@dataclass(frozen=True)
class Job:
    """Work that can start when the job that it needs, an earlier one, is done."""

    name: str
    work: Callable[[OnStep], None]
    steps: int
    needs: str = ""


class JobsFailed(Exception):
    """Some jobs of a comparison failed; the message names each with its error."""


def run_jobs(jobs: list[Job], progress: Progress, processes: int, threads: int) -> dict[str, str]:
    """Run jobs, `processes` at a time with `threads` threads each; return the errors by name."""
    if processes == 1:
        return _run_here(jobs, progress)
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    shared = context.Value("q", 0), context.Event()
    start, others = (threads, *shared, warned, modules()), {*multiprocessing.active_children()}
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=start)
    running = dict[Future[None], Job]()
    try:
        try:
            return _run_in(pool, jobs, running, progress, processes, shared[0])
        except Exception:
            shared[1].set()  # all stop at a whole step
            # A second Ctrl-C must not meet `shutdown`, which would take its thread for ended.
            wait(running)
            raise
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
    finally:
        pool.shutdown(cancel_futures=True)


def _run_here(jobs: list[Job], progress: Progress) -> dict[str, str]:
    failed = dict[str, str]()
    for job in jobs:
        progress.bar.set_description(job.name)
        if job.needs in failed:
            failed[job.name] = f"not run, {job.needs} failed"
            continue
        try:
            job.work(progress)
        except Stopped:
            raise
        except Exception as error:
            failed[job.name] = _text(error)
        if progress.stop.is_set():
            raise Stopped
    return failed


def _run_in(
    pool: ProcessPoolExecutor,
    jobs: list[Job],
    running: dict[Future[None], Job],
    progress: Progress,
    processes: int,
    steps: Any,
) -> dict[str, str]:
    waiting, done, failed = list(jobs), {""}, dict[str, str]()
    while True:
        for job in [*waiting]:
            if job.needs in failed:
                failed[job.name] = f"not run, {job.needs} failed"
            elif job.needs in done and len(running) < processes:
                # Ctrl-C goes to the whole process group; the parent alone decides, so new workers,
                # which inherit the mask, never see it.
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
                try:
                    running[pool.submit(_work, job.work)] = job
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            else:
                continue
            waiting.remove(job)
        if not running:
            return failed
        names = ", ".join(job.name for job in running.values())
        progress.bar.set_postfix_str(names, refresh=False)
        finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        # Not `steps.value`: a killed worker may hold its lock.
        progress(steps.get_obj().value - progress.done)
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
        if progress.stop.is_set():
            raise Stopped


def _text(error: Exception) -> str:
    if isinstance(error, EXPECTED):
        return error_text(error)
    return "".join(traceback.format_exception(error)).rstrip()


# In a worker process: the steps of all workers, and whether to stop.
_steps: Any = None
_stop_all: Any = None


def _start(threads: int, steps: Any, stop_all: Any, said: set[str], known: set[str]) -> None:
    global _steps, _stop_all
    _steps, _stop_all = steps, stop_all
    torch.set_num_threads(threads)
    warned.update(said)
    warnings.showwarning = show_warning
    for module in known:
        with suppress(ImportError):  # a job that needs its methods says so
            importlib.import_module(module)
    leave_with_parent()


def _work(work: Callable[[OnStep], None]) -> None:
    def on_step(steps: int) -> bool:
        with _steps.get_lock():
            _steps.value += steps
        return bool(_stop_all.is_set())

    work(on_step)
