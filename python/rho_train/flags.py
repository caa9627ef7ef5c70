"""What is known of each example, to see what a method selects (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ExampleFlags:
    """Flags of all examples of a data set by id, as one table that lies where the model is.

    Args:
        flags: name to bool (N,), for example noisy, less_relevant, redundant.

    Raises:
        ValueError: the flags are no bool tensors (N,) of one length.

    Example:
        >>> flags = ExampleFlags({"noisy": torch.tensor([True, False, True, False])})
        >>> flags.shares(torch.tensor([0, 1, 1, 2]))
        {'noisy': 0.5}
    """

    def __init__(self, flags: Mapping[str, Tensor]) -> None:
        shapes = {flag.shape for flag in flags.values()}
        if len(shapes) > 1 or any(f.dtype != torch.bool or f.ndim != 1 for f in flags.values()):
            got = ", ".join(f"{n} {f.dtype} {tuple(f.shape)}" for n, f in flags.items())
            raise ValueError(
                f"ExampleFlags: flags must be bool tensors (N,) of one length, got {got}"
            )
        self.names = tuple(flags)
        self.table = torch.stack([*flags.values()], 1) if flags else torch.empty(0, 0)

    def to(self, device: torch.device | str) -> ExampleFlags:
        """Return the same flags on `device`."""
        return ExampleFlags(
            {name: self.table[:, i].to(device) for i, name in enumerate(self.names)}
        )

    def adding(self, **flags: Tensor) -> ExampleFlags:
        """Return these flags and more of the same examples."""
        here = {name: self.table[:, i] for i, name in enumerate(self.names)}
        return ExampleFlags({**here, **flags})

    def __len__(self) -> int:
        return len(self.table)

    def get(self, name: str) -> Tensor | None:
        """Return the flag `name` of all examples, bool (N,), or None where it is not known."""
        return self.table[:, self.names.index(name)] if name in self.names else None

    def counts(self, ids: Tensor) -> Tensor:
        """Return how many of the examples `ids`, int64 (k,), have each flag: int64 (F,), not read."""
        return self.table[ids].sum(0)

    def shares(self, ids: Tensor) -> dict[str, float]:
        """Return the share of the examples `ids`, int64 (k,), with each flag; NaN for no examples."""
        shares = self.counts(ids) / len(ids)
        return dict(zip(self.names, shares.tolist(), strict=True))
