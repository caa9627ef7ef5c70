"""Symbols that the compiled library needs, holds and shows."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from bisect import bisect_right
from pathlib import Path

import pytest

from rho_ext import _C, build_info

LIBRARY = Path(_C.__file__)
CUDA_LIBRARY = LIBRARY.with_name("_cuda.so")


def tool(name: str, *options: str, library: Path = LIBRARY) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (it comes with binutils)")
    command = [name, *options, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("library", [LIBRARY, CUDA_LIBRARY], ids=["_C", "_cuda"])
def test_torch_is_reached_through_its_stable_abi_only(library: Path) -> None:
    """One build runs on torch 2.10 and newer: no C++ symbol of torch may be needed."""
    if not library.exists():
        pytest.skip(f"no CUDA kernels were built: {build_info()['cuda']}")
    undefined = tool("nm", "-D", "--undefined-only", library=library).splitlines()
    wanted = [line.split()[-1] for line in undefined]
    # Itanium mangling spells a namespace as its length and name: at::, c10::, torch::.
    unstable = [name for name in wanted if re.search(r"_Z\w*?(?<!\d)(2at|3c10|5torch)\d", name)]
    assert unstable == []
    assert any(name.startswith(("aoti_torch_", "torch_")) for name in wanted)


def test_no_path_of_the_builder_is_inside() -> None:
    """Neither its folders' names nor a difference between two builds of the same source."""
    paths = re.findall(
        rb"(?<![\w.-])/[\w.+~@/-]+\.(?:h|hpp|c|cc|cpp|inc|cu|cuh)\b", LIBRARY.read_bytes()
    )
    assert sorted({path.decode() for path in paths}) == []


def test_no_flag_of_the_builder_lets_the_kernels_ignore_nan() -> None:
    """`cxx_flags` begins with the builder's CXXFLAGS; the last word counts."""
    flags = str(build_info()["cxx_flags"]).split()
    loose = [flag for flag in flags if "fast-math" in flag or "finite-math" in flag]
    assert loose[-1] == "-fno-fast-math"
    assert flags.index("-fno-math-errno") > flags.index("-fno-fast-math")
    assert [flag for flag in flags if flag.startswith("-O")][-1] == "-O3"
    assert [flag for flag in flags if flag.startswith("-ffp-contract")][-1] == "-ffp-contract=off"


def test_the_cuda_library_needs_no_cuda_runtime_and_no_python_and_lets_nobody_force_plans() -> None:
    if not CUDA_LIBRARY.exists():
        pytest.skip(f"no CUDA kernels were built: {build_info()['cuda']}")
    needed = re.findall(r"NEEDED.*\[(.*?)\]", tool("readelf", "-d", library=CUDA_LIBRARY))
    assert [name for name in needed if "cuda" in name or "python" in name] == []
    assert b"force_plan" not in CUDA_LIBRARY.read_bytes()


def test_torch_is_found_beside_the_package() -> None:
    dynamic = tool("readelf", "-d")
    assert re.findall(r"R(?:UN)?PATH\).*\[(.*)\]", dynamic) == ["$ORIGIN/../torch/lib"]


