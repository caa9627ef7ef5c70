"""The check-list for a GPU: build, test, sanitize, measure, and say whether the design holds.

python -m benchmarks.gpu --out runs/gpu
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
# A step with less time than this has no use for it.
LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Step:
    """A process of its own: a fault on the device ends its process, and a hang must end too.

    Args:
        name: of the step and of its log.
        command: run in the output folder, where the source folder hides no installed package.
        seconds: it gets at most.
        modules: of Python that it needs.
        tools: on the PATH that it needs.
        environment: variables that it gets beside those of this process.
        files: of earlier steps that it needs.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    modules: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()

    def missing(self, out: Path) -> str | None:
        """Return what it needs and is not here, or not in the output folder."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"Python has no {module}"
        for tool in self.tools:
            if shutil.which(tool) is None:
                return f"{tool} is not on the PATH"
        for file in self.files:
            if not (out / file).exists():
                return f"no step has left {file}"
        return None


@dataclass(frozen=True)
class Result:
    step: str
    outcome: str  # ok, failed or skipped
    seconds: float
    reason: str = ""


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(BENCHMARKS / name), *arguments)


def measure(name: str, seconds: float, *arguments: str, modules: tuple[str, ...] = ()) -> Step:
    """Return a step that leaves the rows of bench_select.py in a file of its own name."""
    options = ("--device", "cuda", "--seconds", "0.3", "--out", f"{name}.csv", *arguments)
    return Step(name, script("bench_select.py", *options), seconds, modules)


def rivals(name: str) -> tuple[str, ...]:
    """A few sizes with somebody's kernel beside ours."""
    return (
        *("--rows", "4096", "--classes", "1000", "32000", "--dtypes", "bfloat16", "float32"),
        *("--k", "10%", "--providers", f"eager_float32,{name},rho_ext"),
    )


