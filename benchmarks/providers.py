"""Providers of a selection, their inputs, and the check that each does what it should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import rho_ext
from common import BenchmarkFailed, short

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, int]  # logits, labels, ids, il, k
Results = tuple[Tensor, Tensor, Tensor]  # values, indices, losses
Provider = Callable[[Tensor, Tensor, Tensor, Tensor, int], Results]

EXAMPLES = 1_000_000
MAX_SETS = 4096
_BLOCK = 1 << 24


def composed(cross_entropy: Callable[..., Tensor]) -> Provider:
    """Select with somebody's cross-entropy, and with torch for all the rest."""

    def select(logits: Tensor, labels: Tensor, ids: Tensor, il: Tensor, k: int) -> Results:
        losses = cross_entropy(logits, labels, reduction="none")
        values, indices = (losses - il[ids]).topk(k)
        return values, indices, losses

    return select


eager = composed(F.cross_entropy)


def eager_float32(logits: Tensor, labels: Tensor, ids: Tensor, il: Tensor, k: int) -> Results:
    return eager(logits.float(), labels, ids, il, k)


def ours(logits: Tensor, labels: Tensor, ids: Tensor, il: Tensor, k: int) -> Results:
    values, indices, losses, _ = rho_ext.select(logits, labels, ids, k, il=il)
    return values, indices, losses


def _compiled(dynamic: bool, mode: str = "default") -> Provider:
    # Every cell starts again: past eight shapes of one function torch would give up compiling it.
    torch._dynamo.reset()
    compiled: Provider = torch.compile(eager_float32, dynamic=dynamic, mode=mode)
    return compiled


def _liger() -> Provider:
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy
    except ImportError as error:
        raise BenchmarkFailed(f"liger needs pip install liger-kernel and a GPU ({error})") from None
    return composed(liger_cross_entropy)


def _quack() -> Provider:
    try:
        from quack import cross_entropy
    except ImportError as error:
        raise BenchmarkFailed(f"quack needs pip install quack-kernels ({error})") from None
    return composed(cross_entropy)


PROVIDERS: dict[str, Callable[[], Provider]] = {
    "eager": lambda: eager,
    "eager_float32": lambda: eager_float32,
    "compile": lambda: _compiled(dynamic=False),
    "compile_dynamic": lambda: _compiled(dynamic=True),
    "compile_autotuned": lambda: _compiled(dynamic=False, mode="max-autotune-no-cudagraphs"),
    "liger": _liger,
    "quack": _quack,
    "rho_ext": lambda: ours,
}
# What runs wherever a C++ compiler is.
USUAL = ("eager", "eager_float32", "compile", "rho_ext")


def distinct(names: Sequence[str], dtype: torch.dtype) -> list[str]:
    """Leave out the upcast to float32 where it does nothing."""
    same = dtype == torch.float32 and "eager" in names
    return [name for name in names if not (same and name == "eager_float32")]


