"""A stream of large batches that can be resumed at any batch."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from rho_train.checks import check_ids
from rho_train.dataset import IndexedDataset, SeededIndices, check_indexed, read_column
from rho_train.rng import generator


class LargeBatchSampler(Sampler[list[int]]):
    """An endless stream of large batches of positions, a pure function of its arguments.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches; an incomplete last batch
    is dropped (paper section 2, Algorithm 1). After b batches `start=b` continues the stream
    exactly. Each batch has a seed for the transforms of an IndexedDataset that draw from the global
    generators of torch, NumPy or random, which are never touched.

    Args:
        ids_or_n: the number of examples n, or the positions to draw from, integers (n,) without
            repeats, such as the half that is not held out.
        batch_size: n_B, the examples of a large batch.
        seed: of the stream.
        start: batches already consumed.
        rank, world: this process among those that share every large batch in consecutive parts of
            nearly equal size.

    Raises:
        TypeError, ValueError: an argument is not as described.

    Examples:
        >>> stream = iter(LargeBatchSampler(10, 4, seed=0))
        >>> first, second = next(stream), next(stream)
        >>> second == next(iter(LargeBatchSampler(10, 4, seed=0, start=1)))
        True
    """

    def __init__(
        self,
        ids_or_n: int | Sequence[int] | Tensor | npt.ArrayLike,
        batch_size: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        count = isinstance(ids_or_n, (int, np.integer))
        self.positions = None if count else _as_positions(ids_or_n)
        self.n = int(ids_or_n) if self.positions is None else len(self.positions)  # type: ignore[arg-type]
        self.batch_size, self.seed, self.start, self.rank, self.world = map(
            operator.index, (batch_size, seed, start, rank, world)
        )
        n, size, ranks = self.n, self.batch_size, self.world
        for valid, problem in (
            (n >= 1, f"there are no examples to draw from, n = {n}"),
            (1 <= size <= n, f"batch_size must lie in [1, {n}], got {size}"),
            (self.start >= 0, f"start must be at least 0, got {self.start}"),
            (0 <= self.rank < ranks, f"rank must lie in [0, {ranks}), got {self.rank}"),
            (size >= ranks, f"batch_size is of all {ranks} ranks together, got {size}"),
        ):
            if not valid:
                raise ValueError(f"LargeBatchSampler: {problem}")

    @property
    def batches_per_epoch(self) -> int:
        """Large batches in one pass over the examples, floor(n / n_B)."""
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        # Other examples than those of rank 0 must not get the same random transforms.
        rank = (self.rank,) if self.rank else ()
        begin, end = (self.batch_size * r // self.world for r in (self.rank, self.rank + 1))
        for number in itertools.count(self.start):
            epoch, batch = divmod(number, self.batches_per_epoch)
            if batch == 0 or number == self.start:
                private = generator(self.seed, "large batches", epoch)
                order = torch.randperm(self.n, generator=private, dtype=torch.int64, device="cpu")
                order = order if self.positions is None else self.positions[order]
            seed = generator(self.seed, "transforms", number, *rank).initial_seed()
            first = batch * self.batch_size
            yield SeededIndices(order[first + begin : first + end].tolist(), seed)


class _Loader(DataLoader[Any]):
    """A DataLoader that draws the seed of its workers on the CPU, whatever the default device."""

    def __iter__(self) -> Any:
        with torch.device("cpu"):
            return super().__iter__()


def loader(
    dataset: IndexedDataset, sampler: Iterable[list[int]], *, workers: int = 0, seed: int = 0
) -> DataLoader[Any]:
    """Load the batches of a sampler, with ids, into page-locked memory if CUDA can use it.

    The batches and their random transforms do not depend on `workers`, and the global generators
    stay as they are. Anything but an IndexedDataset is a TypeError.

    Examples:
        >>> data = IndexedDataset([(float(i), 0) for i in range(8)], labels=[0] * 8)
        >>> len(next(iter(loader(data, LargeBatchSampler(8, 4, seed=0)))).ids)
        4
    """
    check_indexed("loader", dataset)
    source = dataset.dataset
    on_cuda = isinstance(source, TensorDataset) and any(part.is_cuda for part in source.tensors)
    return _Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=dataset.collate,
        pin_memory=torch.cuda.is_available() and not on_cuda,
        # Without a generator of its own, each start of the loader draws from the global one.
        generator=generator(seed, "loader workers"),
    )


def _as_positions(positions: Any) -> Tensor:
    try:
        # A copy, so that the stream does not change when the caller's tensor does.
        tensor = read_column(positions).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"{type(positions).__name__}; of a data set, pass len(dataset)"
        raise TypeError(
            f"LargeBatchSampler: positions must be integers (n,), or their number, got {got}"
        ) from error
    if tensor.numel() == 0:
        return tensor.flatten()  # which the caller refuses
    n = 0
    if not tensor.is_floating_point() and tensor.dtype != torch.bool:
        tensor = tensor.to(torch.int64)
        n = max(0, int(tensor.max())) + 1
    check_ids("LargeBatchSampler", "positions", tensor, n)
    return tensor