def all_steps(quick: bool) -> list[Step]:
    """Return the steps in their order, the cheapest answers first."""
    # With the hooks that let the subset and the tests force a plan.
    hooks = "-Ccmake.define.RHO_EXT_TEST_HOOKS=ON"
    install = ("-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", hooks, str(ROOT))
    quicker = ("--quick",) if quick else ()
    # Compiling takes the time: a few sizes for the mean and the figures, bfloat16 before float32.
    # torch keeps what it has compiled, so the grids after the first need less.
    grid = (
        *quicker,
        *("--rows", "320", "4096", "65536", "--classes", "10", "100", "1000", "32000"),
        *("--dtypes", "bfloat16", "float32", "--k", "10%"),
        *("--providers", "eager,eager_float32,compile,rho_ext"),
    )
    sanitizers = [
        Step(
            f"sanitizer-{tool}",
            (
                # Our kernels only: torch's would take the minutes. It also asks the driver for
                # functions that need not exist, which would count as errors.
                *("compute-sanitizer", "--tool", tool, "--error-exitcode", "1"),
                *("--kernel-name", "kns=select_kernel", "--report-api-errors", "no"),
                *script("gpu_subset.py", "--every", "5"),
                *(("--fours",) if tool == "initcheck" else ()),
            ),
            60,
            tools=("compute-sanitizer",),
            # Exact allocations, so that a read past a tensor is one past an allocation.
            environment=(("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),),
        )
        for tool in ("memcheck", "racecheck", "synccheck", "initcheck")
    ]
    return [
        Step("build", (sys.executable, *install), 200, ("scikit_build_core",), ("nvcc",)),
        Step("doctor", (sys.executable, "-m", "rho_train", "doctor"), 30),
        Step(
            "gpu",
            ("nvidia-smi", "-q", "-d", "CLOCK,POWER,PERFORMANCE"),
            20,
            tools=("nvidia-smi",),
        ),
        Step("subset", script("gpu_subset.py"), 60),
        Step("checks", script("gpu_checks.py", *quicker), 90),
        Step(
            "predictions", script("gpu_predictions.py", "--out", "predictions.csv", *quicker), 150
        ),
        *sanitizers,
        measure("grid", 120, "--clock", "graph", *grid),
        Step(
            "tests",
            (
                *(sys.executable, "-m", "pytest", "-q", "-k", "cuda", "--no-showlocals"),
                *("-p", "no:cacheprovider", str(ROOT / "tests" / "ops")),
            ),
            120,
            ("pytest", "hypothesis"),
        ),
        measure("grid-wall", 90, "--clock", "wall", *grid),
        measure("grid-hot", 90, "--clock", "graph", "--hot", *grid),
        # Liger waits for the device in every call, so no graph can hold it.
        measure("liger", 60, *rivals("liger"), "--clock", "events", modules=("liger_kernel",)),
        measure("quack", 60, *rivals("quack"), "--clock", "graph", modules=("quack",)),
        *(
            Step(
                f"figures-{name}",
                script("figures.py", f"{name}.csv"),
                30,
                ("matplotlib",),
                files=(f"{name}.csv",),
            )
            for name in ("predictions", "grid", "grid-wall", "grid-hot")
        ),
    ]


def run(step: Step, out: Path, seconds: float) -> Result:
    """Run a step for at most so many seconds; its output goes to a log in the folder."""
    reason = step.missing(out)
    if reason is None and seconds < LEAST_SECONDS:
        reason = "the minutes are over"
    if reason is not None:
        return Result(step.name, "skipped", 0.0, reason)
    started = time.monotonic()
    with open(out / f"{step.name}.log", "wb") as log:
        process = subprocess.Popen(
            step.command,
            cwd=out,
            env={**os.environ, **dict(step.environment)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        limit = min(seconds, step.seconds)
        try:
            code = process.wait(limit)
            reason = "" if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            reason = f"took longer than {limit:.0f} s"
        finally:
            # Its own children too, whether it has ended or not.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    outcome = "failed" if reason else "ok"
    return Result(step.name, outcome, time.monotonic() - started, reason)


def record(result: Result, out: Path) -> None:
    """Append a result to the summary, on the disk at once: the next step may take the machine."""
    with open(out / "summary.jsonl", "a") as summary:
        summary.write(json.dumps(asdict(result)) + "\n")
        summary.flush()
        os.fsync(summary.fileno())


def tail(path: Path, lines: int = 15) -> str:
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def check(steps: Sequence[Step], out: Path, minutes: float) -> int:
    """Run the steps one after the other and return how many failed."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.jsonl").write_text("")
    end = time.monotonic() + 60 * minutes
    failed = 0
    for step in steps:
        result = run(step, out, end - time.monotonic())
        record(result, out)
        failed += result.outcome == "failed"
        print(
            f"{step.name:20} {result.outcome:8} {result.seconds:6.1f} s  {result.reason}",
            flush=True,
        )
        if result.outcome == "failed" or step.name in ("checks", "predictions"):
            print(tail(out / f"{step.name}.log", 40), flush=True)
    return failed


def parse(argv: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    parser.add_argument("--quick", action="store_true", help="few sizes and few repeats")
    parser.add_argument(
        "--steps",
        type=lambda text: text.split(","),
        default=list(names),
        help=f"some of {', '.join(names)}",
    )
    arguments = parser.parse_args(argv)
    for name in arguments.steps:
        if name not in names:
            parser.error(f"--steps: {name!r} is none of {', '.join(names)}")
    return arguments


def torch_sees_a_gpu() -> bool:
    """Ask another process: this one must not hold the device while its steps run."""
    ask = "import torch; raise SystemExit(0 if torch.cuda.is_available() else 1)"
    command = (sys.executable, "-c", ask)
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, check=False).returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv, [step.name for step in all_steps(quick=False)])
    if not torch_sees_a_gpu():
        print("benchmarks.gpu: there is no NVIDIA GPU here that torch sees; nothing was checked")
        return 1
    steps = [step for step in all_steps(arguments.quick) if step.name in arguments.steps]
    out = arguments.out.resolve()
    failed = check(steps, out, arguments.minutes)
    print(f"{failed} of {len(steps)} steps failed; logs, CSV and figures: {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
