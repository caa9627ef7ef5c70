"""Every instruction set that was compiled and can run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rho_ext

FORCED = os.environ.get("RHO_EXT_ISA")


def compiled() -> list[str]:
    names = rho_ext.build_info()["isa_compiled"]
    assert isinstance(names, list)
    return names


def runnable() -> list[str]:
    """They are listed slowest first, and the best that runs is in use."""
    return compiled()[: compiled().index(str(rho_ext.build_info()["isa"])) + 1]


def test_the_one_in_use_was_compiled_and_is_the_one_asked_for() -> None:
    assert rho_ext.build_info()["isa"] in compiled()
    assert FORCED in (None, "", rho_ext.build_info()["isa"])


@pytest.mark.skipif(bool(FORCED), reason="RHO_EXT_ISA is set: this is one instruction set")
@pytest.mark.parametrize("lane", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("isa", runnable()[:-1])
def test_every_instruction_set_is_accurate(isa: str, lane: str) -> None:
    """The tests of accuracy, layouts, special values and threads; the best one ran them already."""
    files = ("test_exp.py", "test_score.py", "test_fuzz.py", "test_select.py", "test_isa.py")
    tests = [str(Path(__file__).with_name(name)) for name in files]
    # Threads share work in the same way on all: the pairs of the fast lane are enough.
    names = "accurate or any_batch" + (
        " or golden or same_bits or in_use" if lane != "slow" else ""
    )
    kept = f"({names}) and not emulated and not cuda"
    options = ["-q", "-n0", "--tb=short", "--no-showlocals", "-p", "no:cacheprovider"]
    options += ["-m", lane, "-k", kept]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        # Not the source tree: Python would import the folder without the library.
        cwd=sys.prefix,
        env=os.environ | {"RHO_EXT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr


def test_an_unknown_instruction_set_is_a_clear_error() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import rho_ext; print(rho_ext.build_info())"],
        cwd=sys.prefix,
        env=os.environ | {"RHO_EXT_ISA": "avx9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    names = ", ".join(runnable())
    message = f"ValueError: RHO_EXT_ISA must be one of {names} on this machine, got 'avx9'"
    assert message in result.stderr
