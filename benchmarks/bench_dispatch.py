"""Measure a call from Python to the kernel, on a batch too small for anything else to matter.

python benchmarks/bench_dispatch.py
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

import rho_ext
from cheapest import build
from common import CsvFile, options, prepare, provenance, run
from providers import PROVIDERS, Arguments, Inputs, Truth, eager
from timing import LoopTimer, Times, interleaved, of_the_host

N, CLASSES, K = 32, 10, 3
COLUMNS = ("path", "repeats", "median_us", "p20_us", "p80_us", "minimum_us", "over_cheapest")
GROUPS = ("rho_ext", "cheapest", "eager")
CHEAPEST = "cheapest op of the same schema"
OURS = "rho_ext.select"
# A call takes microseconds, a sample of this length hundreds of calls.
SAMPLE_US = 1000.0


def paths(groups: Sequence[str], one: Arguments) -> dict[str, Callable[[], Any]]:
    """Return the calls to compare, on the same small batch."""
    logits, labels, ids, il, k = one
    raw = (logits, labels, ids, k, il, 0, None, -100, 0.0)
    call = functools.partial
    found: dict[str, Callable[[], Any]] = {}
    if "rho_ext" in groups:
        op = torch.ops.rho_ext.select.default
        found[OURS] = call(rho_ext.select, logits, labels, ids, k)
        found["rho_ext.select with il="] = call(rho_ext.select, logits, labels, ids, k, il=il)
        found["rho_ext.select of one row"] = call(
            rho_ext.select, logits[:1], labels[:1], ids[:1], 1
        )
        found["torch.ops.rho_ext.select.default"] = call(op, *raw)
    if "cheapest" in groups:
        build()
        found[CHEAPEST] = call(torch.ops.rho_bench.same_schema.default, *raw)
        found["cheapest op, one tensor"] = call(torch.ops.rho_bench.smallest.default, logits)
    if "eager" in groups:
        found["torch.empty"] = call(torch.empty, N)
        found["il[ids]"] = call(il.__getitem__, ids)
        found["topk"] = call(il[ids].topk, k)
        found["cross_entropy"] = call(F.cross_entropy, logits, labels, reduction="none")
        found["eager select"] = call(eager, *one)
    return found


def table(times: dict[str, Times]) -> str:
    base = times.get(CHEAPEST)
    lines = [f"{'':34} {'median us':>10} {'minimum':>9} {'over cheapest':>14}"]
    for name, spent in times.items():
        over = f"{spent.median / base.median:>13.2f}x" if base else ""
        lines.append(f"{name:34} {spent.median:>10.3f} {spent.minimum:>9.3f} {over}")
    if base and OURS in times:
        ratio = times[OURS].median / base.median
        lines.append(f"rho_ext.select over the cheapest op: {ratio:.2f}x (aim 1.5x at most)")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options("bench_dispatch", str(__doc__).partition("\n")[0], GROUPS)
    parser.set_defaults(threads=1)
    parser.add_argument("--seconds", type=float, help="of timing, all together")
    arguments = parser.parse_args(argv)
    if arguments.seconds is None:
        arguments.seconds = 2.0 if arguments.quick else 10.0
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    prepare(arguments)
    origin = provenance("dispatch", arguments)
    one = Inputs(torch.float32, arguments.device, 1 << 20).sets(N, CLASSES, K, hot=True)[0]
    truth = Truth.of(one)
    with (
        CsvFile(arguments.out, origin, COLUMNS) as file,
        torch.inference_mode(),
        rho_ext.use_il(one[3]),
    ):
        for name in ("rho_ext", "eager"):
            truth.check(name, PROVIDERS[name]()(*one), one[0])
        found = paths(arguments.providers, one)
        for function in found.values():
            function()
        times = interleaved(
            found,
            [()],
            LoopTimer(of_the_host),
            seconds=arguments.seconds,
            sample_us=SAMPLE_US,
        )
        base = times.get(CHEAPEST)
        for name, spent in times.items():
            over = f"{spent.median / base.median:.3f}" if base else ""
            minimum = {"minimum_us": f"{spent.minimum:.3f}", "over_cheapest": over}
            file.write({"path": name, **spent.columns(), **minimum})
        print(table(times))
    return 0


if __name__ == "__main__":
    run("bench_dispatch", main)
