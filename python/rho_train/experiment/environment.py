"""Where the numbers of an experiment come from."""

from __future__ import annotations

import os
import platform
import time
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


def busy_cores() -> float | None:
    """Look for half a second how many cores other work keeps busy; None where nothing says so.

    Times are too long and scattered above about 0.2: threads that share a core with other work wait
    for each other.
    """

    def ticks() -> tuple[int, int]:
        counts = [int(count) for count in stat.read_text().partition("\n")[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]  # Idle, and waiting for a disk.

    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    total, idle = ticks()
    time.sleep(0.5)
    after, idle_after = ticks()
    return max(0.0, (1 - (idle_after - idle) / (after - total)) * (os.cpu_count() or 1))
