"""Shared by all tests: hypothesis profiles, backends, no leftover state."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

import rho_ext

from .backends import BACKENDS, Backend

settings.register_profile("default", derandomize=True, deadline=None, max_examples=25)
settings.register_profile(
    "thorough", database=None, deadline=None, max_examples=300, print_blob=True
)
settings.load_profile("thorough" if os.environ.get("RHO_EXT_THOROUGH") else "default")

# The tensors of the tests are small: a second thread would only wait for the first.
torch.set_num_threads(1)


# A module at a time, so that properties share it too.
@pytest.fixture(params=BACKENDS, scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every test of an op runs once on each."""
    chosen = BACKENDS[request.param]
    if reason := chosen.missing():
        pytest.skip(reason)
    with chosen.use():
        yield chosen


@pytest.fixture(scope="module")
def device(backend: Backend) -> torch.device:
    return backend.device


@pytest.fixture(autouse=True)
def no_active_table() -> Iterator[None]:
    with rho_ext.use_il(None):
        yield


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test change the number of threads of torch."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
