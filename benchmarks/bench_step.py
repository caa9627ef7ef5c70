"""Measure a whole RHO-LOSS step with every option of the scoring, for a small MLP and a CNN.

python benchmarks/bench_step.py
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rho_train
from common import BenchmarkFailed, CsvFile, Row, options, prepare, provenance, run
from providers import PROVIDERS, Provider
from rho_train import Scoring, Selector
from rho_train.tasks import mlp
from timing import Times

# Large batches of 2 to 10 times the small one; the paper's has 10. One with four times as many.
BATCHES = ((64, 32), (96, 32), (160, 32), (320, 32), (1280, 128))
QUICK = ((320, 32),)
MICRO_BATCH = 64
BY_HAND = ("rho_ext", "eager")
OPTIONS = {
    "selector": Scoring(),
    "bf16": Scoring(bf16=True),
    "micro_batch": Scoring(micro_batch=MICRO_BATCH),
    "compile": Scoring(compile=True),
    "proxy": Scoring(),
}
STEPS = (*BY_HAND, *OPTIONS, "uniform")
# Products of matrices round by their shape, and a score at the border may change with it.
ROUNDS_OTHERWISE = ("micro_batch", "compile")
COLUMNS = (
    *("model", "large_batch", "small_batch", "step", "part"),
    *("repeats", "median_us", "p20_us", "p80_us", "share_of_step", "over_uniform"),
)
EXAMPLES = 16_000

Parts = dict[str, float]


@dataclass(frozen=True)
class Task:
    """Makes a model of a width; the shape of one of its inputs."""

    make: Callable[[int], nn.Module]
    width: int
    shape: tuple[int, ...]
    classes: int

    def steps(self, names: Sequence[str], large: int) -> list[str]:
        """Return the steps that differ for this large batch."""
        return [step for step in names if step != "micro_batch" or large > MICRO_BATCH]


def cnn(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width)),
        *(nn.ReLU(), nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    )


TASKS = {
    "mlp": Task(lambda width: mlp(16, (width, width), 26, seed=0), 256, (16,), 26),
    "cnn": Task(cnn, 16, (3, 32, 32), 10),
}


class Clock:
    """Names the pieces of a step as they end."""

    def __init__(self, device: str) -> None:
        self._wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.parts: Parts = {}
        self._wait()
        self._started = self._last = time.perf_counter()

    def __call__(self, part: str) -> None:
        self._wait()
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + (now - self._last) * 1e6
        self.parts["total"] = (now - self._started) * 1e6
        self._last = now


class Steps:
    """One model and optimizer, and every kind of step with them."""

    def __init__(self, task: Task, small: int, device: str) -> None:
        self.device, self.small, self.score_seconds = device, small, 0.0
        self.model = task.make(task.width).to(device)
        self.proxy = task.make(task.width // 4).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, weight_decay=0.01, fused=True
        )
        self.x = torch.randn(EXAMPLES, *task.shape, dtype=torch.float32, device=device)
        self.y = torch.randint(task.classes, (EXAMPLES,), device=device)
        self.il = torch.rand(EXAMPLES, dtype=torch.float32, device=device)
        self.selectors = {
            name: Selector(
                il=self.il,
                k=small,
                scoring=scoring,
                forward=self._score,
                scorer=self.proxy if name == "proxy" else None,
            )
            for name, scoring in OPTIONS.items()
        }

    def batch(self, n: int) -> rho_train.Batch:
        """Draw a batch; loading it is no part of a step."""
        ids = torch.randint(EXAMPLES, (n,), device=self.device)
        return rho_train.Batch(self.x[ids], self.y[ids], ids)

    def by_hand(self, select: Provider, batch: rho_train.Batch) -> tuple[Parts, Tensor]:
        """Make the step without the Selector, and return the ids it trained on too."""
        clock = Clock(self.device)
        with torch.inference_mode():
            self.model.eval()
            clock("modes")
            logits = self.model(batch.x)
            clock("score")
            self.model.train()
            clock("modes")
            _, indices, _ = select(logits, batch.y, batch.ids, self.il, self.small)
            clock("op")
        x, y = batch.x[indices], batch.y[indices]
        clock("gather")
        self._train(x, y)
        clock("train")
        return clock.parts, batch.ids[indices]

    def with_selector(self, name: str, batch: rho_train.Batch) -> Parts:
        selector = self.selectors[name]
        clock, before = Clock(self.device), self.score_seconds
        small = selector(self.model, batch)
        clock("select")
        score = (self.score_seconds - before) * 1e6
        self._train(small.x, small.y)
        clock("train")
        return {"score": score, **clock.parts, "select": clock.parts["select"] - score}

    def _score(self, model: nn.Module, batch: rho_train.Batch) -> Tensor:
        started = time.perf_counter()
        logits: Tensor = model(batch.x)
        self.score_seconds += time.perf_counter() - started
        return logits

    def uniform(self, batch: rho_train.Batch) -> Parts:
        x, y = batch.x[: self.small], batch.y[: self.small]
        clock = Clock(self.device)
        self._train(x, y)
        clock("train")
        return clock.parts

    def _train(self, x: Tensor, y: Tensor) -> None:
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def check(steps: Steps, large: int, names: Sequence[str]) -> None:
    """Raise an error unless every kind selects what its scores say, from the same weights."""
    batch = steps.batch(large)
    weights = {name: value.clone() for name, value in steps.model.state_dict().items()}
    selected = {}
    for name in BY_HAND:
        selected[name] = steps.by_hand(PROVIDERS[name](), batch)[1]
        steps.model.load_state_dict(weights)
    if _differ(selected["eager"], selected["rho_ext"]) > 1:
        raise BenchmarkFailed("eager and rho_ext select different examples")
    for name in OPTIONS.keys() & set(names):
        selector, model = steps.selectors[name], steps.proxy if name == "proxy" else steps.model
        bf16 = bool(selector.scoring.bf16)
        model.eval()
        with torch.inference_mode(), torch.autocast(steps.device, torch.bfloat16, enabled=bf16):
            logits = model(batch.x)
        model.train()
        best = PROVIDERS["rho_ext"]()(logits, batch.y, batch.ids, steps.il, steps.small)[1]
        small = selector(steps.model, batch)
        allowed = 1 if name in ROUNDS_OTHERWISE else 0
        if _differ(small.ids, batch.ids[best]) > allowed:
            raise BenchmarkFailed(
                f"the Selector with {name} and rho_ext.select by hand select different examples"
            )


def _differ(found: Tensor, expected: Tensor) -> int:
    return int((~torch.isin(found, expected)).sum())


def measure(
    task: Task, large: int, small: int, arguments: argparse.Namespace
) -> dict[str, list[Parts]]:
    """Make one step of every kind in every repeat, in another order each time."""
    torch.manual_seed(0)
    # Compiled code holds for one size, as in a training run.
    torch.compiler.reset()
    steps, names = Steps(task, small, arguments.device), task.steps(arguments.providers, large)
    check(steps, large, names)

    def make(name: str) -> list[Parts]:
        batch = steps.batch(large)
        if name == "uniform":
            return [steps.uniform(batch)]
        if name in BY_HAND:
            return [steps.by_hand(PROVIDERS[name](), batch)[0]]
        return [steps.with_selector(name, batch)]

    found: dict[str, list[Parts]] = {name: [] for name in names}
    shuffle, end = random.Random(0).shuffle, time.perf_counter() + arguments.seconds
    for repeat in itertools.count():
        if repeat >= 5 and time.perf_counter() > end:
            return found
        shuffle(names)
        for name in names:
            if len(found[name]) <= repeat:
                found[name] += make(name)
    raise AssertionError


def rows(found: dict[str, list[Parts]]) -> list[Row]:
    """Return the pieces of every kind of step, and what the Selector takes beyond its own."""
    if {"selector", "rho_ext"} <= set(found):
        for whole, by_hand in zip(found["selector"], found["rho_ext"], strict=True):
            needed = sum(by_hand[part] for part in ("modes", "op", "gather"))
            whole["overhead"] = whole["select"] - needed
    result: list[Row] = []
    uniform = [parts["total"] for parts in found.get("uniform", [])]
    for name, samples in found.items():
        times = {part: Times.of([parts[part] for parts in samples]) for part in samples[0]}
        # Of the medians of the pieces, so that the shares of a step add up to one.
        pieces = sum(t.median for part, t in times.items() if part not in ("total", "overhead"))
        for part, spent in times.items():
            over = f"{spent.median / Times.of(uniform).median:.3f}" if uniform else ""
            share = 1.0 if part == "total" else spent.median / pieces
            columns = {"share_of_step": f"{share:.3f}", "over_uniform": over}
            result.append({"step": name, "part": part, **spent.columns(), **columns})
    return result


def table(found: Sequence[Row]) -> str:
    lines = []
    for name in dict.fromkeys(str(row["step"]) for row in found):
        parts = [row for row in found if row["step"] == name]
        spent = ", ".join(
            f"{row['part']} {float(str(row['median_us'])):.0f} "
            f"({float(str(row['share_of_step'])):.0%})"
            for row in parts
            if row["part"] != "total"
        )
        total = next(row for row in parts if row["part"] == "total")
        over = f", {total['over_uniform']}x uniform" if total["over_uniform"] else ""
        lines.append(f"  {name:13} {float(str(total['median_us'])):>9.0f} us{over}: {spent}")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_step", str(__doc__).partition("\n")[0], STEPS)
    parser.add_argument("--models", nargs="+", choices=TASKS, default=tuple(TASKS))
    parser.add_argument("--seconds", type=float, help="of each model and size, all steps together")
    arguments = parser.parse_args(argv)
    if arguments.seconds is None:
        arguments.seconds = 2.0 if arguments.quick else 10.0
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    origin = provenance("step", arguments)
    batches = QUICK if arguments.quick else BATCHES
    with CsvFile(arguments.out, origin, COLUMNS) as file:
        for name in arguments.models:
            for large, small in batches:
                found = rows(measure(TASKS[name], large, small, arguments))
                for row in found:
                    file.write({"model": name, "large_batch": large, "small_batch": small, **row})
                print(f"{name}: {small} of {large}", table(found), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    run("bench_step", main)
