"""The CUDA kernels as nvcc compiled them, read by cuobjdump."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import rho_ext
from rho_ext import _library

LIBRARY = _library._CUDA
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
# kNeedsMoments = false: every method but grad_norm and entropy, without label smoothing.
HOT = "ELb0EE"
REGIMES = 2
TYPES = 3


def tool() -> str | None:
    """Return the cuobjdump on the PATH, or that of the package nvidia-cuda-cuobjdump."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else spec.submodule_search_locations or []
    packaged = [path for folder in folders for path in Path(folder).glob("*/bin/cuobjdump")]
    return shutil.which("cuobjdump") or next(map(str, packaged), None)


def cuobjdump(*options: str) -> str:
    command = [str(tool()), *options, str(LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    if not LIBRARY.exists():
        pytest.skip(f"no CUDA kernels were built: {rho_ext.build_info()['cuda']}")
    if tool() is None:
        pytest.skip("cuobjdump is neither on the PATH nor installed: nvidia-cuda-cuobjdump")


@cache
def usage() -> dict[tuple[str, str], dict[str, int]]:
    """Registers, stack and other memory of every kernel and architecture."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    architecture = kernel = ""
    for line in cuobjdump("-res-usage").splitlines():
        if match := re.search(r"arch = sm_(\d+)", line):
            architecture = match[1]
        elif match := re.search(r"Function (\S*select_kernel\S*):", line):
            kernel = match[1]
        elif kernel and "REG:" in line:
            numbers = {name: int(value) for name, value in re.findall(r"([A-Z]+):(\d+)", line)}
            found[architecture, kernel] = numbers
            kernel = ""
    return found


@cache
def built() -> list[str]:
    """The architectures with code, the oldest first."""
    return sorted(re.findall(r"sm_(\d+)\.cubin", cuobjdump("-lelf")), key=int)


def test_every_architecture_has_every_kernel() -> None:
    if tuple(built()) != ARCHITECTURES:
        pytest.skip(f"built for other architectures: {built()}")
    assert {architecture for architecture, _ in usage()} == set(ARCHITECTURES)
    assert len(usage()) == len(ARCHITECTURES) * REGIMES * TYPES * 2
    # PTX of the newest, for those to come.
    assert re.findall(r"sm_(\d+)\.ptx", cuobjdump("-lptx")) == ["120"]
    assert LIBRARY.stat().st_size < 5_000_000


def test_the_hot_kernels_stay_in_registers() -> None:
    hot = {key: numbers for key, numbers in usage().items() if HOT in key[1]}
    assert len(hot) == len(built()) * REGIMES * TYPES
    for (architecture, kernel), numbers in sorted(hot.items()):
        assert numbers["STACK"] == numbers["LOCAL"] == 0, kernel
        # Two blocks of 512 threads on a multiprocessor.
        assert numbers["REG"] <= 64, f"sm_{architecture} {kernel}"


@cache
def bodies(architecture: str) -> dict[str, str]:
    """The instructions of every kernel."""
    sass = cuobjdump("-sass", "-arch", f"sm_{architecture}")
    kernels = re.split(r"Function : (\S+)", sass)[1:]
    found = dict(zip(kernels[::2], kernels[1::2], strict=True))
    assert len(found) == REGIMES * TYPES * 2
    return found


@dataclass(frozen=True)
class Way:
    """Instructions on one way through a loop, and how many of them are of a kind."""

    instructions: int
    exponentials: int
    wide_loads: int  # of 16 bytes
    other_loads: int


def ways_through(body: str, logits: int) -> list[Way]:
    """Return the shortest way of each kind through the shortest loop with an exp a logit.

    A branch with a condition leads both ways; inner loops are left out.
    """
    code = [
        (int(address, 16), text)
        for address, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", body)
    ]
    ends = {
        (to, at)
        for at, text in code
        if (to := branch_target(text)) is not None and to <= at
        if sum("MUFU.EX2" in x for a, x in code if to <= a <= at) >= logits
    }
    head, end = min(ends, key=lambda loop: loop[1] - loop[0])
    # From each address on to the end of the loop: kind -> instructions.
    ways: dict[int, dict[tuple[int, int, int], int]] = {}
    following = 0
    for at, text in reversed([x for x in code if head <= x[0] <= end]):
        to = branch_target(text)
        conditional = text.startswith("@")
        found: dict[tuple[int, int, int], int] = {(0, 0, 0): 0} if to == head else {}
        leads = [to] if to is not None else []
        if conditional or (to is None and not re.search(r"\b(EXIT|RET)\b", text)):
            leads.append(following)
        wide = ".128" in text
        load = "LDG" in text
        own = ("MUFU.EX2" in text, load and wide, load and not wide)
        for kind, count in [x for lead in leads for x in ways.get(lead, {}).items()]:
            found[kind] = min(count, found.get(kind, count))
        ways[at] = {}
        for kind, count in found.items():
            with_own = (kind[0] + own[0], kind[1] + own[1], kind[2] + own[2])
            ways[at][with_own] = count + 1
        following = at
    return [Way(count, *kind) for kind, count in ways[head].items()]


def branch_target(text: str) -> int | None:
    found = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
    return int(found[1], 16) if found else None


ENDS = pytest.mark.parametrize(
    "end", [0, pytest.param(-1, marks=pytest.mark.slow)], ids=["oldest", "newest"]
)
# Of a lane's packs, which it loads before it uses the first.
PACKS = 4
# Instructions for a logit of four bytes and of two, with its share of the loop. In the code of
# nvcc 13.0 for sm_90 they are 7.31 and 7.38.
MOST = {4: 7.4, 2: 7.5}


@ENDS
def test_the_loop_over_logits_keeps_to_its_counts(end: int) -> None:
    """Instructions bound short rows, and exponentials all: one a logit and one a chunk of 16."""
    hot = {name: body for name, body in bodies(built()[end]).items() if HOT in name}
    assert len(hot) == REGIMES * TYPES
    for name, body in hot.items():
        size = 2 if "Float16" in name else 4
        logits = PACKS * 16 // size
        ways = [way for way in ways_through(body, logits) if way.exponentials >= logits]
        aligned = [way for way in ways if way.wide_loads == PACKS and way.other_loads == 0]
        fewest = min(way.instructions for way in aligned)
        print(f"sm_{built()[end]} {name}: {fewest / logits:.2f} instructions a logit")
        assert fewest <= MOST[size] * logits, name
        assert {way.exponentials for way in ways} == {logits + logits // 16}, name
