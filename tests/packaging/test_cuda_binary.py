"""The CUDA kernels as nvcc compiled them, read by cuobjdump."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

import rho_ext
from rho_ext import _library

LIBRARY = _library._CUDA
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
# kNeedsMoments = false: the methods rho, loss and neg_il without label smoothing.
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


def built() -> list[str]:
    return re.findall(r"(\d+)(?:-real)?", str(rho_ext.build_info()["cuda"]).partition(" for ")[2])


def test_every_architecture_has_every_kernel() -> None:
    if tuple(built()) != ARCHITECTURES:
        pytest.skip(f"built for other architectures: {rho_ext.build_info()['cuda']}")
    assert {architecture for architecture, _ in usage()} == set(ARCHITECTURES)
    assert len(usage()) == len(ARCHITECTURES) * REGIMES * TYPES * 2
    # PTX of the newest, for those to come.
    assert re.findall(r"sm_(\d+)\.ptx", cuobjdump("-lptx")) == ["120"]
    assert LIBRARY.stat().st_size < 5_000_000
    # Only builds for tests let a caller force plans.
    assert b"rho_ext_force_plan" not in LIBRARY.read_bytes()


def test_the_hot_kernels_stay_in_registers() -> None:
    hot = {key: numbers for key, numbers in usage().items() if HOT in key[1]}
    assert len(hot) == len(built()) * REGIMES * TYPES
    for (architecture, kernel), numbers in sorted(hot.items()):
        print(f"sm_{architecture} {kernel}: {numbers['REG']} registers")
        assert numbers["STACK"] == numbers["LOCAL"] == 0, kernel


@cache
def bodies(architecture: str) -> dict[str, str]:
    """The instructions of every kernel."""
    sass = cuobjdump("-sass", "-arch", f"sm_{architecture}")
    kernels = re.split(r"Function : (\S+)", sass)[1:]
    found = dict(zip(kernels[::2], kernels[1::2], strict=True))
    assert len(found) == REGIMES * TYPES * 2
    return found


ENDS = pytest.mark.parametrize(
    "end", [0, pytest.param(-1, marks=pytest.mark.slow)], ids=["oldest", "newest"]
)


@ENDS
def test_logits_are_loaded_16_bytes_at_a_time(end: int) -> None:
    for name, body in bodies(built()[end]).items():
        # Of constant memory: the selection reads its keys 16 bytes at a time too.
        wide = re.findall(r"LDG\S*\.128\.CONSTANT", body)
        # As many in flight as a lane loads before it uses the first.
        assert len(wide) >= 4, name
        assert not re.search(r"\b(LDL|STL)\b", body) or HOT not in name, name


@ENDS
def test_a_logit_takes_one_exponential(end: int) -> None:
    """And each chunk of 16 one more, for the sum so far: two a logit would bound the kernel."""
    hot = {name: body for name, body in bodies(built()[end]).items() if HOT in name}
    assert len(hot) == REGIMES * TYPES
    for name, body in hot.items():
        # Four packs of 16 bytes at a time, without a branch between them.
        logits = 32 if "Float16" in name else 16
        exponentials = max(part.count("MUFU.EX2") for part in re.split(r"\bBRA\b", body))
        assert exponentials == logits + logits // 16, name


def test_it_needs_no_cuda_runtime_and_no_python() -> None:
    needed = subprocess.run(
        ["readelf", "-d", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    libraries = re.findall(r"NEEDED.*\[(.*?)\]", needed)
    assert not [name for name in libraries if "cuda" in name or "python" in name]
