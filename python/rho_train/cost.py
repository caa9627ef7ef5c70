"""The counted cost of work: exact, and the same on every machine whatever else it does.

The unit is a multiply-add. F is what the scoring pass of one example takes, T what training on it
takes: a forward pass, and what autograd computes in the backward pass. That is 3 F for most layers;
less where inputs need no gradient, as of the first layer, and for frozen parameters. A training
step on n_b examples costs T n_b, scoring n_B of them F n_B, and IL cost what their models train,
validate and score. Evaluations of a run and the optimizer count nothing. People read a cost in
*uniform steps*: divided by T n_b of the baseline.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import rho_train.linear  # noqa: F401 - its operators are counted
from rho_train.batch import split
from rho_train.dry_run import takes_the_batch, unchanged
from rho_train.rng import global_seed
from rho_train.scoring import (
    ForwardFunction,
    LossFunction,
    modes_set,
    output_of,
    scoring_mode,
    share_of,
)


@dataclass(frozen=True)
class Costs:
    """The cost of an example in a run: `forward` is F, `training` T, `passes` those of scoring it
    once, and `il` the cost of all irreducible losses that the run uses, 0 for precomputed ones."""

    forward: float
    training: float
    passes: int = 1
    il: float = 0.0

    def spent(self, trained: int, scored: int) -> dict[str, float]:
        """Return the cost by part, from the examples that were trained on and scored."""
        scoring = self.forward * self.passes * scored
        return {"training": self.training * trained, "scoring": scoring, "il": self.il}


def forward_cost(
    model: nn.Module,
    batch: Any,
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
) -> float:
    """Return F, the multiply-adds of a scoring pass over a batch, an example.

    Counted are matrix products, convolutions, attention and recurrent layers, the heads of
    `rho_train.linear_cross_entropy` and `linear_score`, and for embeddings an addition for every
    number that is read. Element by element nothing is. Examples that are padded cost what their
    batch costs.

    Args:
        model: on the device of the batch; it stays as it was.
        batch: as a loader gives it.
        forward, loss_fn: as in `Selector`.

    Raises:
        ValueError: the model cannot take the batch.

    Examples:
        >>> from rho_train import Batch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = Batch(torch.zeros(5, 4), torch.zeros(5).long(), torch.arange(5))
        >>> forward_cost(model, batch)  # 4 * 8 + 8 * 3
        56.0
    """
    fields = split(batch, "forward_cost", needs_ids=False, needs_labels=loss_fn is None)
    with _counted("forward_cost", model, batch) as counter, scoring_mode(model) as scorer, counter:
        output_of("forward_cost", scorer, batch, fields, forward, loss_fn)
    # torch counts a multiply-add as two.
    return counter.get_total_flops() / 2 / len(fields.ids)


def training_cost(model: nn.Module, batch: Any, *, forward: ForwardFunction | None = None) -> float:
    """Return T, the multiply-adds of training on a batch, an example: both passes, no optimizer.

    What autograd computes is counted: parameters that are frozen, and inputs that need no gradient,
    cost no backward pass. Arguments and errors are those of `forward_cost`; the model, its
    gradients and the random state stay as they were.

    Examples:
        >>> from rho_train import Batch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batch = Batch(torch.zeros(5, 4), torch.zeros(5).long(), torch.arange(5))
        >>> training_cost(model, batch)  # 56 forward, 56 for the weights, 8 * 3 between the layers
        136.0
    """
    fields = split(batch, "training_cost", needs_ids=False)
    weights = [one for one in model.parameters() if one.requires_grad]
    modes = modes_set([*model.modules()], True)
    with _counted("training_cost", model, batch) as counter, torch.enable_grad(), modes, counter:
        output = output_of("training_cost", model, batch, fields, forward, None)
        if weights and output.requires_grad:
            # Not backward(): it adds to the gradients, and runs hooks on them, as of optimizers.
            torch.autograd.grad(output.sum(), weights, allow_unused=True)
    return counter.get_total_flops() / 2 / len(fields.ids)


@contextmanager
def _counted(where: str, model: nn.Module, batch: Any) -> Iterator[FlopCounterMode]:
    """Give a counter of passes that are the same on every machine and leave the model as it was."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        # Fused layers, which differ between machines, are not in torch's counter; their parts are.
        torch.backends.mha.set_fastpath_enabled(False)
        fits = takes_the_batch(where, batch)
        with warnings.catch_warnings(), unchanged(model), global_seed(0), fits:
            warnings.simplefilter("ignore")
            with (
                torch.backends.mkldnn.flags(enabled=False),
                torch.backends.cudnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
            ):
                yield FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


# The flops, two a multiply-add, of operators that torch's counter does not know, from their
# arguments; tensors come as shapes.
_Shape = Sequence[int]


def _rows(table: _Shape, indices: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(indices) * table[-1]


def _product(matrix: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _distances(x: _Shape, y: _Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * y[-2]


def _trilinear(a: _Shape, b: _Shape, c: _Shape, *expanded: Any, **_: Any) -> int:
    shapes = [list(one) for one in (a, b, c)]
    for shape, places in zip(shapes, expanded, strict=False):
        for place in places:
            shape.insert(place, 1)
    sizes: Iterator[int] = map(max, *shapes)
    return 2 * math.prod(sizes)


def _convolution_backward(grad: _Shape, x: _Shape, weight: _Shape, *others: Any, **_: Any) -> int:
    # torch's own formula ignores groups.
    transposed: bool = others[4]
    wanted: list[bool] = others[7]
    positions = math.prod((x if transposed else grad)[2:])
    return 2 * x[0] * positions * math.prod(weight) * sum(wanted[:2])


def _trained_head(hidden: _Shape, weight: _Shape, *others: Any, **_: Any) -> int:
    # The gradients of the selected rows are computed with the loss.
    wanted: list[bool] = others[-1]
    selected = share_of(hidden[0], others[3]) * hidden[1]
    return 2 * weight[0] * (math.prod(hidden) + sum(wanted[:2]) * selected)


_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.embedding: _rows,
    _aten.embedding_bag: _rows,
    _aten._embedding_bag: _rows,
    _aten._embedding_bag_forward_only: _rows,
    _aten.embedding_dense_backward: _rows,
    _aten._embedding_bag_backward: _rows,
    _aten.mv: _product,
    _aten.dot: _product,
    _aten.addmv: lambda _, *others, **__: _product(*others),
    _aten._trilinear: _trilinear,
    _aten._cdist_forward: _distances,
    _aten._euclidean_dist: _distances,
    _aten._cdist_backward: lambda _, *others, **__: _distances(*others),
    _aten.convolution_backward: _convolution_backward,
    torch.ops.rho_train.linear_score: lambda x, weight, *_, **__: _product(x) * weight[0],
    torch.ops.rho_train.linear_cross_entropy: _trained_head,
}
