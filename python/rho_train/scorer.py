"""How a large batch is scored: the options that decide whether selection pays."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.batch import Fields, gather, part, split
from rho_train.scoring import ForwardFunction, LossFunction, logits_of, losses_of

# Of torch.compile, which refuses another one at the first step only.
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Scoring:
    """How `Selector` makes its forward passes; `rho-ext plan` measures what each option saves.

    Args:
        bf16: under bfloat16 autocast, or without; None: as it is outside.
        micro_batch: points of a forward pass; a large batch of any size then needs the memory of
            that many. None: the whole large batch at once.
        channels_last: images (n, C, H, W) are scored in the memory format that convolutions are
            fastest in; gains most where the model has it too.
        compile: score through `torch.compile`; a string is its mode: "reduce-overhead" replays the
            pass as a CUDA graph, for large batches of one size.
        refresh: share of the large batch that is scored anew, those whose loss is the oldest; the
            others keep their last loss, and a point that has none cannot be chosen. Below 1 it
            needs `Selector(history=...)` and a method that looks at losses alone (Stale-SB of Jiang
            et al., 2019, does it by epochs).
        train_mode: score in training mode, see `rho_train.paper_mode`.

    Raises:
        TypeError, ValueError: an option is not as described, or two exclude each other.

    Example:
        >>> Scoring(micro_batch=64).whole, Scoring(bf16=True).whole
        (False, True)
    """

    bf16: bool | None = None
    micro_batch: int | None = None
    channels_last: bool = False
    compile: bool | str = False
    refresh: float = 1.0
    train_mode: bool = False

    def __post_init__(self) -> None:
        size = self.micro_batch
        if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
            raise TypeError(f"Scoring: micro_batch must be an int, got {size!r}")
        if size is not None and size < 1:
            raise ValueError(f"Scoring: micro_batch must be at least 1, got {size}")
        if not isinstance(self.compile, bool) and self.compile not in _MODES:
            raise ValueError(
                f"Scoring: compile must be True, False or one of {', '.join(_MODES)}, got "
                f"{self.compile!r}"
            )
        if not 0.0 < self.refresh <= 1.0:
            raise ValueError(f"Scoring: refresh must lie in (0, 1], got {self.refresh}")
        if self.train_mode and not self.whole:
            raise ValueError(
                "Scoring: train_mode takes BatchNorm's statistics over the whole large batch; "
                "leave micro_batch and refresh at their defaults"
            )

    @property
    def whole(self) -> bool:
        """Whether one pass scores all points."""
        return self.micro_batch is None and self.refresh == 1.0

    def due(self, n: int) -> int:
        """Return how many of n points are scored anew."""
        return share_of(n, self.refresh)


def share_of(n: int, share: float) -> int:
    """Return max(1, round(share * n)), halves upwards.

    Example:
        >>> share_of(100, 0.29), share_of(5, 0.5), share_of(3, 0.1)
        (29, 3, 1)
    """
    # Not int(): 0.29 * 100 is 28.999... in floating point.
    return max(1, math.floor(share * n + 0.5))


class Scorer:
    """Makes the forward passes of a Selector and keeps the time, in seconds of the host.

    On CUDA the host does not wait for the device, so its seconds are those of launching.
    """

    def __init__(
        self,
        options: Scoring,
        forward: ForwardFunction | None = None,
        losses: LossFunction | None = None,
    ) -> None:
        if options.channels_last and not (forward is None and losses is None):
            raise ValueError(
                "Selector: Scoring(channels_last=True) converts the inputs that the model is "
                f"called on, and {'losses=' if forward is None else 'forward='} calls it itself; "
                "convert them there"
            )
        self.options, self.forward, self.losses = options, forward, losses
        self.seconds = 0.0
        self._compiled: dict[nn.Module, nn.Module] = {}

    def output(self, module: nn.Module, batch: Any, fields: Fields) -> Tensor:
        """Return the logits (n, C) of one pass over a batch, or what `losses` gives, (n,)."""
        started = time.perf_counter()
        if self.options.compile:
            module = self._compile(module)
        if self.losses is not None:
            output = losses_of("Selector", module, batch, self.losses, len(fields.ids))
        elif self.forward is not None:
            output = self.forward(module, batch)
        else:
            inputs = fields.inputs
            if self.options.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            output = logits_of(module, inputs)
        self.seconds += time.perf_counter() - started
        return output

    def _compile(self, module: nn.Module) -> nn.Module:
        if module not in self._compiled:
            mode = self.options.compile if isinstance(self.options.compile, str) else None
            compiled: Any = torch.compile(module, mode=mode)
            self._compiled[module] = compiled
        return self._compiled[module]


@dataclass
class Parts:
    """The forward passes over a large batch of n points in pieces, or over some of its points, or
    those that give losses and no logits.

    Args:
        scorer, module, batch, fields: of the pass.
        rows: int64, ascending, the points that are scored; None: all.
        known: float32 (n,), the last loss of every point, NaN where there is none; with `rows`.
    """

    scorer: Scorer
    module: nn.Module
    batch: Any
    fields: Fields
    rows: Tensor | None = None
    known: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """Give rows of the large batch, as an index, and their logits or losses."""
        n, batch = len(self.fields.ids), self.batch
        if self.rows is not None:
            batch, n = gather(batch, n, self.rows), len(self.rows)
        size = self.scorer.options.micro_batch or n
        for begin in range(0, n, size):
            here = slice(begin, min(begin + size, n))
            piece = part(batch, here) if size < n else batch
            output = self.scorer.output(self.module, piece, split(piece))
            yield here if self.rows is None else self.rows[here], output

    def logits(self) -> Tensor:
        """Return the logits (n, C) of all points.

        Raises:
            ValueError: only some are scored, or there are losses alone.
        """
        if self.scorer.losses is not None:
            raise ValueError(
                "Selector: losses= gives the loss of a point and no logits, and this method asks "
                "for them; choose a method of losses alone, as rho"
            )
        if self.rows is not None:
            raise ValueError(
                "Selector: Scoring(refresh=...) knows the losses of points that are not scored, "
                "and this method asks for their logits; choose a method of losses alone, as rho"
            )
        return torch.cat([logits for _, logits in self])
