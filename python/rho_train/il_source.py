"""Where a Selector takes irreducible losses from: a table, a store, shards, or a model."""

from __future__ import annotations

import torch
from torch import Tensor

from rho_train.identity import identity_of
from rho_train.il.shards import ILShards
from rho_train.il.store import ILStore
from rho_train.online import OnlineModel

ILSource = ILStore | ILShards | Tensor | OnlineModel
"""What `Selector(il=...)` takes."""


class Irreducible:
    """The irreducible losses of a Selector.

    Args:
        source: what they come from; None: there are none.

    Raises:
        TypeError: the source is something else.
        ValueError: a tensor is not (N,) or of another dtype than `rho_ext.select` takes.

    Example:
        >>> Irreducible(torch.tensor([0.1, 0.2, 0.3])).of(torch.tensor([2, 0]))
        tensor([0.3000, 0.1000])
    """

    def __init__(self, source: ILSource | None) -> None:
        if source is not None and not isinstance(source, ILSource):
            raise TypeError(
                "Selector: il must be an ILStore, ILShards, a tensor (N,) or an OnlineModel, got "
                f"{type(source).__name__}; a file is read with ILStore.load(path, dataset)"
            )
        self.online = source if isinstance(source, OnlineModel) else None
        self.shards = source if isinstance(source, ILShards) else None
        self.table = source.il if isinstance(source, ILStore) else None
        if isinstance(source, Tensor):
            self.table = source
        if self.table is not None:
            _check(self.table)

    def rows(self, ids: Tensor) -> tuple[Tensor | None, bool]:
        """Return what `rho_ext.select` takes as `il`, and whether it has one value a row."""
        if self.shards is not None:
            return self.shards.gather(ids).to(ids.device), True
        if self.table is not None and self.table.device != ids.device:
            self.table = self.table.to(ids.device)
        return self.table, False

    def of(self, ids: Tensor) -> Tensor | None:
        """Return the losses of ids, (n,), NaN where unknown; None where no id has a fixed one."""
        losses, aligned = self.rows(ids)
        return losses if losses is None or aligned else losses[ids]

    def identity(self) -> object:
        """Return what decides the losses: the values, not what a file says besides."""
        if self.shards is not None:
            return [shard.sha256 for shard in self.shards.shards]
        return identity_of(self.table if self.online is None else self.online)


def _check(table: Tensor) -> None:
    """Refuse what `rho_ext.select` would refuse at the first batch."""
    if table.ndim != 1 or table.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            "Selector: il must be a float32, float16 or bfloat16 tensor (N,), got "
            f"{str(table.dtype).removeprefix('torch.')} {tuple(table.shape)}"
        )
