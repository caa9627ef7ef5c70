"""Label noise: its share, its kinds, its seed."""

from typing import Any

import pytest
import torch

from experiments.noise import label_noise

Y = torch.tensor([3, 0, 2, 2, 1, 0, 3, 1])


def test_noise_hits_the_documented_share_and_marks_what_changed() -> None:
    n, classes = 100_000, 10
    clean = torch.arange(n) % classes
    labels, noisy = label_noise(clean, 0.1, classes, seed=0)
    assert torch.equal(labels != clean, noisy)
    # 10,000 points are hit, each stays right with probability 1 / 10: mean 9000, variance 900.
    assert int(noisy.sum()) <= 10_000
    assert abs(int(noisy.sum()) - 9000) < 5 * 30
    assert torch.equal(clean, torch.arange(n) % classes)


def test_noise_is_uniform_over_all_classes() -> None:
    labels, noisy = label_noise(torch.zeros(100_000, dtype=torch.uint8), 1.0, 4, seed=1)
    counts = torch.bincount(labels, minlength=4)
    # Each count is binomial with mean 25000 and variance 18750.
    assert (counts - 25_000).abs().max() < 5 * 18_750**0.5
    assert int((~noisy).sum()) == int(counts[0])


def test_pair_noise_leads_to_the_next_class() -> None:
    labels, noisy = label_noise(torch.arange(1000) % 4, 0.2, 4, kind="pair", seed=0)
    clean = torch.arange(1000) % 4
    assert int(noisy.sum()) == 200
    assert torch.equal(labels[noisy], (clean[noisy] + 1) % 4)
    assert torch.equal(labels[~noisy], clean[~noisy])


def test_structured_noise_hits_half_of_each_confused_class() -> None:
    clean = torch.arange(1000) % 10
    pairs = [(3, 5), (4, 9), (9, 7)]
    labels, noisy = label_noise(clean, 0.5, 10, kind="structured", pairs=pairs, seed=0)
    # No label moves twice: a 4 that became a 9 does not go on to 7.
    for a, b in pairs:
        assert labels[clean == a].bincount(minlength=10)[[a, b]].tolist() == [50, 50]
    assert int(noisy.sum()) == 150


def test_noise_depends_on_its_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (label_noise(Y.repeat(99), 0.5, 4, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    untouched = label_noise(Y, 0.0, 4, seed=0)
    assert torch.equal(untouched.labels, Y)
    assert not untouched.noisy.any()


def test_noise_is_unrelated_to_a_split_of_the_same_seed() -> None:
    n = 20_000
    noisy = label_noise(torch.zeros(n, dtype=torch.int64), 0.1, 100, seed=5).noisy
    half = torch.randperm(n, generator=torch.Generator().manual_seed(5))[: n // 2]
    # Of about 1980 noisy points each lies in the half with probability 1 / 2.
    assert abs(int(noisy[half].sum()) - int(noisy.sum()) / 2) < 5 * (1980 / 4) ** 0.5


@pytest.mark.parametrize(
    ("labels", "rate", "error", "message"),
    [
        (Y, 1.5, ValueError, r"rate must lie in \[0, 1\], got 1.5"),
        (Y, -0.1, ValueError, "rate must lie"),
        (Y, float("nan"), ValueError, "rate must lie"),
        (Y + 1, 0.1, ValueError, r"\[0, num_classes = 4\), got 1 to 4"),
        (Y - 1, 0.1, ValueError, "got -1 to 2"),
        (Y.float(), 0.1, TypeError, "integer tensor"),
        (Y.tolist(), 0.1, TypeError, "got list"),
        (Y.unsqueeze(0), 0.1, ValueError, r"shape \(n,\), got \(1, 8\)"),
    ],
)
def test_bad_noise_is_refused(
    labels: Any, rate: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        label_noise(labels, rate, 4, seed=0)


def test_pairs_of_classes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pairs must be classes in .* 4\), got \[\(3, 4\)\]"):
        label_noise(Y, 0.5, 4, kind="structured", pairs=[(3, 4)], seed=0)
