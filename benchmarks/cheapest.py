"""A custom op of torch that does nothing: what any op with the arguments of select costs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from common import BenchmarkFailed

SOURCE = Path(__file__).parent / "cheapest_op.cpp"


def build() -> None:
    """Compile and load cheapest_op.cpp, as torch builds an extension on the fly."""
    from torch.utils import cpp_extension

    # ninja from pip lies beside this interpreter, which need not be on the PATH.
    if shutil.which("ninja") is None and importlib.util.find_spec("ninja"):
        import ninja

        os.environ["PATH"] += os.pathsep + ninja.BIN_DIR
    compiler = cpp_extension.get_cxx_compiler().split()[0]  # CXX may hold options too.
    for tool, fix in ((compiler, "install one or set CXX"), ("ninja", "pip install ninja")):
        if shutil.which(tool) is None:
            raise BenchmarkFailed(
                f"{tool} is needed to build {SOURCE.name} and is not on the PATH: {fix}, or leave "
                "the op out"
            )
    # A folder of its own: one that a stopped build left locked would be waited for without end.
    with tempfile.TemporaryDirectory() as folder:
        try:
            cpp_extension.load(
                "rho_bench",
                [str(SOURCE)],
                extra_cflags=["-O2"],
                build_directory=folder,
                is_python_module=False,
            )
        except (RuntimeError, subprocess.SubprocessError) as error:
            raise BenchmarkFailed(f"{SOURCE.name} does not build: {error}") from error


def same_schema(logits: Tensor, labels: Tensor, ids: Tensor, il: Tensor, k: int) -> object:
    """Call it with what the op of `rho_ext.select` is called with."""
    return torch.ops.rho_bench.same_schema.default(logits, labels, ids, k, il, 0, None, -100, 0.0)
