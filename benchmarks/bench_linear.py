"""Time and memory of a linear head with its loss, forward and backward, with and without logits.

python benchmarks/bench_linear.py
python benchmarks/bench_linear.py --dtype bfloat16 --sizes 256x512x32000 --providers logits,rho_ext
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from bench_memory import in_fresh_process, peak
from common import BenchmarkFailed, CsvFile, Row, options, prepare, provenance, run, short
from rho_train import linear_cross_entropy

# Tokens, hidden size, vocabulary.
SIZES = (
    (2048, 512, 32000),
    (4096, 1024, 32000),
    (1024, 4096, 32000),
    (16384, 512, 32000),
    (2048, 1024, 50257),
    (2048, 1024, 128256),
    (4096, 512, 128256),
)
QUICK = ((512, 128, 32000),)
RATIOS = (1.0, 0.6, 0.25)
COLUMNS = (
    *("tokens", "hidden", "vocabulary", "dtype", "provider", "ratio"),
    *("repeats", "median_us", "p20_us", "p80_us", "cpu_us", "over_logits", "cpu_over_logits"),
    *("extra_bytes", "beyond_gradients", "memory_over_logits"),
)
# Beyond the gradients, of what logits and their cross-entropy take.
MOST_MEMORY = 0.1
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Provider = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def _logits(hidden: Tensor, weight: Tensor, labels: Tensor, _: Tensor, __: float) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), labels)


def _rho_ext(hidden: Tensor, weight: Tensor, labels: Tensor, il: Tensor, ratio: float) -> Tensor:
    return linear_cross_entropy(hidden, weight, labels, il=il, ratio=ratio)[0]


def _compile() -> Provider:
    return torch.compile(_logits, dynamic=False)


def _liger() -> Provider:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise BenchmarkFailed(f"liger needs pip install liger-kernel and a GPU ({error})") from None
    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, labels, il, ratio: loss(weight, hidden, labels)


def _cce() -> Provider:
    try:
        from cut_cross_entropy import linear_cross_entropy as cce
    except ImportError as error:
        name = "cut-cross-entropy"
        raise BenchmarkFailed(f"cce needs pip install {name} and a GPU ({error})") from None
    return lambda hidden, weight, labels, il, ratio: cce(hidden, weight, labels)


PROVIDERS: dict[str, Callable[[], Provider]] = {
    "logits": lambda: _logits,
    "compile": _compile,
    "rho_ext": lambda: _rho_ext,
    "liger": _liger,
    "cce": _cce,
}


def inputs(tokens: int, hidden: int, vocabulary: int, dtype: torch.dtype, device: str) -> Inputs:
    """Return hidden states, the weight of a head, labels and reference losses."""
    generator = torch.Generator(device).manual_seed(0)
    drawn = (
        torch.randn(tokens, hidden, generator=generator, device=device),
        torch.randn(vocabulary, hidden, generator=generator, device=device) / hidden**0.5,
    )
    states, weight = (tensor.to(dtype).requires_grad_() for tensor in drawn)
    labels = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    return states, weight, labels, torch.rand(tokens, generator=generator, device=device)


def step(provider: Provider, given: Inputs, ratio: float) -> Tensor:
    """Compute a loss and its gradients, which replace those of the step before."""
    given[0].grad = given[1].grad = None
    loss = provider(*given, ratio)
    loss.backward()
    return loss.detach()


def extra_bytes(
    name: str, ratio: float, size: tuple[int, int, int], dtype: str, *of: object
) -> int:
    """Return how far the peak of a step lies above what was in use before."""
    device, threads = of
    torch.set_num_threads(int(str(threads)))
    given = inputs(*size, getattr(torch, dtype), str(device))
    provider = PROVIDERS[name]()
    # Compiled code holds for its shape only.
    few = (
        given
        if name == "compile"
        else (given[0][:8].detach(), given[1], *(t[:8] for t in given[2:]))
    )
    step(provider, few, 1.0)
    given[0].grad = given[1].grad = None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(provider, given, ratio)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    step(provider, given, ratio)
    return peak() - before


def cases(names: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield the providers, those that select with every ratio."""
    for name in names:
        yield from itertools.product([name], RATIOS if name == "rho_ext" else RATIOS[:1])


