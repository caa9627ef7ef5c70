"""The oldest versions that the extras of rho-ext allow pass their fast tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .launch import ROOT


@pytest.mark.slow
def test_oldest_versions(tmp_path: Path) -> None:
    for needed in ("transformers", "lightning"):
        pytest.importorskip(needed, reason=f"no {needed}: see the extras of rho-ext")
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lowest = r'"((?:transformers|accelerate|datasets|lightning)[\w\[\]]*)>=([\d.]+)'
    oldest = [f"{name}=={version}" for name, version in re.findall(lowest, extras)]
    assert len(oldest) == 4
    # An environment of its own on top of this one, so that torch is not unpacked again.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    python = str(tmp_path / "bin" / "python")
    (packages,) = tmp_path.glob("lib/*/site-packages")
    below = [path for path in sys.path if path.endswith("-packages")]
    (packages / "below.pth").write_text("\n".join(below), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile"]
    done = subprocess.run([*pip, *oldest], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {', '.join(oldest)}: {done.stderr[-300:]}")
    # TRL of another day asks for other versions.
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-k", "not sft and not page"]
    names = ("transformers", "token_selector", "lightning")
    tests = [f"{Path(__file__).parent}/test_{name}.py" for name in names]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [python, "-m", "pytest", *options, *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
