"""Private random streams, so that no part of a run disturbs the randomness of another."""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return a CPU generator that depends on `seed` and the name of the stream alone.

    Streams of one seed are unrelated, such as those of noisy labels and of held-out examples.
    """
    key = repr((operator.index(seed), *stream)).encode()
    # torch's CPU generator keeps only the low 32 bits of its seed, so they must depend on all.
    low = int.from_bytes(hashlib.sha256(key).digest()[:4], "little")
    return torch.Generator("cpu").manual_seed(low)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Let the global generators of torch's CPU, NumPy and random draw from `seed`, in [0, 2^32).

    For code of others that draws from them, such as augmentations. Their states are restored.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
