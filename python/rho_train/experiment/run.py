"""Runs an experiment: irreducible losses first, then every method, as processes become free."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from rho_train.experiment.config import ExperimentConfig
from rho_train.experiment.environment import environment
from rho_train.experiment.folder import claimed
from rho_train.experiment.jobs import il_job, il_steps, run_folder, train_job, train_steps
from rho_train.experiment.setting import training_points
from rho_train.files import atomic_write, error_text
from rho_train.methods.registry import needs_of
from rho_train.progress import OnStep, Stopped, leave_with_parent, stop_signals

_POLL_SECONDS = 0.2
_AGAIN = "stopped; run the same command again to go on"
# What bad input, a full disk or a diverged model raise; anything else is a fault of ours.
_EXPECTED = (ValueError, IndexError, OSError, FloatingPointError)


@dataclass(frozen=True)
class _Job:
    """Work that can start when the jobs that it needs are done; `steps` may depend on them."""

    name: str
    work: Callable[[OnStep], None]
    steps: Callable[[], int]
    needs: frozenset[str] = frozenset()
    planned: bool = False


class JobsFailed(Exception):
    """Some jobs of an experiment failed; the message names each with its error."""


def run_experiment(
    config: ExperimentConfig,
    out: str | Path,
    *,
    processes: int = 0,
    origin: Mapping[str, str | int] | None = None,
) -> None:
    """Run what is not finished yet and leave metrics, stores and checkpoints in `out`.

    A job that fails does not stop the others.

    Args:
        config: what to run.
        out: output folder; runs of the same experiment that are finished there are kept, and
            unfinished ones go on from their checkpoint.
        processes: how many jobs run at a time, with the cores shared out evenly; 0: one for each
            core. A script that asks for more than one needs `if __name__ == "__main__":`.
        origin: what else to keep of where the numbers come from, such as a commit.

    Raises:
        Stopped: Ctrl-C or SIGTERM; run it again to go on.
        ValueError: `out` holds another experiment, or another process is writing there.
        OSError: `out` cannot be written.
        JobsFailed: after all other jobs are done.
    """
    if processes < 0:
        raise ValueError(f"processes must be at least 0, got {processes}")
    out = Path(out)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = min(processes or cores or 1, len(config.methods) * len(config.seeds))
    threads = torch.get_num_threads() if processes == 1 else max(1, (cores or 1) // processes)
    where = {**environment(processes, threads), **(origin or {})}
    jobs = _jobs(config, out, where)
    # Of runs that get the minutes of others the steps are not known yet.
    steps = sum(job.steps() for job in jobs if not job.planned)
    with (
        claimed(config, out, where),
        stop_signals() as stop,
        tqdm(total=steps, unit="step", dynamic_ncols=True, disable=None) as bar,
    ):
        if processes == 1:
            failed = _run_here(jobs, bar, stop)
        else:
            failed = _run_in_processes(jobs, bar, stop, processes, threads)
        runs = [
            run_folder(out, m.name, seed) / "metrics.jsonl"
            for seed in config.seeds
            for m in config.methods
        ]
        atomic_write(out / "metrics.jsonl", (run.read_bytes() for run in runs if run.exists()))
    if failed:
        raise JobsFailed("\n".join(f"{name}: {error}" for name, error in failed.items()))


def _jobs(config: ExperimentConfig, out: Path, where: Mapping[str, str | int]) -> list[_Job]:
    data = config.data.load()
    losses: dict[str, _Job] = {}
    runs = []
    for seed in config.seeds:
        n = training_points(config, data, seed)
        _check_runs(config, n)
        for method in config.methods:
            own, needs = config.of(method), set[str]()
            if method.computes_il:
                name = f"{own.il_name(method.il)}-{seed}"
                needs.add(name)
                if name not in losses:
                    work = partial(il_job, own, out, method.il, seed)
                    losses[name] = _Job(name, work, partial(il_steps, own, method.il, n))
            if method.minutes is not None:
                needs |= {f"{method.minutes.of}-{seed}", f"{method.minutes.pace}-{seed}"}
            runs.append(
                _Job(
                    f"{method.name}-{seed}",
                    partial(train_job, config, out, method, seed, where),
                    partial(train_steps, config, out, method, seed),
                    frozenset(needs),
                    planned=method.minutes is not None,
                )
            )
    return [*losses.values(), *runs]


def _check_runs(config: ExperimentConfig, n: int) -> None:
    """Refuse what no run could do before hours go into irreducible losses."""
    for method in config.methods:
        own = config.of(method)
        points = n if method.points == "all" else n - round(own.holdout * n)
        points = round(method.keep * points)
        name = "batch" if method.select == "uniform" else "large_batch"
        drawn = getattr(own.train, name)
        if drawn > points:
            raise ValueError(
                f"method {method.name} draws {drawn} points at a time from {points}; choose a "
                f"smaller train.{name}"
            )
        if "dropout" in needs_of(method.select) and own.model.dropout == 0.0:
            raise ValueError(
                f"method {method.name} needs dropout layers, got dropout = {own.model.dropout}; "
                "choose dropout = 0.1 or so"
            )


def _ready(
    waiting: list[_Job], done: set[str], failed: dict[str, str], bar: tqdm[Any]
) -> list[_Job]:
    """Take the jobs out of `waiting` that can start now; those that never can fail."""
    ready: list[_Job] = []
    # One that fails here may be what another one, looked at before, waits for.
    while not ready and _take(waiting, ready, done, failed, bar):
        pass
    return ready


def _take(
    waiting: list[_Job],
    ready: list[_Job],
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
            except _EXPECTED as error:
                failed[job.name] = error_text(error)
            else:
                ready.append(job)
        else:
            ready.append(job)
        waiting.remove(job)
    return len(waiting) < before


def _run_here(jobs: list[_Job], bar: tqdm[Any], stop: threading.Event) -> dict[str, str]:
    def on_step(steps: int) -> bool:
        bar.update(steps)
        return stop.is_set()

    waiting, done, failed = list(jobs), set[str](), dict[str, str]()
    while ready := _ready(waiting, done, failed, bar):
        for job in ready:
            bar.set_description(job.name)
            try:
                job.work(on_step)
            except _EXPECTED as error:
                failed[job.name] = error_text(error)
            else:
                done.add(job.name)
            if stop.is_set():
                raise Stopped(_AGAIN)
    return failed


def _run_in_processes(
    jobs: list[_Job], bar: tqdm[Any], stop: threading.Event, processes: int, threads: int
) -> dict[str, str]:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    progress: Any = context.Queue()
    stop_all = context.Event()
    waiting, done, failed = list(jobs), set[str](), dict[str, str]()
    running: dict[Future[None], _Job] = {}
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
                except _EXPECTED as error:
                    failed[job.name] = error_text(error)
                else:
                    done.add(job.name)
    # What the last workers reported may still be on its way.
    bar.update(0 if failed else (bar.total or 0) - bar.n)
    return failed


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
