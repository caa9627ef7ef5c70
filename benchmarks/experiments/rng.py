"""Private random streams of the corruptions."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator that depends on `seed` and the name of the stream alone.

    Example:
        >>> torch.rand(1, generator=generator(0, "noise"))
        tensor([0.1189])
    """
    key = repr((int(seed), stream)).encode()
    # torch's CPU generator uses only the low 32 bits of its seed, so they must depend on all.
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:4], "little"))
