"""The counted cost of work: exact, and the same on every machine whatever else it does.

The unit is a multiply-add of a forward pass. F is what the pass of one example takes; a backward
pass counts as two forward passes. A training step on n_b examples costs 3 F n_b, scoring n_B of
them F n_B, and IL cost what their models train, validate and score. Evaluations of a run count
nothing. People read a cost in *uniform steps*: divided by 3 F n_b of the baseline.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rho_train.batch import split
from rho_train.dry_run import takes_the_batch, unchanged
from rho_train.scoring import ForwardFunction, LossFunction, output_of, scoring_mode


@dataclass(frozen=True)
class Costs:
    """The cost of an example in a run: `forward` is F, `passes` those of scoring it once, and `il`
    the cost of all irreducible losses that the run uses, 0 for precomputed ones."""

    forward: float
    passes: int = 1
    il: float = 0.0

    def spent(self, trained: int, scored: int) -> dict[str, float]:
        """Return the cost by part, from the examples that were trained on and scored.

        Example:
            >>> Costs(forward=10.0, il=500.0).spent(trained=8, scored=40)
            {'training': 240.0, 'scoring': 400.0, 'il': 500.0}
        """
        training = self.forward * 3 * trained
        scoring = self.forward * self.passes * scored
        return {"training": training, "scoring": scoring, "il": self.il}


def forward_cost(
    model: nn.Module,
    batch: Any,
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
) -> float:
    """Return F, the multiply-adds of a scoring pass over a batch, an example.

    Counted are matrix products, convolutions, attention and recurrent layers, and for embeddings an
    addition for every number that is read. Examples that are padded cost what their batch costs.

    Args:
        model: on the device of the batch; it stays as it was.
        batch: as a loader gives it.
        forward, loss_fn: as in `Selector`.

    Raises:
        ValueError: the model cannot take the batch.

    Example:
        >>> from rho_train import Batch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = Batch(torch.zeros(5, 4), torch.zeros(5).long(), torch.arange(5))
        >>> forward_cost(model, batch)  # 4 * 8 + 8 * 3
        56.0
    """
    fields = split(batch, "forward_cost", needs_labels=loss_fn is None)
    counter = FlopCounterMode(display=False, custom_mapping=_READS)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        # Fused layers, which differ between machines, are not in torch's counter; their parts are.
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings(), unchanged(model), takes_the_batch("forward_cost"):
            warnings.simplefilter("ignore")
            with (
                torch.backends.mkldnn.flags(enabled=False),
                torch.backends.cudnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
                scoring_mode(model) as scorer,
                counter,
            ):
                output_of("forward_cost", scorer, batch, fields, forward, loss_fn)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    # torch counts a multiply-add as two.
    return counter.get_total_flops() / 2 / len(fields.ids)


def selecting_steps(steps: int, warmup: int = 0, anneal: float = 0.0) -> int:
    """Return in how many steps a Selector with `UniformPhases(steps, warmup, anneal)` scores."""
    return max(0, steps - math.floor(anneal * steps + 0.5) - warmup)


def steps_within(budget: float, cost: Callable[[int], float]) -> int:
    """Return the most steps that cost at most the budget; `cost` of n steps must grow with n.

    Example:
        >>> steps_within(10.0, lambda steps: 1.0 + 2.0 * steps)
        4
    """
    low, high = 0, 1
    while cost(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def _embedding(weight: Any, indices: Any, *_: Any, **__: Any) -> int:
    """Return the flops of reading rows of a table, from the shapes of table and indices."""
    return 2 * math.prod(indices) * weight[-1]  # type: ignore[no-any-return]


_READS = {
    op: _embedding
    for op in (
        torch.ops.aten.embedding,
        torch.ops.aten.embedding_bag,
        torch.ops.aten._embedding_bag,
        torch.ops.aten._embedding_bag_forward_only,
    )
}
