"""Check the CUDA op beside its numbers: one launch, no host sync, the same bits always.

python benchmarks/gpu_checks.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

import rho_ext
from gpu_subset import batch

# One for each regime and top-k stage: a single block, the last block, slices of rows, all blocks.
SIZES = ((320, 10), (4096, 1000), (320, 50257), (65536, 100))

# The name of the call in the profile; the profiler may show it on the device too.
CALL = "the call of select"


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(
        torch.equal(x.nan_to_num(-1.0), y.nan_to_num(-1.0)) for x, y in zip(a, b, strict=True)
    )


def select(inputs: Sequence[Tensor], workspace: Tensor | None = None) -> rho_ext.Selection:
    logits, labels, ids, table = inputs
    k = len(logits) // 10
    return rho_ext.select(logits, labels, ids, k, il=table, workspace=workspace)


@contextmanager
def load() -> Iterator[None]:
    """Other work on a second stream, which takes processors away from the kernel."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        matrix = torch.randn(4096, 4096, device="cuda")
        for _ in range(200):
            matrix = torch.tanh(matrix @ matrix)
    yield
    stream.synchronize()


def deterministic(inputs: Sequence[Tensor], repeats: int) -> None:
    first = select(inputs)
    for _ in range(repeats):
        assert same(select(inputs), first)
    with load():
        for _ in range(repeats):
            assert same(select(inputs), first)


def same_on_the_cpu(inputs: Sequence[Tensor]) -> None:
    """The rows are those of the CPU but where scores are equal but for rounding."""
    got, truth = select(inputs), select([tensor.cpu() for tensor in inputs])
    assert got.invalid.cpu() == truth.invalid
    torch.testing.assert_close(got.values.cpu(), truth.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.losses.cpu(), truth.losses, rtol=1e-5, atol=1e-5, equal_nan=True)


def one_launch(inputs: Sequence[Tensor]) -> None:
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
    launched = [e.name for e in events if e.device_type == on_device and e.name != CALL]
    assert len(launched) == 1, f"{len(launched)} launches: {launched}"
    assert "select_kernel" in launched[0], launched
    # Those after the call are ours and the profiler's own.
    on_host = [event for event in events if event.device_type != on_device]
    end = next(event.time_range.end for event in on_host if event.name == CALL)
    before = [event.name for event in on_host if event.time_range.start < end]
    waits = [name for name in before if name.startswith("cuda") and "Synchronize" in name]
    assert not waits, waits


def captured(
    make: Callable[[int], Sequence[Tensor]], replays: int, workspace: Tensor | None
) -> None:
    """A graph gives, on new inputs, what a plain call gives."""
    inputs = [tensor.clone() for tensor in make(0)]
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


def compiled(inputs: Sequence[Tensor], mode: str | None) -> None:
    """With "reduce-overhead" a call warms up in memory of the graph, the next one captures."""
    function = torch.compile(select, fullgraph=True, mode=mode)
    for call in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        assert same(function(inputs), select(inputs)), f"call {call}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_checks.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("gpu_checks: torch sees no CUDA device here")
    repeats, replays = (50, 5) if arguments.quick else (1000, 20)
    failed = 0
    for n, classes in SIZES:

        def make(seed: int, n: int = n, classes: int = classes) -> tuple[Tensor, ...]:
            return batch(n, classes, torch.bfloat16, seed)

        inputs = make(0)
        checks: dict[str, Callable[[], None]] = {
            "one launch, no host sync": lambda x=inputs: one_launch(x),
            f"same bits in {repeats} repeats, alone and under load": lambda x=inputs: deterministic(
                x, repeats
            ),
            "as on the CPU": lambda x=inputs: same_on_the_cpu(x),
            "captured, new inputs": lambda make=make: captured(make, replays, None),
            "captured with a workspace": lambda make=make: captured(
                make, replays, rho_ext.workspace("cuda")
            ),
            "compiled": lambda x=inputs: compiled(x, None),
            "compiled to a CUDA graph": lambda x=inputs: compiled(x, "reduce-overhead"),
        }
        for name, run in checks.items():
            try:
                run()
                outcome = "ok"
            except Exception as error:
                # A failed check must not hide the others; a fault of the device fails them all.
                outcome = f"FAILED: {type(error).__name__}: {error}"
                failed += 1
            print(f"{n} x {classes} bfloat16: {name}: {outcome}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
