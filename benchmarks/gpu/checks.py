"""Check the op on a GPU: every plan against float64, one launch, no wait, the same bits always.

python -m gpu.checks; under a sanitizer: --only plans --every 5
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

import rho_ext
from gpu.inputs import GRID, LANE_GROUPS, LAST_BLOCK, SLICES, Forced, Inputs, forced, small
from rho_ext import reference

# One for each regime and top-k stage: a single block, the last block, slices of rows, all blocks.
SIZES = ((320, 10), (4096, 1000), (320, 50257), (65536, 100))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Classes whose rows are aligned to 16, 8, 4 and 2 bytes, whole packs of 16 bytes and not.
CLASSES = (1, 3, 10, 50, 200, 1001)
METHODS = ("rho", "logsumexp", "loss", "neg_il", "grad_norm", "entropy")
# The name of the call in the profile; the profiler may show it on the device too.
CALL = "the call of select"


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(
        torch.equal(x.nan_to_num(-1.0), y.nan_to_num(-1.0)) for x, y in zip(a, b, strict=True)
    )


def select(inputs: Inputs, workspace: Tensor | None = None) -> rho_ext.Selection:
    logits, labels, ids, table = inputs
    k = len(logits) // 10
    return rho_ext.select(logits, labels, ids, k, il=table, workspace=workspace)


def plans() -> Iterator[Forced]:
    yield Forced()
    for regime, stage, (threads, blocks) in itertools.product(
        (LANE_GROUPS, SLICES), (LAST_BLOCK, GRID), ((64, 1), (64, 5), (512, 3))
    ):
        yield Forced(regime, stage, threads, blocks)
        yield Forced(regime, stage, threads, blocks, sort_tile=8)
    yield Forced(SLICES, LAST_BLOCK, 64, 7, slices=5)


def every_plan(device: str, every: int = 1, fours: bool = False) -> None:
    """Every path of the kernels on small inputs, or one of so many, against the reference."""
    chosen = plans() if device == "cuda" else [Forced()]
    cases = itertools.product(chosen, DTYPES, enumerate(zip(CLASSES, METHODS, strict=True)))
    for plan, dtype, (seed, (classes, method)) in itertools.islice(cases, 0, None, every):
        # The kernels read keys by fours and drop those behind the last row, which hold anything.
        n = 37 + 20 * seed - fours
        logits, labels, ids, table = small(n, classes, dtype, seed, device)
        options = {"il": table, "method": method, "label_smoothing": 0.1 * (seed % 2)}
        with forced(plan):
            got = rho_ext.select(logits, labels, ids, n // 2, **options)
            scores, _ = rho_ext.score(logits, labels, ids, **options)
        host = {**options, "il": table.cpu()}
        truth = reference.score(logits.double().cpu(), labels.cpu(), ids.cpu(), **host)
        where = f"{plan}, {n} x {classes} {dtype}, {method}"
        torch.testing.assert_close(
            scores.double().cpu(), truth.scores, rtol=1e-5, atol=1e-5, equal_nan=True,
            msg=lambda text, where=where: f"{where}: {text}",
        )  # fmt: skip
        ranked = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        best = ranked.sort(descending=True, stable=True)
        indices = best.indices.masked_fill(best.values == -torch.inf, -1)[: n // 2]
        assert torch.equal(got.indices, indices), where
        assert got.invalid.item() == scores.isnan().sum().item(), where


@contextmanager
def load(device: str) -> Iterator[None]:
    """Other work on a second stream, which takes processors away from the kernel."""
    if device == "cpu":
        yield
        return
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        matrix = torch.randn(4096, 4096, device=device)
        for _ in range(200):
            matrix = torch.tanh(matrix @ matrix)
    yield
    stream.synchronize()


def deterministic(inputs: Inputs, repeats: int) -> None:
    first = select(inputs)
    for _ in range(repeats):
        assert same(select(inputs), first)
    with load(inputs[0].device.type):
        for _ in range(repeats):
            assert same(select(inputs), first)


def same_on_the_cpu(inputs: Inputs) -> None:
    """The rows are those of the CPU but where scores are equal but for rounding."""
    logits, labels, ids, table = host = tuple(tensor.cpu() for tensor in inputs)
    got, truth = select(inputs), select(host)  # type: ignore[arg-type]
    assert got.invalid.cpu() == truth.invalid
    assert len(got.indices.unique()) == len(got.indices)
    chosen = rho_ext.score(logits, labels, ids, il=table).scores[got.indices.cpu()]
    for values in (got.values.cpu(), chosen):
        torch.testing.assert_close(values, truth.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.losses.cpu(), truth.losses, rtol=1e-5, atol=1e-5, equal_nan=True)


def one_launch(inputs: Inputs) -> None:
    """One kernel, no copy, no memset, and no wait of the host.

    torch's own debug mode sees the waits of torch only, so the calls of the runtime are counted.
    """
    select(inputs)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.profiler.record_function(CALL):
                select(inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    events = profile.events()
    on_device = torch.autograd.DeviceType.CUDA
    on_host = [event for event in events if event.device_type != on_device]
    call = next(event.time_range for event in on_host if event.name == CALL)
    # A kernel runs later, and what follows the call is ours and the profiler's own.
    inside = [e.name for e in on_host if call.start <= e.time_range.start < call.end]
    launches = [name for name in inside if re.match("cuda.*(Launch|Mem)", name)]
    waits = [name for name in inside if "Synchronize" in name]
    kernels = [e.name for e in events if e.device_type == on_device and "select_kernel" in e.name]
    assert (len(launches), len(kernels), len(waits)) == (1, 1, 0), (launches, kernels, waits)


def captured(make: Callable[[int], Inputs], replays: int, workspace: Tensor | None) -> None:
    """A graph gives, on new inputs, what a plain call gives."""
    inputs: Inputs = tuple(tensor.clone() for tensor in make(0))  # type: ignore[assignment]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        select(inputs, workspace)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        selected = select(inputs, workspace)
    for seed in range(1, replays):
        for tensor, new in zip(inputs, make(seed), strict=True):
            tensor.copy_(new)
        graph.replay()
        assert same(selected, select(inputs)), f"replay {seed}"
    if workspace is not None:
        assert not workspace.any(), "the workspace was not left zero"


def compiled(inputs: Inputs, mode: str | None) -> None:
    """With "reduce-overhead" a call warms up in memory of the graph, the next one captures.

    The table is the active one, which a graph reads where it is: a change of its values is seen.
    """
    logits, labels, ids, table = inputs
    table = table.clone()

    def step(x: Tensor, y: Tensor, i: Tensor) -> rho_ext.Selection:
        return rho_ext.select(x, y, i, len(x) // 10)

    function = torch.compile(step, fullgraph=True, mode=mode)
    with rho_ext.use_il(table):
        for call in range(5):
            torch.compiler.cudagraph_mark_step_begin()
            assert same(function(logits, labels, ids), step(logits, labels, ids)), f"call {call}"
            table.mul_(0.5)


def checks_of(n: int, classes: int, device: str, repeats: int) -> dict[str, Callable[[], None]]:
    def make(seed: int) -> Inputs:
        return small(n, classes, torch.bfloat16, seed, device)

    inputs = make(0)
    anywhere = {
        f"same bits in {repeats} repeats, alone and under load": lambda: deterministic(
            inputs, repeats
        ),
        "as on the CPU": lambda: same_on_the_cpu(inputs),
    }
    return (
        anywhere
        if device == "cpu"
        else anywhere
        | {
            "one launch, no wait": lambda: one_launch(inputs),
            "captured, new inputs": lambda: captured(make, 10, None),
            "captured with a workspace": lambda: captured(make, 10, rho_ext.workspace(device)),
            "compiled": lambda: compiled(inputs, None),
            "compiled to a CUDA graph": lambda: compiled(inputs, "reduce-overhead"),
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu.checks", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--only", choices=("plans",), help="every plan alone")
    parser.add_argument("--every", type=int, default=1, help="take one of so many batches")
    parser.add_argument("--fours", action="store_true", help="rows in multiples of four")
    arguments = parser.parse_args(argv)
    device, failed = arguments.device, 0
    checks = {"every plan": lambda: every_plan(device, arguments.every, arguments.fours)}
    for n, classes in () if arguments.only else SIZES:
        of = checks_of(n, classes, device, arguments.repeats)
        checks |= {f"{n} x {classes} bfloat16: {name}": check for name, check in of.items()}
    for name, check in checks.items():
        try:
            check()
            outcome = "ok"
        except Exception as error:
            # A failed check must not hide the others; a fault of the device fails them all.
            outcome, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        print(f"{name}: {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