def samples(
    given: Inputs, names: Sequence[str], repeats: int
) -> dict[tuple[str, float], list[tuple[float, float]]]:
    """Return microseconds of clock and processor of every case, in turn in every repeat."""
    providers = {name: PROVIDERS[name]() for name in names}
    losses = {name: float(step(provider, given, 1.0)) for name, provider in providers.items()}
    wanted = next(iter(losses.values()))
    if any(abs(loss - wanted) > 2e-2 * wanted for loss in losses.values()):
        raise BenchmarkFailed(f"the losses differ: {losses}")
    taken: dict[tuple[str, float], list[tuple[float, float]]] = {case: [] for case in cases(names)}
    for _ in range(repeats):
        for (name, ratio), times in taken.items():
            start, cpu = time.perf_counter(), time.process_time()
            step(providers[name], given, ratio)
            if given[0].is_cuda:
                torch.cuda.synchronize()
            times.append((1e6 * (time.perf_counter() - start), 1e6 * (time.process_time() - cpu)))
    return taken


def rows(arguments: argparse.Namespace, size: tuple[int, int, int], dtype: str) -> Iterator[Row]:
    """Measure all cases of a size; the first provider is the yardstick of the others."""
    given = inputs(*size, getattr(torch, dtype), arguments.device)
    taken = samples(given, arguments.providers, arguments.repeats)
    tokens, hidden, vocabulary = size
    gradients = (tokens + vocabulary) * hidden * given[0].element_size()
    del given
    first: tuple[float, float, int] | None = None
    for (name, ratio), times in taken.items():
        clock, cpu = ([pair[i] for pair in times] for i in range(2))
        once = len(clock) == 1
        fifths = 4 * clock if once else statistics.quantiles(clock, n=5, method="inclusive")
        task = (name, ratio, size, dtype, arguments.device, arguments.threads)
        extra = in_fresh_process(extra_bytes, *task)
        first = first or (fifths[0], min(cpu), extra - gradients)
        yield {
            **dict(zip(COLUMNS[:6], (*size, dtype, name, ratio), strict=True)),
            "repeats": len(times),
            "median_us": f"{statistics.median(clock):.0f}",
            "p20_us": f"{fifths[0]:.0f}",
            "p80_us": f"{fifths[-1]:.0f}",
            "cpu_us": f"{min(cpu):.0f}",
            "over_logits": f"{fifths[0] / first[0]:.3f}",
            "cpu_over_logits": f"{min(cpu) / first[1]:.3f}",
            "extra_bytes": extra,
            "beyond_gradients": extra - gradients,
            "memory_over_logits": f"{(extra - gradients) / first[2]:.4f}",
        }


def check(row: Row) -> None:
    """Stop if rho_ext took memory of the size of large logits."""
    share, tokens, vocabulary = (
        float(str(row[name])) for name in ("memory_over_logits", "tokens", "vocabulary")
    )
    is_large = tokens * vocabulary >= 4096 * 128256
    if row["provider"] == "rho_ext" and is_large and share > MOST_MEMORY:
        raise BenchmarkFailed(f"rho_ext took {share} of the memory of logits, not {MOST_MEMORY}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_linear", str(__doc__).partition("\n")[0], tuple(PROVIDERS))
    parser.set_defaults(providers=("logits", "compile", "rho_ext"))
    parser.add_argument(
        "--dtype",
        choices=[short(d) for d in (torch.float32, torch.bfloat16, torch.float16)],
        default="float32",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=lambda text: tuple(map(int, text.split("x"))),
        help="TOKENSxHIDDENxVOCABULARY",
    )
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    with CsvFile(arguments.out, provenance("linear", arguments), COLUMNS) as file:
        print("tokens x hidden x vocabulary  provider ratio   ms  of logits, cpu   MiB  of logits")
        for size in arguments.sizes or (QUICK if arguments.quick else SIZES):
            for row in rows(arguments, size, arguments.dtype):
                file.write(row)
                print(
                    f"{size[0]:>8} {size[1]:>7} {size[2]:>7} {row['provider']:>8} {row['ratio']:>5}"
                    f"{float(str(row['median_us'])) / 1e3:>11,.0f} {row['over_logits']:>8} "
                    f"{row['cpu_over_logits']:>6} {int(str(row['extra_bytes'])) >> 20:>11} "
                    f"{row['memory_over_logits']:>8}",
                    flush=True,
                )
                check(row)
    return 0


if __name__ == "__main__":
    run("bench_linear", main)
