"""Selection via proxy: core-sets selected once, before the target is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import rho_ext


def forgetting_events(correct: Tensor) -> Tensor:
    """Count how often the proxy forgot each example: epochs that went from right to wrong.

    `f_i = #{t: correct[t, i] and not correct[t + 1, i]}`; an example that was never right counts
    as forgotten infinitely often (Toneva et al., ICLR 2019, section 3).

    Args:
        correct: bool (T, n), whether the proxy was right about example i in epoch t.

    Returns:
        float32 (n,).

    Example:
        >>> forgetting_events(torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]]).bool())
        tensor([2., inf, 0.])
    """
    if correct.dtype != torch.bool or correct.ndim != 2 or len(correct) == 0:
        raise ValueError(
            "forgetting_events: correct must be bool (epochs, n), got "
            f"{correct.dtype} {tuple(correct.shape)}"
        )
    events = (correct[:-1] & ~correct[1:]).sum(0).float()
    return events.masked_fill(~correct.any(0), torch.inf)


def least_confidence(logits: Tensor) -> Tensor:
    """Return `1 - max_c p_c` with p = softmax(logits), (n, C) to float32 (n,).

    Example:
        >>> least_confidence(torch.tensor([[0.0, 0.0], [9.0, 0.0]])).round(decimals=1)
        tensor([0.5000, 0.0000])
    """
    return 1.0 - logits.float().softmax(1).amax(1)


def predictive_entropy(logits: Tensor) -> Tensor:
    """Return `H[softmax(logits)]` in nats, (n, C) to float32 (n,).

    Example:
        >>> predictive_entropy(torch.tensor([[0.0, 0.0], [9e9, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    return rho_ext.score(logits, labels, None, method="entropy").scores


STRATEGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "forgetting": forgetting_events,
    "least_confidence": least_confidence,
    "entropy": predictive_entropy,
}


def coreset(strategy: str, record: Tensor, k: int, *, ids: Tensor | None = None) -> Tensor:
    """Return the k examples that a proxy found hardest (Coleman et al., ICLR 2020, section 3).

    Train on `torch.utils.data.Subset(data, coreset(...))` as usual afterwards.

    Args:
        strategy: `forgetting`, `least_confidence` or `entropy`.
        record: of the proxy: for `forgetting` bool (T, n), whether it was right about each
            example in each epoch; else its logits (n, C).
        k: number of examples.
        ids: int64 (n,) of the examples; None: their positions.

    Returns:
        ids int64 (k,), the hardest first, ties in favour of the earlier example.

    Raises:
        ValueError: unknown strategy, k outside [1, n], a record of the wrong shape or with NaN.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> coreset("entropy", logits, 2, ids=torch.tensor([70, 80, 90]))
        tensor([80, 90])
    """
    if strategy not in STRATEGIES:
        raise ValueError(
            f"coreset: strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}"
        )
    if record.ndim != 2:
        raise ValueError(
            f"coreset: record must have two dimensions, (epochs, n) or (n, C), got "
            f"{tuple(record.shape)}"
        )
    scores = STRATEGIES[strategy](record)
    if not 1 <= k <= len(scores):
        raise ValueError(
            f"coreset: k must lie in [1, {len(scores)}], the number of examples, got {k}"
        )
    if ids is not None and ids.shape != scores.shape:
        raise ValueError(
            f"coreset: ids must have one id an example, ({len(scores)},), got {tuple(ids.shape)}"
        )
    if scores.isnan().any():
        # NaN would rank first and be the core-set.
        raise ValueError(
            f"coreset: {int(scores.isnan().sum())} of {len(scores)} examples have the score NaN; "
            "the proxy has diverged"
        )
    positions = scores.argsort(descending=True, stable=True)[:k]
    return positions if ids is None else ids[positions]
