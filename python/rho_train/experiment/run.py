"""Runs an experiment: irreducible losses first, then every method, as processes become free."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
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
from rho_train.experiment.jobs import il_job, il_steps, run_folder, train_job
from rho_train.files import atomic_write
from rho_train.progress import OnStep, Stopped, stop_signals

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Job:
    name: str
    work: Callable[[OnStep], None]
    steps: int
    needs: str | None = None


def run_experiment(config: ExperimentConfig, out: Path, *, processes: int = 1) -> None:
    """Run what is not finished yet and leave metrics, stores and checkpoints in `out`.

    Args:
        config: what to run.
        out: output folder; runs of the same experiment that are finished there are kept, and
            unfinished ones go on from their checkpoint.
        processes: how many jobs run at a time; the cores are shared out evenly.

    Raises:
        Stopped: Ctrl-C or SIGTERM; run it again to go on.
        ValueError: `out` holds another experiment.
        OSError: `out` cannot be written.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    jobs = _jobs(config, out)
    processes = min(processes, len(jobs))
    threads = torch.get_num_threads() if processes == 1 else max(1, _cores() // processes)
    _claim(config, out, environment(processes, threads))
    steps = sum(job.steps for job in jobs)
    with (
        stop_signals() as stop,
        tqdm(total=steps, unit="step", dynamic_ncols=True, disable=None) as bar,
    ):
        if processes == 1:
            _run_here(jobs, bar, stop)
        else:
            _run_in_processes(jobs, bar, stop, processes, threads)
    runs = [run_folder(out, method, seed) for seed in config.seeds for method in config.methods]
    atomic_write(out / "metrics.jsonl", ((run / "metrics.jsonl").read_bytes() for run in runs))


def _jobs(config: ExperimentConfig, out: Path) -> list[_Job]:
    kinds = sorted({method.il for method in config.methods} - {"none"})
    steps = {kind: il_steps(config, kind) for kind in kinds}
    losses = [
        _Job(f"{kind}-{seed}", partial(il_job, config, out, kind, seed), steps[kind])
        for seed in config.seeds
        for kind in kinds
    ]
    runs = [
        _Job(
            f"{method.name}-{seed}",
            partial(train_job, config, out, method, seed),
            config.train.steps,
            None if method.il == "none" else f"{method.il}-{seed}",
        )
        for seed in config.seeds
        for method in config.methods
    ]
    return losses + runs


def _claim(config: ExperimentConfig, out: Path, where: dict[str, str | int]) -> None:
    """Write experiment.json, or check that the one in `out` is of this experiment."""
    path = out / "experiment.json"
    wanted = config.as_dict()
    if path.exists():
        try:
            found = json.loads(path.read_text())["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete the folder {out} to start again"
            ) from error
        differing = sorted(key for key in wanted if found.get(key) != wanted[key])
        if differing:
            raise ValueError(
                f"{out} holds another experiment: {', '.join(differing)} differ; choose another "
                "--out, or delete that folder"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot make the folder {out}: {error.strerror}; choose another --out"
        ) from error
    description: dict[str, Any] = {
        "title": config.title,
        "description": config.description,
        "methods": [{"name": m.name, "label": m.label} for m in config.methods],
        "seeds": list(config.seeds),
        "baseline": config.baseline,
        "steps": config.train.steps,
        "config": wanted,
        "environment": where,
    }
    atomic_write(path, json.dumps(description, indent=1))


def _run_here(jobs: list[_Job], bar: tqdm[Any], stop: threading.Event) -> None:
    def on_step(steps: int) -> bool:
        bar.update(steps)
        return stop.is_set()

    for job in jobs:
        bar.set_description(job.name)
        job.work(on_step)
        if stop.is_set():
            raise Stopped("stopped; run the same command again to go on")


def _run_in_processes(
    jobs: list[_Job], bar: tqdm[Any], stop: threading.Event, processes: int, threads: int
) -> None:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    progress: Any = context.Queue()
    stop_all = context.Event()
    waiting, done = list(jobs), set[str]()
    running: dict[Future[None], _Job] = {}
    with _pool(context, processes, threads, progress, stop_all) as pool:
        while waiting or running:
            for job in [job for job in waiting if job.needs is None or job.needs in done]:
                waiting.remove(job)
                running[pool.submit(_work, job.work)] = job
            finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            bar.update(_drain(progress))
            if stop.is_set():
                raise Stopped("stopped; run the same command again to go on")
            for future in finished:
                future.result()
                done.add(running.pop(future).name)
            bar.set_postfix_str(", ".join(job.name for job in running.values()), refresh=False)
        # What the last workers reported may still be on its way.
        bar.update((bar.total or 0) - bar.n)


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
        raise RuntimeError(
            "a worker process was killed, perhaps for lack of memory; run the same command again "
            "to go on, with fewer --processes if memory is short"
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# In a worker process:
_progress: Any = None
_stop_all: Any = None


def _start(threads: int, progress: Any, stop_all: Any) -> None:
    global _progress, _stop_all
    _progress, _stop_all = progress, stop_all
    torch.set_num_threads(threads)
    # Ctrl-C goes to the whole process group; the parent alone decides, through stop_all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


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
