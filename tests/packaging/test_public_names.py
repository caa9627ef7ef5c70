"""The public names are those that docs/api.md promises, and users need no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import pytest

import rho_ext
import rho_train

ROOT = Path(__file__).parents[2]
# "| kind | `name` `name` |": the names of rows whose first cell begins with it.
ROWS = re.findall(r"^\| `?(\w+)[^|]*\| (`.*`) \|$", (ROOT / "docs" / "api.md").read_text(), re.M)
PROMISED = [(row, name) for row, names in ROWS for name in re.findall(r"[\w.]+", names)]


def promised(row: str) -> list[str]:
    return sorted(name for kind, name in PROMISED if kind == row)


@pytest.mark.parametrize("package", [rho_ext, rho_train])
def test_public_names(package: ModuleType) -> None:
    assert package.__all__ == promised(package.__name__)
    # Else `from rho_ext import *` and `rho_ext.` in an editor would show others.
    shown = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    modules = {name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)}
    assert shown | modules == set(package.__all__)
    for name in package.__all__:
        assert (getattr(package, name).__doc__ or "").strip(), f"{name} has no docstring"


def test_examples_import_what_is_promised() -> None:
    modules = ("rho_ext", "rho_train", *promised("modules"))
    assert len(modules) == 8
    sources = [path.read_text() for path in sorted(ROOT.glob("examples/*.py"))]
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        sources += re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    imported = {
        node.module
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rho_")
    }
    assert "rho_train.tasks" in imported
    allowed = re.compile(rf"({'|'.join(map(re.escape, modules))}|rho_train\.integrations\.\w+)")
    assert [module for module in sorted(imported) if not allowed.fullmatch(module)] == []
