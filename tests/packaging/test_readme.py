"""The commands of README.md, and the Python of every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rho_train.methods import registry

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_its_first_two_commands_install_and_test() -> None:
    """The gate runs both as they stand."""
    first, second = blocks(README, "sh")[:2]
    assert first.endswith("&& .venv/bin/rho-ext demo\n")
    assert second == ".venv/bin/pip install 'rho-ext[test]' && .venv/bin/pytest\n"


def test_python_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for page in PAGES:
        # The blocks of a page run one after the other, as a reader would paste them.
        namespace: dict[str, object] = {}
        # Methods that a page adds may be in the package by now, and are gone afterwards.
        own = re.findall(r'register\("(\w+)"', page.read_text())
        kept = {name: method for name, method in registry._METHODS.items() if name not in own}
        monkeypatch.setattr(registry, "_METHODS", kept)
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), namespace)
            ran += 1
    assert ran > len(blocks(README, "python")) > 0


def test_links_between_pages_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in LINK.findall(page.read_text())]
    assert links
    missing = [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert not missing
