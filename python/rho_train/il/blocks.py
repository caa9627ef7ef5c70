"""Columns of a store, compared with checksums block by block before their first use."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rho_train.batch import describe

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
_DTYPES = {"il": (torch.float32,), "fold": INTEGERS[1:3], "labels": INTEGERS}
_ROWS = 1 << 16  # of a block


class Part:
    """Rows of a column, (m,) on the CPU; each block of 65,536 has a CRC-32.

    Args:
        name: of the column.
        tensor: its values.
        file: that the values are mapped from; empty: they were made in this process.
        checksums: of the blocks, as the file has them. A block is compared once, before the first
            of its rows is used, so that opening a file takes no time.

    Raises:
        ValueError: a tensor of another shape, dtype or device.
    """

    def __init__(
        self, name: str, tensor: Any, file: object = "", checksums: Sequence[int] = ()
    ) -> None:
        if not isinstance(tensor, Tensor) or tensor.dtype not in _DTYPES[name] or tensor.ndim != 1:
            wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES[name])
            raise ValueError(
                f"ILStore: {name} must be a {wanted} tensor (N,), got {describe(tensor)}"
            )
        if tensor.device.type != "cpu" or tensor.requires_grad or not tensor.is_contiguous():
            raise ValueError(
                f"ILStore: {name} must be a contiguous CPU tensor without gradient, "
                f"pass {name}.detach().cpu().contiguous()"
            )
        self._name, self._tensor, self._file, self._checksums = name, tensor, file, checksums
        self._unread = set(range(len(checksums)))

    def __len__(self) -> int:
        return len(self._tensor)

    def all(self) -> Tensor:
        """Return all values, (m,)."""
        for block in sorted(self._unread):
            self._check(block)
        return self._tensor

    def rows(self, rows: Tensor) -> Tensor:
        """Return the values of rows, int64 (n,) in [0, m); other blocks are not read."""
        if self._unread:
            asked = (rows // _ROWS).unique().tolist()  # type: ignore[no-untyped-call]
            for block in self._unread.intersection(asked):
                self._check(block)
        return self._tensor[rows]

    def checksums(self) -> list[int]:
        """Return the checksums of the blocks, those of the file if there is one."""
        found = self._checksums or map(self._checksum, range(-(-len(self) // _ROWS)))
        return list(found)

    def check(self) -> None:
        """Read all values; a ValueError if they do not match the checksums of the file."""
        for block in range(len(self._checksums)):
            self._check(block)

    def _checksum(self, block: int) -> int:
        rows = self._tensor[block * _ROWS : (block + 1) * _ROWS]
        # Of the type as well, so that no other reading of the same bytes passes.
        start = zlib.crc32(f"{self._name} {rows.dtype}".encode())
        return zlib.crc32(rows.numpy().data, start)

    def _check(self, block: int) -> None:
        if self._checksum(block) != self._checksums[block]:
            raise ValueError(
                f"ILStore: {self._name} does not match its checksum in rows {block * _ROWS} to "
                f"{min((block + 1) * _ROWS, len(self)) - 1} of {self._file}: the file is damaged, "
                "restore it from a copy or compute the IL again; or the values were changed after "
                "loading, then keep them in a new ILStore"
            )
        self._unread.discard(block)