def test_only_the_module_is_exported() -> None:
    exported = [line.split() for line in tool("nm", "-D", "--defined-only").splitlines()]
    assert [line[-1] for line in exported if line[-2] == "T"] == ["PyInit__C"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX exists on x86 only")
def test_avx_code_is_reached_through_the_table_of_kernels_only() -> None:
    """A function shared with the kernels must not be kept in the form that needs AVX.

    The kernels are one stretch of the code, entered through pointers in constant tables. So a
    direct call into the stretch must come from a function of those tables.
    """
    # "  1a2b:\tcall   3c4d <...>"; the mnemonics of AVX and AVX-512 start with v.
    line = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(?:([0-9a-f]+) <)?.*?(?:# ([0-9a-f]+) <.*)?$")
    code = [
        (int(match[1], 16), match[2], int(match[3] or match[4] or "0", 16))
        for match in map(line.match, tool("objdump", "-d", "--no-show-raw-insn").splitlines())
        if match
    ]
    avx = [address for address, name, _ in code if name.startswith("v")]
    assert len(avx) > 1000, "the kernels should be compiled for AVX"
    pointers = re.findall(r"R_X86_64_RELATIV\w*\s+([0-9a-f]+)", tool("readelf", "-rW"))
    tables = {int(address, 16) for address in pointers}
    functions = sorted(tables | {target for _, name, target in code if name in ("call", "lea")})
    calls = 0
    for address, name, target in code:
        if name == "call" and avx[0] <= target <= avx[-1]:
            caller = functions[bisect_right(functions, address) - 1]
            inside = avx[0] <= address <= avx[-1]
            assert inside or caller in tables, f"call of AVX code at {target:#x} from {address:#x}"
            calls += 1
    assert calls > 0
    symbols = [line.split() for line in tool("nm", "-D", "--defined-only").splitlines()]
    assert [s[-1] for s in symbols if len(s) == 3 and avx[0] <= int(s[0], 16) <= avx[-1]] == []


ROOT = Path(__file__).parents[2]
NEEDS_TORCH = "rho_ext needs torch 2.10 or newer to build: pip install 'torch>=2.10'"


def configure(folder: Path, *options: str, **variables: str) -> str:
    """Return what CMake says to a build that cannot be; lines and margins are CMake's own."""
    # Those beside this Python, from the test extra: the system's may be too old or missing.
    cmake, ninja = (Path(sys.executable).with_name(name) for name in ("cmake", "ninja"))
    needed = (cmake, ninja, Path(shutil.which("c++") or "no compiler"), ROOT / "CMakeLists.txt")
    if not all(path.is_file() for path in needed):
        pytest.skip("needs cmake and ninja from pip, a compiler, and the source tree")
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}")
    project = ("-DSKBUILD=2", "-DSKBUILD_PROJECT_NAME=rho_ext", "-DSKBUILD_PROJECT_VERSION=0.0")
    command = [str(cmake), "-S", str(ROOT), "-B", str(folder / "build"), *generator, *project]
    command += options
    environment = os.environ | variables
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode != 0
    return " ".join(result.stderr.split())


def test_builds_that_cannot_be_stop(tmp_path: Path) -> None:
    """In one folder, where CMake looks for the compiler once."""
    venv.create(tmp_path / "python", with_pip=False)
    python = f"-DPython_EXECUTABLE={tmp_path / 'python' / 'bin' / 'python'}"
    no_cuda = "-DRHO_EXT_CUDA=OFF"
    message = "RHO_EXT_CUDA must be AUTO, ON or OFF, got 'yes'"
    assert message in configure(tmp_path, "-DRHO_EXT_CUDA=yes")
    for name in ("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAARCHS"):
        kept = configure(tmp_path, no_cuda, **{name: "changed"})
        assert f"{name}='changed'" in kept
        assert f"remove the folder ({tmp_path / 'build'}), or choose another with -C" in kept
    for choice in ("addres", "address;undefined", "thread", "ON"):
        message = "RHO_EXT_SANITIZE must be address, undefined or address,undefined, got"
        wrong = f"-DRHO_EXT_SANITIZE={choice}"
        assert f"{message} '{choice}'" in configure(tmp_path, no_cuda, wrong)
    options = (no_cuda, "-DRHO_EXT_SANITIZE=", python)
    assert NEEDS_TORCH in configure(tmp_path, *options)
    (site,) = (tmp_path / "python").glob("lib/python*/site-packages")
    header = site / "torch" / "include" / "torch" / "headeronly" / "version.h"
    header.parent.mkdir(parents=True)
    (site / "torch" / "__init__.py").touch()
    header.write_text('#define TORCH_VERSION "2.9.1"\n')
    assert NEEDS_TORCH in configure(tmp_path, *options)
