"""Test the kernels of csrc/cuda on every path of their plan: results, races, memory, coverage."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import build as build_tools
from .build import CSRC, EMULATOR, Variant, build, environment

KERNELS = CSRC / "cuda"
CHECKS = sorted((EMULATOR / "kernels").glob("*.cpp"))


def program(variant: Variant, csrc: Path = CSRC) -> Path:
    """Build the checks of kernels/ with the kernels of a folder."""
    sources = [csrc / "cuda" / "select.cu", *CHECKS]
    return build("kernels", sources, variant=variant, program=True, csrc=csrc)


def run(check: str, variant: Variant, csrc: Path = CSRC) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(variant, csrc), check],
        env=environment(variant),
        capture_output=True,
        text=True,
        # Ends a deadlock; a slow machine needs less.
        timeout=3000,
        check=False,
    )


@pytest.mark.parametrize(
    ("check", "variant"),
    [
        ("small_blocks", "plain"),
        ("fallback", "plain"),
        pytest.param("plans", "plain", marks=pytest.mark.slow),
        pytest.param("schedules", "plain", marks=pytest.mark.slow),
        # Out of bounds, of memory of exactly its size; undefined behaviour.
        pytest.param("small_blocks", "address", marks=pytest.mark.slow),
        pytest.param("races", "thread", marks=pytest.mark.slow),
        pytest.param("fallback", "thread", marks=pytest.mark.slow),
    ],
)
def test_kernels(check: str, variant: Variant) -> None:
    result = run(check, variant)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_the_ops_on_tensors_of_their_exact_size() -> None:
    """Run the ops under AddressSanitizer, which guards torch tensors: all layouts and plans."""
    files = ("test_score.py", "test_plan.py", "test_bad_inputs.py")
    kept = "emulated and (layout or strided or workspace or on_a_gpu or every_plan)"
    options = ["-q", "-n0", "--tb=short", "--no-showlocals", "-p", "no:cacheprovider"]
    options += ["--capture=sys"]
    tests = [str(EMULATOR.parent / "ops" / name) for name in files]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", kept, *tests],
        # Not the source tree: Python would import the folder without the library.
        cwd=sys.prefix,
        env=environment("address") | {"RHO_EXT_EMULATED": "address"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert re.search(r"\d\d passed", result.stdout), result.stdout


def uncovered_lines(folder: Path) -> tuple[list[str], int]:
    """Return the lines of the kernels that the checks do not reach, and how many there are."""
    binary = program("coverage")
    # Counts of these runs alone, and not beside the objects.
    variables = environment("coverage") | {"GCOV_PREFIX": str(folder)}
    for check in ("small_blocks", "fallback"):
        subprocess.run([binary, check], env=variables, check=True, capture_output=True)
    (counts,) = folder.rglob("select-*.gcda")
    notes = Path("/") / counts.with_suffix(".gcno").relative_to(folder)
    shutil.copy(notes, counts.parent)
    gcov = build_tools.print_program_name("gcov")
    command = [gcov, "--json-format", "--stdout", str(counts)]
    report = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    # A line of a template is listed once for each instance.
    reached: dict[tuple[Path, int], bool] = {}
    for file in json.loads(report)["files"]:
        path = Path(file["file"])
        if path.parent == KERNELS and path.suffix in (".cuh", ".cu"):
            for line in file["lines"]:
                key = path, line["line_number"]
                reached[key] = reached.get(key, False) or line["count"] > 0
    missed = [key for key, was_reached in sorted(reached.items()) if not was_reached]
    texts = {path: path.read_text().splitlines() for path, _ in missed}
    named = [f"{path.name}:{line}: {texts[path][line - 1].strip()}" for path, line in missed]
    return named, len(reached)


@pytest.mark.slow
def test_every_path_of_the_kernels_is_reached(tmp_path: Path) -> None:
    missed, lines = uncovered_lines(tmp_path)
    assert lines > 300
    assert len(missed) <= 0.05 * lines, f"{len(missed)} of {lines} lines:\n" + "\n".join(missed)
