"""Test the emulator itself with the kernels of selftest/."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .build import EMULATOR, Variant, build, environment

SOURCES = sorted((EMULATOR / "selftest").glob("*.c*"))
RIGHT = (
    "shuffles",
    "barriers",
    "atomics",
    "shared_memory",
    "intrinsics",
    "grid_sync",
    "polling",
    "ticket",
    "schedules",
    "runtime_api",
)
# Kernels with mistakes that the emulator itself reports, as the return value of the launch.
WRONG = ("wrong_collectives", "wrong_memory", "wrong_launches")


def selftest(name: str, variant: Variant) -> subprocess.CompletedProcess[str]:
    program = build("selftest", SOURCES, variant=variant, program=True)
    return subprocess.run(
        [program, name],
        env=environment(variant),
        capture_output=True,
        text=True,
        # Ends a deadlock; a slow machine needs less.
        timeout=3000,
        check=False,
    )


# Builds with sanitizers, of which each is another compilation, are slow.
@pytest.mark.parametrize("variant", ["plain", pytest.param("address", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_claims(name: str, variant: Variant) -> None:
    result = selftest(name, variant)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_no_race_where_none_is(name: str) -> None:
    result = selftest(name, "thread")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant", "report"),
    [
        ("mistake_race", "thread", "data race .*launches.cu.* read_without_barrier"),
        ("mistake_release_fence", "thread", "data race .*device/memory.h.*load<int>"),
        ("mistake_acquire_fence", "thread", "data race .*device/memory.h.*load<int>"),
        ("mistake_global", "address", "heap-buffer-overflow .*memory.cu.* copy_one_too_many"),
        ("mistake_dynamic_shared", "address", "use-after-poison .*memory.cu.* write_dynamic"),
    ],
)
def test_sanitizers_report(name: str, variant: Variant, report: str) -> None:
    result = selftest(name, variant)
    assert result.returncode != 0
    assert re.search(f"SUMMARY: .*{report}", result.stderr), result.stderr
    # Without the sanitizer nothing shows.
    assert selftest(name, "plain").returncode == 0


def test_a_second_build_is_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build("selftest", SOURCES, program=True)

    def no_compiler(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(sys.modules[build.__module__], "run_compiler", no_compiler)
    assert build("selftest", SOURCES, program=True) == first


def test_a_definition_makes_another_library(tmp_path: Path) -> None:
    source = tmp_path / "answer.cu"
    source.write_text('#include <cuda_runtime.h>\nextern "C" int answer() { return ANSWER; }\n')
    one = build("answer", [source], definitions={"ANSWER": 1})
    two = build("answer", [source], definitions={"ANSWER": 2})
    assert [ctypes.CDLL(str(library)).answer() for library in (one, two)] == [1, 2]
    with pytest.raises(RuntimeError, match="ANSWER"):
        build("answer", [source])
