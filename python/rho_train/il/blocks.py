"""Columns of a store, compared with checksums block by block before their first use."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rho_train.batch import describe
from rho_train.checks import check_rows

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
_DTYPES = {"il": (torch.float32,), "fold": INTEGERS[1:3], "labels": INTEGERS}
_DTYPES["predicted"] = INTEGERS[2:3]
_ROWS = 1 << 16  # in each block


class Column:
    """A column by id, (N,), as tensors of consecutive ids: in memory, or mapped from files.

    Each block of 65,536 rows of a file has a CRC-32. It is compared once, before the first of its
    rows is used, so that opening a file takes no time.
    """

    def __init__(
        self,
        name: str,
        tensors: Sequence[Any],
        files: Sequence[object] = (),
        checksums: Sequence[Sequence[int]] = (),
    ) -> None:
        wanted = _DTYPES[name]
        for tensor in tensors:
            plain = isinstance(tensor, Tensor) and tensor.dtype in wanted and tensor.ndim == 1
            if not plain or not tensor.is_cpu or tensor.requires_grad or not tensor.is_contiguous():
                dtypes = " or ".join(str(dtype).removeprefix("torch.") for dtype in wanted)
                raise ValueError(
                    f"ILStore: {name} must be a contiguous {dtypes} tensor (N,) on the CPU without "
                    f"gradient, got {describe(tensor)}; pass {name}.detach().cpu().contiguous()"
                )
        self.tensors: Sequence[Tensor] = tensors
        self._name, self._files, self._checksums = name, files, checksums
        # The blocks of each file that has some.
        self._unread = {i: {*range(len(blocks))} for i, blocks in enumerate(checksums)}
        self.ends = list(accumulate(map(len, tensors), initial=0))
        self.joined: Tensor | None = tensors[0] if len(tensors) == 1 else None

    def all(self) -> Tensor:
        """Return all values, (N,), those of several files joined in memory."""
        for part, unread in [*self._unread.items()]:
            self._read(part, {*unread})
        if self.joined is None:
            self.joined = torch.cat(list(self.tensors))
        return self.joined

    def rows(self, ids: Tensor) -> Tensor:
        """Return the values of ids, integers (n,), on the CPU; other blocks are not read.

        IndexError: an id is outside [0, N).
        """
        ids = ids.to("cpu", torch.int64)
        check_rows("ILStore", ids, self.ends[-1], "give ids of its data set")
        if self.joined is not None and not self._unread:
            return self.joined[ids]
        ordered, order = ids.sort()
        ends = torch.tensor(self.ends, dtype=torch.int64, device="cpu")
        cuts: list[int] = torch.searchsorted(ordered, ends).tolist()
        found = []
        for i, tensor in enumerate(self.tensors):
            if i == 0 or cuts[i] < cuts[i + 1]:
                rows = ordered[cuts[i] : cuts[i + 1]] - self.ends[i]
                if unread := self._unread.get(i):
                    blocks = np.unique(rows.numpy() // _ROWS).tolist()
                    self._read(i, unread.intersection(blocks))
                found.append(tensor[rows])
        joined = torch.cat(found)
        return torch.empty_like(joined).index_copy_(0, order, joined)

    def checksums(self) -> Sequence[Sequence[int]]:
        """Return the checksums of the blocks of each tensor."""
        return [
            [self._checksum(part, begin // _ROWS) for begin in range(0, len(tensor), _ROWS)]
            for part, tensor in enumerate(self.tensors)
        ]

    def check(self) -> None:
        """Read all values, again if they were."""
        for part, found in enumerate(self._checksums):
            self._read(part, range(len(found)))

    def _checksum(self, part: int, block: int) -> int:
        rows = self.tensors[part][block * _ROWS : (block + 1) * _ROWS]
        return zlib.crc32(rows.numpy().data)

    def _read(self, part: int, blocks: Iterable[int]) -> None:
        """Compare blocks with their checksums; other threads may do the same meanwhile."""
        unread = self._unread.get(part, set())
        for block in sorted(blocks):
            if self._checksum(part, block) != self._checksums[part][block]:
                end = min((block + 1) * _ROWS, len(self.tensors[part]))
                raise ValueError(
                    f"ILStore: {self._name} does not match its checksum in rows {block * _ROWS} to "
                    f"{end - 1} of {self._files[part]}: the file is damaged, restore it from a "
                    "copy or compute the IL again; or the values were changed after loading, then "
                    "keep them in a new ILStore"
                )
            unread.discard(block)
        if not unread:
            self._unread.pop(part, None)
