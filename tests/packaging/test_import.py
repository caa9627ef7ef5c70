"""Imports: allowed directions, and effects of importing."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rho_ext
from rho_ext import _C, _library


def folder(package: str) -> Path:
    """Return the folder of the installed package; tests run outside the source tree."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def sources(package: str) -> Iterator[tuple[str, ast.Module]]:
    files = sorted(folder(package).rglob("*.py"))
    assert files
    for file in files:
        yield str(file.relative_to(folder(package))), ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Full names: `from a.b import c` is a.b.c. Relative imports have no package in front."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run(
    code: str, cwd: Path = Path(sys.prefix), **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment |= variables
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_rho_ext_depends_on_torch_and_numpy_only() -> None:
    allowed = {"rho_ext", "torch", "numpy", *sys.stdlib_module_names}
    for file, tree in sources("rho_ext"):
        for name in imports(tree):
            assert name.partition(".")[0] in allowed, f"rho_ext/{file} imports {name}"


def test_rho_train_uses_public_names_of_rho_ext_only() -> None:
    public = set(rho_ext.__all__) | {"__version__"}
    for file, tree in sources("rho_train"):
        aliases = {"rho_ext"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                aliases |= {a.asname for a in node.names if a.name == "rho_ext" and a.asname}
        used = {name for name in imports(tree) if name.startswith("rho_ext.")}
        used |= {
            f"rho_ext.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
        }
        for name in used:
            parts = name.split(".")[1:]
            assert parts[0] in public, f"rho_train/{file} uses {name}"
            assert not any(part.startswith("_") for part in parts[1:]), f"rho_train/{file}: {name}"


def test_only_the_active_table_is_assigned_after_import() -> None:
    changed = set()
    for file, tree in sources("rho_ext"):
        for node in ast.walk(tree):
            if isinstance(node, (ast.Global, ast.Nonlocal)):
                changed |= {(file, name) for name in node.names}
        for node in tree.body:
            # A container that is not spelt as a constant could be filled.
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = {name.id for name in targets if isinstance(name, ast.Name)}
                if isinstance(node.value, (ast.List, ast.Dict, ast.Set)):
                    assert all(name.strip("_") == "all" or name.isupper() for name in names), names
    assert changed == {("ops.py", "_active_il")}


def test_version_is_one() -> None:
    assert rho_ext.__version__ == importlib.metadata.version("rho-ext")
    assert rho_ext.__version__ == rho_ext.build_info()["version"]


def test_import_in_a_fresh_interpreter_takes_no_gpu_and_no_training_layer() -> None:
    code = (
        "import rho_ext, sys, torch; "
        "assert not torch.cuda.is_initialized(); "
        "assert 'rho_train' not in sys.modules; "
        "assert rho_ext.build_info()['cuda']; "
        "print(rho_ext.__version__)"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == rho_ext.__version__
    assert result.stderr == ""


def clone(folder_: Path) -> Path:
    """Copy the sources of rho_ext, which hide the installed package for a Python in `folder_`."""
    nothing = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(folder("rho_ext"), folder_ / "rho_ext", ignore=nothing))


def test_a_clone_uses_the_installed_library(tmp_path: Path) -> None:
    sources, site = clone(tmp_path / "clone"), tmp_path / "site"
    (site / "rho_ext").mkdir(parents=True)
    library = Path(_C.__file__)
    shutil.copy(library, site / "rho_ext")

    def installed(version: str) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(site / "rho_ext.dist-info", ignore_errors=True)
        (site / "rho_ext.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: rho-ext\nVersion: {version}\n"
        (site / "rho_ext.dist-info" / "METADATA").write_text(metadata)
        code = "import rho_ext; print(rho_ext.__file__, rho_ext._library._C.__file__)"
        return run(code, cwd=sources.parent, PYTHONPATH=str(site))

    result = installed(rho_ext.__version__)
    assert result.returncode == 0, result.stderr
    used = [str(sources / "__init__.py"), str(site / "rho_ext" / library.name)]
    assert result.stdout.split() == used
    assert (
        f"ImportError: rho_ext: this source folder is version {rho_ext.__version__}, and the "
        "installed library is version 0.0.9; run 'pip install .' again"
    ) in installed("0.0.9").stderr


def test_libraries_that_do_not_fit_say_so(tmp_path: Path) -> None:
    """None, one that does not load, one of other sources, CUDA kernels that do not load."""
    sources = clone(tmp_path)
    nothing_installed = (
        "import importlib.metadata as m\n"
        "def distribution(name): raise m.PackageNotFoundError(name)\n"
        "m.distribution = distribution\n"
    )
    missing = "compiled library is missing, and rho_ext is not installed; run 'pip install .'"
    unfit = (
        f"compiled library does not fit Python {platform.python_version()}, torch "
        f"{torch.__version__} and the sources in {sources}. Update torch to 2.10 or newer, or "
        "build rho_ext again with 'pip install .' ("
    )
    library = sources / Path(_C.__file__).name
    for code, files, message in (
        (nothing_installed, {}, missing),
        ("", {library: b"no library"}, f"{unfit}{library}"),
        ("", {sources / "_C.py": b""}, f"{unfit}module 'rho_ext._C' has no attribute"),
        ("import torch; torch.version.cuda = '13.0'\n",
         {library: Path(_C.__file__).read_bytes(), sources / "_cuda.so": b"no library"},
         f"{unfit}Could not load this library: {sources / '_cuda.so'}"),
    ):  # fmt: skip
        for file, content in files.items():
            file.write_bytes(content)
        error = run(f"{code}import rho_ext", cwd=tmp_path, PYTHONPATH="").stderr.splitlines()
        assert error[-1].startswith(f"ImportError: rho_ext: the {message}"), error
        for file in files:
            file.unlink()


def test_a_torch_without_cuda_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    for hip, told in ((None, "has no CUDA; install one that has"), ("6.4", "is built for ROCm")):
        monkeypatch.setattr(torch.version, "hip", hip)
        assert told in str(_library.cuda_missing())