class Inputs:
    """Sets of inputs of one dtype, cut from one pool of random logits.

    Rotating through sets that together exceed the last-level cache, every call reads its logits
    from memory. The logits repeat after 2^24 values, which no cache can notice.
    """

    def __init__(self, dtype: torch.dtype, device: str, pool_bytes: int) -> None:
        self.dtype, self.device, self.pool_bytes = dtype, device, pool_bytes
        values = pool_bytes // dtype.itemsize
        torch.manual_seed(0)
        block = torch.randn(min(_BLOCK, values), dtype=torch.float32, device=device)
        self._pool = _repeated((3 * block).to(dtype), values)
        self.il = 2 * torch.rand(EXAMPLES, dtype=torch.float32, device=device)

    def sets(self, n: int, classes: int, k: int, *, hot: bool = False) -> list[Arguments]:
        """Return as many sets as the pool holds; one if `hot`."""
        size = n * classes
        per_set = size * self.dtype.itemsize + 2 * 8 * n
        count = 1 if hot else max(1, min(MAX_SETS, self.pool_bytes // per_set))
        # Apart from each other as far as the pool allows, in steps that keep them aligned.
        stride = (len(self._pool) - size) // max(1, count - 1) // 64 * 64 if count > 1 else 0
        labels = self._integers(classes, count * n)
        ids = self._integers(EXAMPLES, count * n)
        return [
            (
                self._pool[i * stride : i * stride + size].view(n, classes),
                labels[i * n : (i + 1) * n],
                ids[i * n : (i + 1) * n],
                self.il,
                k,
            )
            for i in range(count)
        ]

    def _integers(self, below: int, count: int) -> Tensor:
        block = torch.randint(below, (min(_BLOCK // 4, count),), device=self.device)
        return _repeated(block, count)


def _repeated(block: Tensor, count: int) -> Tensor:
    return block.repeat(-(-count // len(block)))[:count] if count > len(block) else block


def batch_bytes(arguments: Arguments) -> int:
    """Bytes of the logits, labels and ids of one set."""
    return sum(x.numel() * x.element_size() for x in arguments[:3])


def moved_bytes(arguments: Arguments) -> int:
    """Bytes that a call must read and write: the batch, its IL, the losses and the results."""
    _, labels, _, il, k = arguments
    return batch_bytes(arguments) + len(labels) * (il.element_size() + 4) + 12 * k + 4


@dataclass(frozen=True)
class Truth:
    """The float64 result for one set of inputs, and the error of plain torch in float32."""

    losses: Tensor
    scores: Tensor
    float32_error: float

    @staticmethod
    def of(arguments: Arguments) -> Truth:
        logits, labels, ids, il, _ = arguments
        # In pieces, because the float64 logits of the largest sizes take gigabytes.
        rows = max(1, (1 << 25) // logits.shape[1])
        pieces, error = [], 0.0
        for part, y, i in zip(logits.split(rows), labels.split(rows), ids.split(rows), strict=True):
            pieces.append(rho_ext.reference.score(part.double(), y, i, il=il))
            plain = F.cross_entropy(part.float(), y, reduction="none")
            error = max(error, _largest(plain.double() - pieces[-1].losses))
        scores, losses = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return Truth(losses, scores, error)

    def check(self, name: str, results: Results, logits: Tensor) -> float:
        """Return the largest error of the losses.

        Raises:
            BenchmarkFailed: the losses are further off than the provider's arithmetic explains,
                or the rows are not the best ones.
        """
        values, indices, losses = results
        where = f"{name} at {tuple(logits.shape)} {short(logits.dtype)}"
        error = _largest(losses.double() - self.losses)
        allowed = self._allowed(name, logits.dtype)
        if not error <= allowed:
            raise BenchmarkFailed(
                f"{where}: losses are off by {error:.3g}, allowed {allowed:.3g} "
                f"(float32 torch: {self.float32_error:.3g})"
            )
        # Losses that are off by `error` may swap rows whose true scores differ by twice that.
        rounding = torch.finfo(torch.float32).eps * _largest(self.scores)
        selected = self.scores[indices]
        apart = _largest(selected - self.scores.topk(len(indices)).values)
        if not apart <= 2 * (error + rounding):
            raise BenchmarkFailed(f"{where}: the selected scores are {apart:.3g} below the best")
        if not _largest(values.double() - selected) <= error + rounding:
            raise BenchmarkFailed(f"{where}: values are not the scores of the selected rows")
        return error

    def _allowed(self, name: str, dtype: torch.dtype) -> float:
        largest = _largest(self.losses)
        eps = torch.finfo(torch.float32).eps
        if name == "rho_ext":
            return 2 * self.float32_error + eps * largest
        # For the others only what tells a wrong result from a rounded one.
        if name in ("eager", "liger") and dtype.itemsize == 2:
            return 2 * torch.finfo(dtype).eps * largest
        return 32 * eps * largest


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0
