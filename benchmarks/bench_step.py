"""Where a whole RHO-LOSS step spends its time, with a small MLP and a small CNN.

python benchmarks/bench_step.py
"""

from __future__ import annotations

import argparse
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
from rho_train.models import mlp
from rho_train.optim import adamw
from timing import Times

# The large and the small batch of the paper, and four times as many.
BATCHES = ((320, 32), (1280, 128))
STEPS = ("rho_ext", "eager", "selector", "uniform")
COLUMNS = (
    *("model", "large_batch", "small_batch", "step", "part"),
    *("repeats", "median_us", "p20_us", "p80_us", "share_of_step", "over_uniform"),
)
POINTS = 16_000

Parts = dict[str, float]


@dataclass(frozen=True)
class Task:
    """A model and the size of one of its inputs."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


TASKS = {
    "mlp": Task(lambda: mlp(16, (256, 256), 26, seed=0), (16,), 26),
    "cnn": Task(cnn, (3, 32, 32), 10),
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
    """One model and optimizer, and the ways to make a step with them."""

    def __init__(self, task: Task, small: int, device: str) -> None:
        self.device, self.small = device, small
        self.model = task.make().to(device)
        self.optimizer = adamw(self.model, lr=1e-3, weight_decay=0.01)
        self.x = torch.randn(POINTS, *task.shape, device=device)
        self.y = torch.randint(task.classes, (POINTS,), device=device)
        self.il = torch.rand(POINTS, device=device)
        self.clock = Clock(device)
        self.selector = rho_train.Selector(il=self.il, k=small, forward=self._forward)

    def batch(self, n: int) -> rho_train.Batch:
        """Draw points; loading them is no part of a step."""
        ids = torch.randint(POINTS, (n,), device=self.device)
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

    def with_selector(self, batch: rho_train.Batch) -> tuple[Parts, Tensor]:
        clock = self.clock = Clock(self.device)
        small = self.selector(self.model, batch)
        clock("after")
        self._train(small.x, small.y)
        clock("train")
        return clock.parts, small.ids

    def _forward(self, model: nn.Module, batch: rho_train.Batch) -> Tensor:
        self.clock("before")
        logits: Tensor = model(batch.x)
        self.clock("score")
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


def check(steps: Steps, large: int) -> None:
    """All ways must choose the same points, from the same weights."""
    batch = steps.batch(large)
    chosen = {}
    weights = {name: value.clone() for name, value in steps.model.state_dict().items()}
    for name in ("rho_ext", "eager"):
        chosen[name] = steps.by_hand(PROVIDERS[name](), batch)[1].sort().values
        steps.model.load_state_dict(weights)
    chosen["selector"] = steps.with_selector(batch)[1].sort().values
    if not torch.equal(chosen["selector"], chosen["rho_ext"]):
        raise BenchmarkFailed("the Selector and rho_ext.select by hand choose different points")
    # Scores that differ in the last digit may swap the row at the border.
    differ = int((~torch.isin(chosen["eager"], chosen["rho_ext"])).sum())
    if differ > 1:
        raise BenchmarkFailed(f"eager and rho_ext choose {differ} different points")


def measure(
    task: Task, large: int, small: int, arguments: argparse.Namespace
) -> dict[str, list[Parts]]:
    """Make one step of every kind in every repeat, in another order each time."""
    torch.manual_seed(0)
    steps = Steps(task, small, arguments.device)
    check(steps, large)
    ways: dict[str, Callable[[rho_train.Batch], Parts]] = {
        "rho_ext": lambda batch: steps.by_hand(PROVIDERS["rho_ext"](), batch)[0],
        "eager": lambda batch: steps.by_hand(PROVIDERS["eager"](), batch)[0],
        "selector": lambda batch: steps.with_selector(batch)[0],
        "uniform": steps.uniform,
    }
    found: dict[str, list[Parts]] = {name: [] for name in arguments.providers}
    order, shuffle = list(found), random.Random(0).shuffle
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end or len(found[order[0]]) < 5:
        shuffle(order)
        for name in order:
            found[name].append(ways[name](steps.batch(large)))
    return found


def rows(found: dict[str, list[Parts]]) -> list[Row]:
    """The pieces of every kind of step, and what the Selector takes beyond its own."""
    if {"selector", "rho_ext"} <= set(found):
        for whole, by_hand in zip(found["selector"], found["rho_ext"], strict=True):
            around = whole["before"] + whole["after"]
            whole["overhead"] = around - sum(by_hand[part] for part in ("modes", "op", "gather"))
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
        lines.append(f"  {name:9} {float(str(total['median_us'])):>9.0f} us{over}: {spent}")
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
    batches = BATCHES[:1] if arguments.quick else BATCHES
    with CsvFile(arguments.out, origin, COLUMNS) as file:
        for name in arguments.models:
            for large, small in batches:
                found = rows(measure(TASKS[name], large, small, arguments))
                for row in found:
                    file.write({"model": name, "large_batch": large, "small_batch": small, **row})
                print(f"{name}: {small} of {large}", table(found), sep="\n", flush=True)
    print(f"rows: {arguments.out}")
    return 0


if __name__ == "__main__":
    run("bench_step", main)
