"""The check-list for a GPU: build, measure, check, train and sanitize, within eight minutes.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent
# A step with less time than this has no use for it.
LEAST_SECONDS = 10.0
TRAINING = ("safetensors", "tqdm")
COMMANDS = (*TRAINING, "jsonargparse", "yaml", "jinja2", "matplotlib")


@dataclass(frozen=True)
class Step:
    """A process of its own: a fault on the device ends its process, and a hang must end too.

    It runs Python, or `command`, with `arguments` in the output folder, where the sources hide no
    installed package, for at most `seconds`, if its `modules` and `tools` are there.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float
    modules: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (sys.executable,)

    def missing(self) -> str:
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"Python has no {module}"
        tool = next((one for one in self.tools if shutil.which(one) is None), None)
        return f"{tool} is not on the PATH" if tool else ""


def all_steps(architecture: str) -> list[Step]:
    """Return the steps in their order: what nobody else can tell first."""
    # With the hooks that let speed, checks and tests force a plan.
    hooks = "-Ccmake.define.RHO_EXT_TEST_HOOKS=ON"
    install = ("-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", hooks, str(ROOT))

    def select(name: str, seconds: float, *options: str, modules: tuple[str, ...] = ()) -> Step:
        script = str(BENCHMARKS / "bench_select.py")
        shared = ("--device", "cuda", "--seconds", "0.3", "--out", f"{name}.csv")
        return Step(name, (script, *shared, *options), seconds, modules)

    def rivals(name: str, clock: str, module: str) -> Step:
        sizes = ("--rows", "4096", "--classes", "1000", "32000", "--dtypes", "bfloat16", "float32")
        providers = ("--k", "10%", "--providers", f"eager_float32,{name},rho_ext", "--clock", clock)
        return select(name, 60, *sizes, *providers, modules=(module,))

    # Compiling takes the time: a few sizes, and torch keeps what it has compiled.
    grid = (
        *("--rows", "320", "4096", "65536", "--classes", "10", "100", "1000", "32000"),
        *("--dtypes", "bfloat16", "float32", "--k", "10%"),
        *("--providers", "eager,eager_float32,compile,rho_ext"),
    )

    def sanitizer(tool: str, *options: str) -> Step:
        # Our kernels only: torch's would take the minutes. It also asks the driver for functions
        # that need not exist, which would count as errors. With exact allocations a read past a
        # tensor is one past an allocation.
        ours = ("--kernel-name", "kns=select_kernel", "--report-api-errors", "no", sys.executable)
        command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *ours)
        arguments = ("-m", "gpu.checks", "--only", "plans", "--every", "5", *options)
        exact = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return Step(f"sanitizer-{tool}", arguments, 60, (), command[:1], exact, command)

    build = {} if os.environ.get("CUDAARCHS") else {"CUDAARCHS": f"{architecture}-real"}
    clocks = ("nvidia-smi", "-q", "-d", "CLOCK,POWER,PERFORMANCE")
    demo = ("-m", "rho_train", "demo", "--device=cuda", "--out=demo", "--train.steps=300")
    example, ops = (str(ROOT / path) for path in ("examples/transformers_trainer.py", "tests/ops"))
    tests = ("-m", "pytest", "-v", "-k", "cuda", "-n8", "--maxfail=20", "-pno:cacheprovider", ops)
    return [
        Step("build", install, 150, ("scikit_build_core", "pybind11"), ("nvcc",), build),
        Step("gpu", (), 20, tools=("nvidia-smi",), command=clocks),
        Step("speed", ("-m", "gpu.speed"), 100),
        Step("checks", ("-m", "gpu.checks"), 100),
        Step("training", ("-m", "gpu.training"), 60, TRAINING),
        Step("demo", demo, 60, COMMANDS),
        Step("integration", (example,), 60, (*TRAINING, "transformers", "accelerate")),
        Step("tests", tests, 120, ("pytest", "xdist", "hypothesis")),
        select("grid", 100, "--clock", "graph", *grid),
        # Liger waits for the device in every call, so no graph can hold it.
        rivals("liger", "events", "liger_kernel"),
        rivals("quack", "graph", "quack"),
        *map(sanitizer, ("memcheck", "racecheck", "synccheck")),
        sanitizer("initcheck", "--fours"),
        select("grid-hot", 60, "--clock", "graph", "--hot", *grid),
        select("grid-wall", 60, "--clock", "wall", *grid),
    ]


def run(step: Step, out: Path, seconds: float) -> tuple[str, str]:
    """Run a step for at most so many seconds, its output to a log; return outcome and reason."""
    reason = step.missing() or ("the minutes are over" if seconds < LEAST_SECONDS else "")
    if reason:
        return "skipped", reason
    # The scripts import their neighbours, and show each line as it comes.
    paths = os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **step.environment}
    with open(out / f"{step.name}.log", "wb") as log:
        process = subprocess.Popen(
            (*step.command, *step.arguments),
            cwd=out,
            env={**os.environ, **own},
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
    return "failed" if reason else "ok", reason


def check(steps: Sequence[Step], out: Path, minutes: float) -> int:
    """Run the steps one after the other and return how many failed."""
    out.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + 60 * minutes, 0
    # Each result is on the disk at once: the next step may take the machine.
    with open(out / "summary.jsonl", "w") as summary:
        for step in steps:
            started = time.monotonic()
            outcome, reason = run(step, out, end - started)
            seconds = time.monotonic() - started
            result = {"step": step.name, "outcome": outcome, "seconds": seconds, "reason": reason}
            summary.write(json.dumps(result) + "\n")
            summary.flush()
            os.fsync(summary.fileno())
            failed += outcome == "failed"
            print(f"{step.name:20} {outcome:8} {seconds:6.1f} s  {reason}", flush=True)
            if outcome == "failed" or step.name in ("speed", "checks", "training"):
                text = (out / f"{step.name}.log").read_text(errors="replace").splitlines()
                print("\n".join(text[-100:]), flush=True)
    return failed


def architecture() -> str:
    """Return the compute capability of the GPU, as 90, or nothing.

    Another process asks: this one must not hold the device while its steps run.
    """
    ask = "import torch; print('%d%d' % torch.cuda.get_device_capability())"
    found = subprocess.run(
        (sys.executable, "-c", ask), cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    names = [step.name for step in all_steps("")]
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / "gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    some = f"some of {','.join(names)}"
    parser.add_argument("--steps", type=lambda text: text.split(","), default=names, help=some)
    arguments = parser.parse_args(argv)
    for name in arguments.steps:
        if name not in names:
            parser.error(f"--steps: {name!r} is none of {', '.join(names)}")
    found = architecture()
    if not found:
        print("benchmarks.gpu: there is no NVIDIA GPU here that torch sees; nothing was checked")
        return 1
    steps = [step for step in all_steps(found) if step.name in arguments.steps]
    out = arguments.out.resolve()
    failed = check(steps, out, arguments.minutes)
    print(f"{failed} of {len(steps)} steps failed; logs and CSV: {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
