"""The installed files: both packages, their data, the command, and nothing of the build."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import rho_ext
import rho_train


def test_package_data_is_there_and_sources_are_not() -> None:
    installed = [str(path) for path in importlib.metadata.files("rho-ext") or []]
    if any("editable" in path for path in installed):
        pytest.skip("an editable install keeps its files in the source tree")
    for name in (
        "rho_ext/py.typed",
        "rho_ext/_C.pyi",
        "rho_train/py.typed",
        "rho_train/tasks/letter_recognition.npz",
        "rho_train/report/template.html",
        "rho_train/report/wrong_labels.html",
        "rho_train/report/page.css",
        "rho_train/report/page.html",
    ):
        assert name in installed
    assert any(re.match(r"rho_ext/_C\..*so$", path) for path in installed)
    assert any(path.endswith("letter_recognition.LICENSE") for path in installed)
    sources = (".cpp", ".cu", ".cuh", ".h", ".inc", ".o")
    assert not [path for path in installed if path.endswith(sources)]
    tops = {path.partition("/")[0] for path in installed if not path.startswith("..")}
    assert tops - {"rho_ext", "rho_train"} == {f"rho_ext-{rho_ext.__version__}.dist-info"}


def test_command_is_declared() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert scripts["rho-ext"].value == "rho_train.cli:main"


def _modules(package: ModuleType) -> list[str]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    # _cuda is a library of ops, which torch loads where it has CUDA, and no module of Python.
    others = ("__main__", "_cuda")
    return [package.__name__, *(m.name for m in found if not m.name.endswith(others))]


@pytest.mark.slow
@pytest.mark.parametrize("package", [rho_ext, rho_train])
def test_examples_in_docstrings_run(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for name in _modules(package):
        framework = name.rpartition(".")[2] if ".integrations." in name else "torch"
        if importlib.util.find_spec(framework) is None:
            continue  # an extra
        results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert results.failed == 0, name
        ran += results.attempted
    assert ran > 10
