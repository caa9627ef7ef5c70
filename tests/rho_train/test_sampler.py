import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from rho_train.dataset import IndexedDataset
from rho_train.sampler import LargeBatchSampler, loader

deterministic = settings(deadline=None, derandomize=True, max_examples=50)


def first(count: int, *args: Any, **kwargs: Any) -> list[list[int]]:
    return list(itertools.islice(LargeBatchSampler(*args, **kwargs), count))


@deterministic
@given(st.data(), st.integers(1, 40), st.integers(0, 2**63), st.booleans())
def test_resuming_anywhere_equals_the_uninterrupted_stream(
    data: st.DataObject, n: int, seed: int, subset: bool
) -> None:
    batch_size = data.draw(st.integers(1, n))
    start = data.draw(st.integers(0, 3 * (n // batch_size) + 1))
    examples = torch.arange(n) * 3 + 5 if subset else n
    whole = first(start + 7, examples, batch_size, seed=seed)
    assert first(7, examples, batch_size, seed=seed, start=start) == whole[start:]


@deterministic
@given(st.data(), st.integers(1, 40), st.integers(0, 2**63))
def test_ranks_share_the_batches_of_one_process(data: st.DataObject, n: int, seed: int) -> None:
    batch_size = data.draw(st.integers(1, n))
    world = data.draw(st.integers(1, batch_size))
    ranks = [first(3, n, batch_size, seed=seed, rank=rank, world=world) for rank in range(world)]
    shares = list(zip(*ranks, strict=True))
    joined = [list(itertools.chain(*parts)) for parts in shares]
    assert joined == first(3, n, batch_size, seed=seed)
    sizes = {len(part) for parts in shares for part in parts}
    assert max(sizes) - min(sizes) <= 1
    # Random transforms of other examples are other ones.
    assert len({part.seed for part in shares[0]}) == world


@deterministic
@given(st.data(), st.integers(1, 40), st.integers(0, 2**63), st.booleans())
def test_every_epoch_is_disjoint_and_full(
    data: st.DataObject, n: int, seed: int, subset: bool
) -> None:
    batch_size = data.draw(st.integers(1, n))
    examples = [7 * i + 2 for i in range(n)] if subset else range(n)
    sampler = LargeBatchSampler(examples if subset else n, batch_size, seed=seed)
    stream = iter(sampler)
    for _ in range(3):
        batches = [next(stream) for _ in range(sampler.batches_per_epoch)]
        assert {len(batch) for batch in batches} == {batch_size}
        drawn = {example for batch in batches for example in batch}
        assert len(drawn) == n // batch_size * batch_size
        assert drawn <= set(examples)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    epochs = [first(1, 1000, 1000, seed=s, start=e)[0] for s in (0, 1, 2**32) for e in (0, 1, 2)]
    epochs.append(list(range(1000)))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_every_example_is_equally_likely_in_a_first_batch() -> None:
    drawn = torch.tensor([first(1, 10, 5, seed=seed)[0] for seed in range(2000)])
    counts = torch.bincount(drawn.flatten(), minlength=10)
    # Each count is binomial with mean 1000 and variance 500.
    assert (counts - 1000).abs().max() < 5 * 500**0.5


def test_the_start_is_reached_without_walking_there() -> None:
    assert len(first(1, 100, 10, seed=0, start=10**15)[0]) == 10


def test_the_stream_ignores_later_changes_of_the_callers_tensor() -> None:
    positions = torch.arange(10)
    sampler = LargeBatchSampler(positions, 5, seed=0)
    before = list(itertools.islice(sampler, 4))
    positions.zero_()
    assert list(itertools.islice(sampler, 4)) == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_loading_follows_the_sampler_with_and_without_workers() -> None:
    x = torch.arange(60, dtype=torch.float32).unsqueeze(1)
    dataset = IndexedDataset(TensorDataset(x, torch.arange(60) % 7))
    expected = first(8, 60, 16, seed=3, start=5)
    for workers in (0, 2):
        batches = loader(dataset, LargeBatchSampler(60, 16, seed=3, start=5), workers=workers)
        for batch, positions in zip(batches, expected, strict=False):
            assert batch.ids.tolist() == positions
            assert batch.x.flatten().tolist() == positions
            assert batch.y.tolist() == [position % 7 for position in positions]


class Draws(Dataset[Any]):
    targets = [0] * 20

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(()) + np.random.rand(), 0  # noqa: NPY002


def test_the_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    dataset = IndexedDataset(TensorDataset(torch.zeros(20, 1), torch.zeros(20, dtype=torch.int64)))
    next(iter(loader(dataset, LargeBatchSampler(20, 5, seed=0))))
    draws = IndexedDataset(Draws())
    first, other = (
        batch.x for batch in itertools.islice(loader(draws, LargeBatchSampler(20, 5, seed=0)), 2)
    )
    # Every example and every batch draws anew.
    assert first.unique().numel() == other.unique().numel() == 5
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state  # noqa: NPY002


@pytest.mark.parametrize(
    ("examples", "options", "error", "message"),
    [
        (10, {"batch_size": 11}, ValueError, r"batch_size must lie in \[1, 10\].*got 11"),
        (10, {"batch_size": 0}, ValueError, r"batch_size must lie in \[1, 10\].*got 0"),
        (10, {"batch_size": 2.5}, TypeError, "integer"),
        (10, {"start": -1}, ValueError, "start must be at least 0, got -1"),
        (10, {"rank": 2, "world": 2}, ValueError, r"rank must lie in \[0, 2\).*got 2"),
        (10, {"world": 9}, ValueError, "batch_size is of all 9 ranks together, got"),
        (0, {}, ValueError, "no examples"),
        (-3, {}, ValueError, "no examples"),
        ([], {}, ValueError, "no examples"),
        (torch.zeros(3, 0, dtype=torch.int64), {}, ValueError, "no examples"),
        ([3, 4, 3, 1, 0], {}, ValueError, "positions must not repeat, got 1 repeats"),
        ([3, 4, -1, 1, 0], {}, IndexError, r"positions must lie in \[0, 5\), got -1"),
        (torch.ones(8, dtype=torch.bool), {}, TypeError, r"mask\.nonzero"),
        (torch.full((8,), torch.nan), {}, TypeError, "positions must be an int64 tensor"),
        (torch.zeros(8, 1, dtype=torch.int64), {}, TypeError, r"tensor \(m,\), got .*\(8, 1\)"),
        ([("a", 0)], {}, TypeError, r"pass len\(dataset\)"),
    ],
)
def test_bad_arguments_are_refused(
    examples: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LargeBatchSampler(examples, **({"batch_size": 4, "seed": 0} | options))


def test_loading_without_ids_is_refused() -> None:
    dataset: Any = TensorDataset(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(TypeError, match=r"got TensorDataset; wrap it: rho_train\.IndexedDataset"):
        loader(dataset, LargeBatchSampler(4, 2, seed=0))
