"""The command as a person runs it, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from rho_train.files import read_lines

SMALL = ["--train.steps=60", "--train.eval_every=20", "--recipe.epochs=1", "--seeds=1"]


def train_arguments(table: Path, out: Path, *more: str) -> list[str]:
    return [
        "train",
        "--task=table",
        f"--task.path={table}",
        "--task.test=300",
        f"--out={out}",
        "--train.steps=40",
        "--train.large_batch=40",
        "--train.batch=8",
        "--train.eval_every=10",
        "--train.checkpoint_every=5",
        "--task.hidden=[16]",
        "--recipe.epochs=2",
        "--train.lr=0.03",
        *more,
    ]


def demo_arguments(table: Path, out: Path, *more: str) -> list[str]:
    return ["demo", *train_arguments(table, out, "--seeds=1", *more)[1:]]


def records(out: Path) -> list[dict[str, Any]]:
    """Read the metrics of all runs without the clock."""
    found = [one for path in sorted(out.glob("runs/*/metrics.jsonl")) for one in read_lines(path)]
    return [{k: v for k, v in one.items() if not k.endswith("seconds")} for one in found]


def run(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rho_train", *arguments],
        # Not the source tree: Python would import the folder without the library.
        cwd=sys.prefix,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
