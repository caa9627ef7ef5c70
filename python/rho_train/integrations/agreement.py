"""Epochs of `transformers.Trainer` from the passes of an AgreementSampler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from rho_train.agreement import AgreementSampler
from rho_train.dataset import IndexedDataset
from rho_train.rng import generator
from rho_train.sampler import loader


class Passes(IterableDataset[Any]):
    """The batches of an AgreementSampler for a Trainer, in epochs of `epoch` steps.

    `plain` is the Trainer's own loader of the examples. The first `done` steps of the next epoch,
    which a Trainer that resumes throws away, are None.
    """

    def __init__(self, trainer: Any, plain: Any) -> None:
        args, n = trainer.args, len(plain.dataset)
        parts = args.gradient_accumulation_steps
        batch = trainer._train_batch_size * args.world_size * parts
        self.trainer, self.epoch, self.done = trainer, max(n // batch, 1), 0
        self.sampler = AgreementSampler(
            n,
            batch,
            steps=args.max_steps
            if args.max_steps > 0
            else math.ceil(args.num_train_epochs * self.epoch),
            seed=args.seed if args.data_seed is None else args.data_seed,
            parts=parts,
        )
        data = IndexedDataset(plain.dataset, collate_fn=plain.collate_fn)
        self.batches = loader(data, self.sampler, workers=args.dataloader_num_workers)

    def __iter__(self) -> Iterator[Any]:
        sampler, left = self.sampler, (self.epoch - self.done) * self.sampler.parts
        yield from repeat(None, self.done * sampler.parts)
        self.done = 0
        while left and sampler.step < sampler.steps:
            sampler.rescore(self.trainer.model_wrapped, self.batches)
            for batch in islice(self.batches, left):
                left -= 1
                yield batch

    def loader(self) -> DataLoader[Any]:
        """Return the loader of an epoch, which has its length."""
        own = generator(0, "passes")  # else each epoch draws from the global one
        return _Epoch(self, batch_size=None, collate_fn=_as_it_is, generator=own)


class _Epoch(DataLoader[Any]):
    def __len__(self) -> int:
        passes: Any = self.dataset
        return passes.epoch * passes.sampler.parts  # type: ignore[no-any-return]


def _as_it_is(batch: Any) -> Any:
    return batch
