"""The commands and the Python of README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rho_train.methods.registry import names, unregister

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_its_first_two_commands_install_and_test() -> None:
    """The gate runs both as they stand."""
    first, second = blocks("sh")[:2]
    assert first.endswith("&& .venv/bin/rho-ext demo\n")
    assert second == ".venv/bin/pip install '.[test]' && .venv/bin/pytest\n"


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks("python")
    before = set(names())
    monkeypatch.chdir(tmp_path)
    # One after the other in one namespace, as a reader would paste them.
    namespace: dict[str, object] = {}
    try:
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), namespace)
    finally:
        # A method that the README registers would be there in other tests too.
        for name in set(names()) - before:
            unregister(name)
