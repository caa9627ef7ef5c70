"""Plant faults in a copy of the kernels: the checks of kernels/ must find each of them.

A plain load where another block has written (`__ldcg`) is not among them: only a GPU has the L1
cache that would give an old value.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from .build import BUILD, CSRC, PROCESSES, Variant
from .test_kernels import run


@dataclass(frozen=True)
class Fault:
    """Replace `old`, which occurs once in the file, by `new`: the check prints `report`."""

    file: str
    old: str
    new: str
    check: str
    report: str

    @property
    def variant(self) -> Variant:
        watched: dict[str, Variant] = {RACE: "thread", OVERFLOW: "address"}
        return watched.get(self.report, "plain")

    def plant(self, csrc: Path) -> None:
        path = csrc / self.file
        text = path.read_text()
        assert text.count(self.old) == 1, f"{self.file} has not, or not once:\n{self.old}"
        path.write_text(text.replace(self.old, self.new))


RACE = "WARNING: ThreadSanitizer: data race"
OVERFLOW = "ERROR: AddressSanitizer: heap-buffer-overflow"
BARRIER = "  __syncthreads();\n"
FENCE = "    __threadfence();\n"
WRAPS = "    // Wraps to 0"
LAST = "    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;\n"

FAULTS = {
    "no fence before the ticket": Fault(
        "cuda/block.cuh", FENCE + WRAPS, WRAPS, "races", RACE
    ),
    "no fence after the ticket": Fault("cuda/block.cuh", LAST + FENCE, LAST, "races", RACE),
    "no barrier before the ticket": Fault(
        "cuda/block.cuh", BARRIER + "  if (threadIdx.x == 0) {\n" + FENCE,
        "  if (threadIdx.x == 0) {\n" + FENCE, "races", RACE,
    ),
    "the ticket does not wrap": Fault(
        "cuda/block.cuh", "atomicInc(ticket, gridDim.x - 1)", "atomicAdd(ticket, 1u)",
        "small_blocks", "state left behind",
    ),
    "a block does not wait for the grid": Fault(
        "cuda/block.cuh", "cooperative_groups::this_grid().sync();", "__syncthreads();",
        "small_blocks", "state left behind",
    ),
    "the sort does not wait for the keys of other warps": Fault(
        "cuda/top_k.cuh", "= keys[i];\n      }\n      __syncthreads();\n", "= keys[i];\n      }\n",
        "races", RACE,
    ),
    "the sort does not wait until its keys were read": Fault(
        "cuda/top_k.cuh", "is in another warp.\n      __syncthreads();\n", "is in another warp.\n",
        "races", RACE,
    ),
    "winners are sorted before all are collected": Fault(
        "cuda/top_k.cuh", ": &params.state->winners);\n  group.sync();\n",
        ": &params.state->winners);\n", "races", RACE,
    ),
    "no barrier after the histogram is emptied": Fault(
        "cuda/threshold.cuh", "shared[digit] = 0;\n  }\n" + BARRIER, "shared[digit] = 0;\n  }\n",
        "races", RACE,
    ),
    "no barrier after the digit is found": Fault(
        "cuda/threshold.cuh", BARRIER + "  return found;", "  return found;", "races", RACE
    ),
    "the histograms are not emptied": Fault(
        "cuda/top_k.cuh", "params.state->histograms[i] = 0;", "",
        "small_blocks", "state left behind",
    ),
    "a histogram is not emptied before its next turn": Fault(
        "cuda/threshold.cuh", "previous[digit] = 0;", "previous[digit] += 0;",
        "small_blocks", "wrong selection",
    ),
    "the winners of the last launch stay": Fault(
        "cuda/top_k.cuh", "params.state->winners = 0;", "", "small_blocks", "state left behind"
    ),
    "the invalid rows of the last launch stay": Fault(
        "cuda/top_k.cuh", "atomicExch(&params.state->invalid, 0u)", "params.state->invalid",
        "small_blocks", "state left behind",
    ),
    "ties in any order, in a thread": Fault(
        "cuda/top_k.cuh", "swap = (a < b)", "swap = (a >> 32 < b >> 32)",
        "small_blocks", "wrong selection",
    ),
    "ties in any order, between threads": Fault(
        "cuda/top_k.cuh", "(other > key) ==", "(other >> 32 > key >> 32) ==",
        "small_blocks", "wrong selection",
    ),
    "ties are searched for by the wrong row": Fault(
        "cuda/threshold.cuh", "<< 32 | ~row;", "<< 32 | row;", "small_blocks", "wrong selection"
    ),
    "the rows of ties are not searched": Fault(
        "cuda/threshold.cuh", ">> threshold.shift == 0) {", ">> threshold.shift >= 0) {",
        "small_blocks", "wrong selection",
    ),
    "padding is merged to the same place": Fault(
        "cuda/top_k.cuh", "(other == key && at < i)", "(other == key && at > k)",
        "small_blocks", "wrong selection"
    ),
    "NaN is a large score": Fault(
        "common/key.h", "kMost = kSign | kInfinity", "kMost = ~Bits{0}",
        "small_blocks", "wrong selection",
    ),
    "every negative label is ignored": Fault(
        "cuda/rows.cuh", "if (label == batch.ignore_index)", "if (label < 0)",
        "small_blocks", "wrong loss",
    ),
    "an id equal to the size of the table": Fault(
        "cuda/rows.cuh", "id < batch.il_size", "id <= batch.il_size", "small_blocks", "wrong loss"
    ),
    "sequences are taken for one": Fault(
        "cuda/kernel_params.cuh", "if (batch.length == batch.rows)", "if (batch.length > 0)",
        "small_blocks", "wrong loss",
    ),
    "a load of 16 bytes that is not aligned": Fault(
        "cuda/rows.cuh", "if (alignment == kPackBytes)", "if (alignment >= 2)",
        "small_blocks", "misaligned",
    ),
    "keys past the last one are read": Fault(
        "cuda/threshold.cuh", "row < end ? __ldcg", "row < end + 64 ? __ldcg",
        "small_blocks", OVERFLOW,
    ),
    "one pack too many": Fault(
        "cuda/rows.cuh", "if (start + lane + u * lanes < whole)",
        "if (start + lane + u * lanes <= whole)", "small_blocks", "wrong loss",
    ),
    "the last rows are lost": Fault(
        "cuda/rows.cuh", "base < params.batch.rows;\n       base += gridDim.x * block_rows",
        "base + block_rows <= params.batch.rows;\n       base += gridDim.x * block_rows",
        "small_blocks", "wrong loss",
    ),
    "a lane finishes the first row of its group": Fault(
        "cuda/rows.cuh", "lane == i ? sums", "i == 0 ? sums", "small_blocks", "wrong loss"
    ),
    "a group finishes rows of the next": Fault(
        "cuda/rows.cuh", "lane < group_rows && first", "first",
        "schedules", "wrong count of invalid rows",
    ),
    "a word past the end of a pack at an odd logit": Fault(
        "cuda/logits.cuh", "__ldg(p + 7)", "__ldg(words + 3)", "small_blocks", OVERFLOW
    ),
    "the wrong last logit of a pack at an odd logit": Fault(
        "cuda/logits.cuh", "__ldg(p + 7)", "__ldg(p + 6)", "small_blocks", "wrong loss"
    ),
    "zeros fill the last pack": Fault(
        "cuda/logits.cuh", "const uint4 filler = negative_infinity<T>();",
        "const uint4 filler = make_uint4(0, 0, 0, 0);", "small_blocks", "wrong loss",
    ),
    "a shuffle of half a warp": Fault(
        "cuda/plan.h", "kAllLanes = 0xffffffffu", "kAllLanes = 0x0000ffffu",
        "small_blocks", "mask",
    ),
    "all slices share one place for their warps": Fault(
        "cuda/rows.cuh", "    buffer = 1 - buffer;\n", "", "races", RACE
    ),
    "slices merged in the order of their arrival": Fault(
        "cuda/rows.cuh", "params.partials[tile] = sums;",
        "params.partials[row * slices + atomicInc(&params.state->unused[row % 61], slices - 1)]"
        " = sums;",
        "schedules", "other scores",
    ),
}  # fmt: skip


def check(name: str) -> subprocess.CompletedProcess[str]:
    """Run the check of a fault on a copy of the sources in the build's cache."""
    fault = FAULTS[name]
    csrc = BUILD / "faults" / name.replace(" ", "_")
    shutil.rmtree(csrc, ignore_errors=True)
    for folder in ("cuda", "common"):
        shutil.copytree(CSRC / folder, csrc / folder)
    fault.plant(csrc)
    return run(fault.check, fault.variant, csrc)


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    with ThreadPoolExecutor(PROCESSES) as pool:
        yield {name: pool.submit(check, name) for name in FAULTS}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(
    name: str, results: dict[str, Future[subprocess.CompletedProcess[str]]]
) -> None:
    result = results[name].result()
    assert result.returncode != 0
    assert FAULTS[name].report in result.stdout + result.stderr
