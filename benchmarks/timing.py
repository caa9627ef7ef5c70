"""Interleaved timing: every provider in every repeat, in another order each time."""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Arguments = tuple[Any, ...]
Function = Callable[..., Any]

CLOCKS = ("events", "graph", "wall")
# A sample this long is far above the resolution of the clock and the cost of reading it.
SAMPLE_US = 200.0
MAX_CALLS = 2000
MAX_REPEATS = 2000


@dataclass(frozen=True)
class Times:
    """Microseconds per call, over the repeats."""

    repeats: int
    median: float
    p20: float
    p80: float
    minimum: float

    @staticmethod
    def of(samples: Sequence[float]) -> Times:
        fifths = statistics.quantiles(samples, n=5, method="inclusive")
        return Times(len(samples), statistics.median(samples), fifths[0], fifths[-1], min(samples))

    def columns(self) -> dict[str, object]:
        return {
            "repeats": self.repeats,
            "median_us": f"{self.median:.3f}",
            "p20_us": f"{self.p20:.3f}",
            "p80_us": f"{self.p80:.3f}",
        }


class Timer(Protocol):
    """Takes samples on a device.

    Attributes:
        sample_us: how long a sample should be, far above what starting and ending it costs.
        replays: whether all samples make the same calls, on the inputs of the first.
    """

    sample_us: float
    replays: bool

    def sampler(
        self, function: Function, inputs: Iterator[Arguments], calls: int
    ) -> Callable[[], float]:
        """Return a function that makes `calls` calls and returns the microseconds of one."""


class LoopTimer:
    """Back-to-back calls, as in an eager loop: the launches count.

    Args:
        measure: how the microseconds of a sample are taken, one of the functions below.
    """

    replays = False

    def __init__(
        self, measure: Callable[[Callable[[], None]], float], sample_us: float = SAMPLE_US
    ) -> None:
        self._measure, self.sample_us = measure, sample_us

    def sampler(
        self, function: Function, inputs: Iterator[Arguments], calls: int
    ) -> Callable[[], float]:
        def sample() -> float:
            batches = list(itertools.islice(inputs, calls))
            return self._measure(lambda: _call(function, batches)) / calls

        return sample


class GraphTimer:
    """One captured graph of calls in a row, replayed: the time of the GPU without launch gaps.

    Starting a graph takes about ten microseconds, which count.
    """

    sample_us = 10 * SAMPLE_US
    replays = True

    def sampler(
        self, function: Function, inputs: Iterator[Arguments], calls: int
    ) -> Callable[[], float]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            _call(function, list(itertools.islice(inputs, calls)))
        return lambda: between_events(graph.replay) / calls


def _call(function: Function, batches: Sequence[Arguments]) -> None:
    for arguments in batches:
        function(*arguments)


def of_the_host(run: Callable[[], None]) -> float:
    """The time of the calls themselves; a device may still be at work after them."""
    started = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started) / 1000


def until_the_end(run: Callable[[], None]) -> float:
    """The time of a caller who waits for the CUDA device after the last call."""

    def run_and_wait() -> None:
        run()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return of_the_host(run_and_wait)


def between_events(run: Callable[[], None]) -> float:
    """The time of the CUDA device between the start of the first call and the end of the last."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000


def timer(device: str, clock: str) -> Timer:
    if device == "cpu":
        return LoopTimer(of_the_host)
    if clock == "graph":
        return GraphTimer()
    if clock == "wall":
        # Waiting takes some ten microseconds, which count.
        return LoopTimer(until_the_end, 10 * SAMPLE_US)
    return LoopTimer(between_events)


def interleaved(
    functions: Mapping[str, Function],
    inputs: Sequence[Arguments],
    timer: Timer,
    *,
    seconds: float,
    at_least: int = 5,
    sample_us: float | None = None,
    round_calls: int = 1,
) -> dict[str, Times]:
    """Time all functions side by side until `seconds` are over, each at least `at_least` times.

    All of them draw from one endless round of the inputs, so that none finds in the cache what
    the one before it has just read. Each must have been called before: nothing is warmed up here
    but the clock. Where samples replay their calls, `round_calls` is how many it takes to read more
    than a cache holds: fewer would find their own inputs there.
    """
    sample_us = timer.sample_us if sample_us is None else sample_us
    endless = itertools.cycle(inputs)
    samplers = {}
    for name, function in functions.items():
        once = timer.sampler(function, endless, 1)()
        calls = max(round_calls if timer.replays else 1, math.ceil(sample_us / once))
        calls = min(MAX_CALLS, calls)
        samplers[name] = timer.sampler(function, endless, calls)
    samples: dict[str, list[float]] = {name: [] for name in functions}
    order, shuffle = list(functions), random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        for repeat in itertools.count():
            if repeat >= at_least and (time.perf_counter() > end or repeat >= MAX_REPEATS):
                break
            shuffle(order)
            for name in order:
                samples[name].append(samplers[name]())
    finally:
        gc.enable()
    return {name: Times.of(values) for name, values in samples.items()}
