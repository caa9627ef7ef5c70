"""Backends of the tests of the ops: the CPU, emulated GPU kernels, and a GPU."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from rho_ext import _autograd, _library, _meta, ops

from .emulator import build


@dataclass(frozen=True)
class Backend:
    """The differences between backends; all else is the same to the bit."""

    name: str
    device: torch.device
    namespace: str
    # No float64, and labels and ids out of range are counted instead of raising.
    gpu: bool
    most_rows: int = 2**31

    def op(self, name: str) -> Any:
        """Return the op itself: `select`, `score` or `select.workspace`."""
        packet, _, overload = name.partition(".")
        return getattr(getattr(getattr(torch.ops, self.namespace), packet), overload or "default")

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The types of logits that it computes."""
        halves_too = (torch.float32, torch.float16, torch.bfloat16)
        return halves_too if self.gpu else (*halves_too, torch.float64)

    def missing(self) -> str | None:
        """Return why it cannot run here, if so."""
        if self.name == "emulated" and not build.CSRC.is_dir():
            return "the source of the kernels is not beside the tests"
        if self.name == "emulated" and shutil.which(build.compiler()) is None:
            return "the emulator needs a C++ compiler"
        if self.name == "cuda":
            return _library.cuda_missing() or (
                None if torch.cuda.is_available() else "torch finds no CUDA device"
            )
        return None

    @contextmanager
    def use(self) -> Iterator[None]:
        """Make it the backend of `rho_ext.select` and `rho_ext.score`."""
        if self.name != "emulated":
            yield
            return
        emulated_library()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "_select", self.op("select"))
            patch.setattr(ops, "_score", self.op("score"))
            patch.setattr(ops, "_select_workspace", self.op("select.workspace"))
            patch.setattr(_meta, "on_gpu", lambda logits: True)
            yield

    @contextmanager
    def plan(
        self,
        regime: str = "",
        top_k_stage: str = "",
        threads: int = 0,
        blocks: int = 0,
        slices: int = 0,
        sort_tile: int = 0,
    ) -> Iterator[None]:
        """Force parts of the launch plan of csrc/cuda/plan.h, so that small inputs reach them."""
        emulated = self.name == "emulated"
        library = emulated_library() if emulated else ctypes.CDLL(str(_library._CUDA))
        if not hasattr(library, "rho_ext_force_plan"):
            pytest.skip("a plan is forced in builds with RHO_EXT_TEST_HOOKS=ON only")
        names = (
            ("", "lane_groups", "slices").index(regime),
            ("", "none", "last_block", "grid").index(top_k_stage),
        )
        library.rho_ext_force_plan(*names, threads, blocks, slices, sort_tile)
        try:
            yield
        finally:
            library.rho_ext_force_plan(0, 0, 0, 0, 0, 0)


CPU = torch.device("cpu")
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cpu", CPU, "rho_ext", gpu=False),
        Backend("emulated", CPU, "rho_emulated", gpu=True, most_rows=20_000),
        Backend("cuda", torch.device("cuda"), "rho_ext", gpu=True),
    )
}


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these backends only."""
    return pytest.mark.parametrize("backend", names, indirect=True, scope="module")


def build_emulated() -> Path:
    """Build the kernels and the glue as they are on a GPU; RHO_EXT_EMULATED names a variant."""
    sources = [build.CSRC / "cuda" / name for name in ("select.cu", "ops.cpp")]
    sources.append(build.EMULATOR / "registration.cpp")
    variant = cast(build.Variant, os.environ.get("RHO_EXT_EMULATED", "plain"))
    return build.build("ops", sources, variant=variant, torch=True)


def load(library: Path) -> ctypes.CDLL:
    """Register the emulated ops, with the same fake kernels and autograd as those of rho_ext."""
    torch.ops.load_library(str(library))
    fakes = {
        "select": _meta._select_fake,
        "select.workspace": _meta._select_workspace_fake,
        "score": _meta._score_fake,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"rho_emulated::{name}", fake, lib=registrations())
        if name in _autograd.FALL_THROUGH:
            registrations().impl(name, torch.library.fallthrough_kernel, "Autograd")
    return ctypes.CDLL(str(library))


@functools.cache
def registrations() -> torch.library.Library:
    # Its destructor would take them back.
    return torch.library.Library("rho_emulated", "FRAGMENT")


@functools.cache
def emulated_library() -> ctypes.CDLL:
    """Return the library of the emulated ops, with its C functions."""
    return load(build_emulated())
