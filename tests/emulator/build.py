"""Compile CUDA sources with g++ against the emulator, in several variants, cached by content."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Variant = Literal["plain", "address", "thread", "coverage"]

EMULATOR = Path(__file__).resolve().parent
ROOT = EMULATOR.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "emulator"

PROCESSES = 2
TORCH_TARGET = "0x020a000000000000"
HEADERS = {".h", ".cuh", ".inc"}
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# Unique symbols would be shared by all libraries of a process: the variables of templates.
COMMON = ["-std=c++20", "-g1", "-fPIC", "-pthread", "-fno-omit-frame-pointer", "-fno-gnu-unique"]
VARIANTS: dict[Variant, list[str]] = {
    "plain": ["-O2"],
    "address": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-fsanitize=thread"],
    "coverage": ["-O0", "--coverage"],
}
# Of the engine in variants that instrument the kernels only: TSan must see no synchronisation but
# the one that CUDA promises, and the coverage is that of the kernels.
ENGINE_VARIANTS: dict[Variant, list[str]] = {**VARIANTS, "thread": ["-O2"], "coverage": ["-O2"]}


def build(
    name: str,
    sources: Iterable[Path],
    *,
    variant: Variant = "plain",
    program: bool = False,
    definitions: Mapping[str, str | int] | None = None,
    torch: bool = False,
    csrc: Path = CSRC,
) -> Path:
    """Build a shared library, or a program, of the sources and the emulator; return its path.

    With `torch` the sources may include torch's stable ABI, and the result links torch. Kernels,
    which are `.cu` files, include headers of `csrc`, other sources those of the repository.
    """
    options = [f"-D{key}={value}" for key, value in (definitions or {}).items()]
    if torch or program:
        # Hidden as in the real build: torch's types are, and those that hold them must be.
        options.append("-fvisibility=hidden")
    # Kernels see no torch, so that the programs and the ops share their objects.
    includes = [f"-I{folder}" for folder in (EMULATOR / "overrides", EMULATOR / "hooks", EMULATOR)]
    kernel_flags = [*COMMON, *WARNINGS, *VARIANTS[variant], *options, *includes]
    flags, libraries = list(kernel_flags), list[str]()
    if torch:
        folder = torch_folder()
        flags += [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-isystem", str(folder / "include")]
        lib = folder / "lib"
        libraries = [f"-L{lib}", "-Wl,--no-as-needed", f"-Wl,-rpath,{lib}"]
        libraries += ["-ltorch", "-ltorch_cpu"]
    engine_flags = [*COMMON, *WARNINGS, *ENGINE_VARIANTS[variant], f"-I{EMULATOR}"]
    engine_headers = fingerprint(files(EMULATOR, HEADERS))
    headers = {
        folder: fingerprint(files(folder, {*HEADERS, ".cu"})) + engine_headers
        for folder in {CSRC, csrc}
    }

    jobs = []
    for path in map(Path, sources):
        kernel = path.suffix == ".cu"
        folder = csrc if kernel else CSRC
        own = kernel_flags if kernel else flags
        jobs.append((path, [*own, f"-I{folder}"], headers[folder]))
    jobs += [(path, engine_flags, engine_headers) for path in files(EMULATOR / "engine", {".cpp"})]
    with ThreadPoolExecutor(PROCESSES) as pool:
        objects = list(pool.map(lambda job: compile_object(*job), jobs))

    link = [*VARIANTS[variant], "-pthread", *([] if program else ["-shared", "-Wl,-z,defs"])]
    key = digest([name, *link, *libraries, *map(str, objects), compiler_identity()])
    output = BUILD / f"{name}-{variant}-{key}{'' if program else '.so'}"
    if not output.exists():
        run_compiler([*link, *map(str, objects), *libraries], output)
    return output


def environment(variant: Variant) -> dict[str, str]:
    """Return the environment for a process that runs what `build` made.

    A Python that loads a library of the variant "address" also needs the runtimes loaded first.
    """
    variables = dict(os.environ)
    if variant == "address":
        runtimes = [print_file_name(file) for file in ("libasan.so", "libstdc++.so")]
        variables["LD_PRELOAD"] = " ".join(runtimes)
        # Python keeps memory until the process ends, so leaks say nothing.
        variables["ASAN_OPTIONS"] = "detect_leaks=0"
        variables["UBSAN_OPTIONS"] = "print_stacktrace=1"
    elif variant == "thread":
        variables["TSAN_OPTIONS"] = "halt_on_error=1 exitcode=66"
    return variables


def compile_object(source: Path, flags: Sequence[str], headers: str) -> Path:
    key = digest([headers, source.read_text(), str(source), *flags, compiler_identity()])
    output = BUILD / "objects" / f"{source.stem}-{key}.o"
    with locked(output):
        if not output.exists():
            run_compiler([*flags, "-c", "-x", "c++", str(source)], output)
    return output


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Let one process at a time make `output`; the tests run in several."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_name(f"{output.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_compiler(arguments: Sequence[str], output: Path) -> None:
    """Run the compiler; the output appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # Of this thread alone: another one, or another process, may compile the same.
    unfinished = output.with_name(f"{output.name}.{os.getpid()}.{threading.get_ident()}")
    command = [compiler(), *arguments, "-o", str(unfinished)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    unfinished.replace(output)


def compiler() -> str:
    return os.environ.get("CXX", "g++")


@functools.cache
def compiler_identity() -> str:
    path = shutil.which(compiler())
    if path is None:
        raise RuntimeError(f"the emulator needs a C++ compiler, but {compiler()!r} is not found")
    details = os.stat(path)
    return f"{path} {details.st_size} {details.st_mtime_ns}"


def print_file_name(file: str) -> str:
    command = [compiler(), f"-print-file-name={file}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def print_program_name(program: str) -> str:
    """Return a tool of the compiler's version."""
    command = [compiler(), f"-print-prog-name={program}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def torch_folder() -> Path:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("build(torch=True) needs torch, which is not installed")
    return Path(spec.origin).parent


def files(folder: Path, suffixes: set[str]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def fingerprint(*groups: Iterable[Path]) -> str:
    return digest(f"{path} {path.read_text()}" for group in groups for path in group)


def digest(parts: Iterable[str]) -> str:
    content = "\0".join(parts).encode()
    return hashlib.sha256(content).hexdigest()[:16]
