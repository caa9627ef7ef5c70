"""Loads the compiled libraries; importing them registers the ops with torch."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from platform import python_version

import rho_ext

if find_spec("rho_ext._C") is None:
    # In a clone this source folder hides the installed package, which holds the library.
    try:
        _installed = metadata.distribution("rho-ext")
    except metadata.PackageNotFoundError:
        raise ImportError(
            "rho_ext: the compiled library is missing, and rho_ext is not installed; run "
            "'pip install .'"
        ) from None
    if _installed.version != rho_ext.__version__:
        raise ImportError(
            f"rho_ext: this source folder is version {rho_ext.__version__}, and the installed "
            f"library is version {_installed.version}; run 'pip install .' again"
        )
    rho_ext.__path__.append(str(_installed.locate_file("rho_ext")))

# libtorch must be in the process before the library that links to it.
import torch

try:
    from rho_ext import _C

    # The CUDA ops need a torch with CUDA. They touch no GPU until they are called.
    _CUDA = Path(_C.__file__).with_name("_cuda.so")
    if torch.version.cuda is not None and _CUDA.exists():
        torch.ops.load_library(str(_CUDA))
    METHODS: dict[str, int] = _C.methods()
    NEEDS_IL = frozenset(_C.needs_il())
    WORKSPACE_WORDS: int = _C.workspace_words
except (ImportError, OSError, AttributeError) as error:
    raise ImportError(
        f"rho_ext: the compiled library does not fit Python {python_version()}, torch "
        f"{torch.__version__} and the sources in {rho_ext.__path__[0]}. Update torch to 2.10 or "
        f"newer, or build rho_ext again with 'pip install .' ({error})"
    ) from error


def build_info() -> dict[str, str | list[str]]:
    """Return what was built and what is in use on this machine.

    Returns:
        `version`, `compiler`, `cxx_flags` (of the row kernels, each of which adds those of its
        instruction set), `isa_compiled` (slowest first), `isa` (the one in use; the environment
        variable `RHO_EXT_ISA` forces a lower one), `torch_headers` (of the build), `torch_target`
        (oldest torch that the library runs on), `cuda` (compiler and architectures of the CUDA
        kernels, or why there are none), `cuda_ops` (`ready`, or what they miss), and `sanitize`
        (the sanitizers that the library was built with, which make it slow, or `off`).

    Raises:
        ValueError: `RHO_EXT_ISA` names an instruction set that cannot run here.

    Examples:
        >>> import rho_ext
        >>> rho_ext.build_info()["torch_target"]
        '2.10'
    """
    return {**_C.build_info(), "cuda_ops": cuda_missing() or "ready"}


def cuda_missing() -> str | None:
    """Return what to do to run the kernels on CUDA tensors, or None if they do."""
    if torch.version.hip is not None:
        return f"torch {torch.__version__} is built for ROCm, for which there are no kernels"
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} has no CUDA; install one that has, then build rho_ext "
            "again with 'pip install .'"
        )
    if not _CUDA.exists():
        return (
            f"rho_ext was built without CUDA kernels ({_C.build_info()['cuda']}); install the CUDA "
            "toolkit, so that nvcc is found, and build it again with 'pip install .'"
        )
    return None
