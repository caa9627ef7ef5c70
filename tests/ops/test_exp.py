"""The exp of the row kernels: the bound that csrc/cpu/vector_math.h states."""

from __future__ import annotations

import numpy as np
import pytest

from rho_ext import _C

FLOOR, CEILING = -87.0, 64.0


def exp(values: np.ndarray) -> np.ndarray:
    result = values.astype(np.float32)
    _C.exp_in_place(result)
    return result


@pytest.mark.parametrize("step", [997, pytest.param(61, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ends", [(-0.0, FLOOR), (0.0, CEILING)])
def test_exp_is_accurate(ends: tuple[float, float], step: int) -> None:
    """One in 997, or in 61, of all float32 from zero to where it ends."""
    first, last = (np.float32(x).view(np.uint32) for x in ends)
    values = np.arange(first, last, step, dtype=np.uint32).view(np.float32)
    truth = np.exp(values.astype(np.float64))
    error = np.abs(exp(values) / truth - 1)
    assert (error <= 2.3e-7 + 7.4e-8 * np.abs(values)).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 1.0), (-0.0, 1.0), (-np.inf, np.exp(FLOOR)), (-1e38, np.exp(FLOOR))],
)
def test_exp_is_accurate_at_its_ends(value: float, expected: float) -> None:
    # In every lane, and in vectors that are not full.
    for count in (1, 7, 16, 33):
        assert exp(np.full(count, value)) == pytest.approx(expected, rel=2e-6 * (expected < 1))


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FC0FFFF])
def test_exp_keeps_nan_so_it_is_accurate(bits: int) -> None:
    assert np.isnan(exp(np.array([bits], np.uint32).view(np.float32))).all()
