"""Data that the tests of the command line train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def table(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path / "table.npz"
    features = generator.normal(size=(900, 4))
    np.savez(path, features=features, labels=(features[:, 0] > 0).astype(np.int64))
    return path
