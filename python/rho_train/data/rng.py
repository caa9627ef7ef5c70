"""Private random streams, so that no part of a run disturbs the randomness of another."""

from __future__ import annotations

import hashlib
import operator

import torch


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return a CPU generator that depends on `seed` and the name of the stream alone.

    Streams of one seed are unrelated: with plain `manual_seed(seed)` in two places, the points
    that get a noisy label and the points that are held out would be drawn from the same numbers.

    Raises:
        TypeError: `seed` is not an integer.

    Example:
        >>> a = torch.rand(3, generator=generator(0, "holdout"))
        >>> torch.equal(a, torch.rand(3, generator=generator(0, "holdout")))
        True
        >>> torch.equal(a, torch.rand(3, generator=generator(0, "noise")))
        False
    """
    key = repr((operator.index(seed), *stream)).encode()
    # torch's CPU generator keeps only the low 32 bits of its seed, so they must depend on all.
    low = int.from_bytes(hashlib.sha256(key).digest()[:4], "little")
    return torch.Generator().manual_seed(low)
