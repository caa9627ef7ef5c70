"""Where the numbers of an experiment come from."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path

import torch

import rho_ext


def environment(processes: int, threads: int) -> dict[str, str | int]:
    """Describe machine and software, for the report."""
    build = rho_ext.build_info()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "processes": processes,
        "threads per process": threads,
        "instruction set": str(build["isa"]),
        "rho_ext": rho_ext.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """Return the name of the processor, or `unknown`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
