"""Shared by the tests of rho_train: data to train on, and a Ctrl-C that arrives."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return make_table(tmp_path)


@pytest.fixture(scope="module")
def module_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_table(tmp_path_factory.mktemp("table"))


def make_table(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    path = folder / "table.npz"
    features = generator.normal(size=(900, 4))
    np.savez(path, features=features, labels=(features[:, 0] > 0).astype(np.int64))
    return path


@pytest.fixture(autouse=True)
def ctrl_c_arrives() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and child processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
