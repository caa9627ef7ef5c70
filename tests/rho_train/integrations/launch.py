"""Programs on several ranks, by torchrun and gloo, and the code of pages in docs/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def launch(ranks: int, program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*torchrun, f"--nproc-per-node={ranks}", str(program), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done


def run_page(
    framework: str, names: dict[str, Any], page_name: str = "integrations"
) -> dict[str, Any]:
    """Run the blocks of a page that require a framework, with names that it takes for granted."""
    page = ROOT / "docs" / f"{page_name}.md"
    if not page.exists():
        pytest.skip("outside of the source tree")
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"```python requires={framework}\n(.*?)```", text, flags=re.DOTALL)
    assert found
    for block in found:
        exec(compile(block, page.name, "exec"), names)
    return names
