"""Label noise that is known by example, to see what a method selects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.rng import generator

NoiseKind = Literal["uniform", "pair", "structured"]
Pairs = Sequence[tuple[int, int]]


class NoisyLabels(NamedTuple):
    """Labels after noise, int64 (n,), and which of them are wrong now, bool (n,)."""

    labels: Tensor
    noisy: Tensor


def label_noise(
    labels: Tensor,
    rate: float,
    num_classes: int,
    *,
    seed: int,
    kind: NoiseKind = "uniform",
    pairs: Pairs = (),
) -> NoisyLabels:
    """Give a share of the examples another label.

    `uniform`: a label drawn uniformly over all classes, as in the paper's code: the new label may
    be the true one, so the expected share of wrong labels is rate * (C - 1) / C. `pair`: the next
    class, y -> (y + 1) mod C. `structured`: for each pair (a, b) the share `rate` of the examples
    of class a becomes b; the paper (appendix B) does so with half of the examples of its most
    confused classes, for MNIST 3 -> 5, 9 -> 7 and 4 -> 9.

    A fixed count of round(rate * n) distinct examples is hit, for `structured` that of each class.
    `noisy` marks only labels that changed. The result depends on the arguments alone, so an
    example keeps its noise in every run, subset and shuffle.

    Args:
        labels: integer tensor (n,) of class indices in [0, C); it is not modified.
        rate: share of the examples in [0, 1].
        num_classes: C.
        seed: seed of a private generator.
        kind: uniform, pair or structured.
        pairs: for `structured`, the pairs (a, b) of different classes, each a once.

    Raises:
        ValueError: a rate outside [0, 1], a label outside [0, C), a wrong shape, an unknown kind,
            or pairs that are no such pairs, missing, or not asked for.
        TypeError: labels that are not an integer tensor.

    Example:
        >>> result = label_noise(torch.zeros(1000, dtype=torch.int64), 0.1, 10, seed=0)
        >>> bool((result.labels != 0).equal(result.noisy)), int(result.noisy.sum()) <= 100
        (True, True)
        >>> label_noise(torch.tensor([0, 1, 2]), 1.0, 3, kind="pair", seed=0).labels
        tensor([1, 2, 0])
    """
    check_noise("label_noise", rate, kind, pairs)
    _check_labels(labels, num_classes, pairs)
    private = generator(seed, f"{kind} label noise")
    clean = labels.to("cpu", torch.int64)
    result = clean.clone()
    if kind == "structured":
        for a, b in pairs:
            result[_some((clean == a).nonzero().flatten(), rate, private)] = b
    else:
        hit = _some(torch.arange(len(labels)), rate, private)
        if kind == "uniform":
            result[hit] = torch.randint(num_classes, hit.shape, generator=private)
        else:
            result[hit] = (clean[hit] + 1) % num_classes
    return NoisyLabels(result, result != clean)


def weak_labels(x: Tensor, y: Tensor, num_classes: int, share: float, *, seed: int) -> Tensor:
    """Give a share of the examples the label that a weak labeller draws from what it sees.

    The labeller is a linear model that learnt from 2 % of the examples, at least 300: it errs where
    classes look alike, as people do, so the noise depends on the input.

    Args:
        x: inputs, float32 (n, d), standardised.
        y: int64 (n,) in [0, num_classes), not modified.
        num_classes: C.
        share: of the examples that the labeller labels.
        seed: seed of a private generator.
    """
    draw = generator(seed, "weak labels")
    few = torch.randperm(len(y), generator=draw)[: max(300, len(y) // 50)]
    weights = torch.zeros(x.shape[1] + 1, num_classes, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.02)
    for _ in range(200):
        logits = x[few] @ weights[1:] + weights[0]
        decay = 1e-3 * weights[1:].square().sum()
        optimizer.zero_grad()
        (F.cross_entropy(logits, y[few]) + decay).backward()
        optimizer.step()
    hit = _some(torch.arange(len(y)), share, draw)
    with torch.no_grad():
        chances = (x[hit] @ weights[1:] + weights[0]).softmax(1)
    labels = y.clone()
    labels[hit] = torch.multinomial(chances, 1, generator=draw).squeeze(1)
    return labels


def check_noise(where: str, rate: float, kind: str, pairs: Pairs) -> None:
    """Refuse what no data could be given.

    Raises:
        ValueError: as `label_noise`.
    """
    if not 0 <= rate <= 1:
        raise ValueError(
            f"{where}: rate must lie in [0, 1], got {rate}; 0.1 hits 10 % of the examples"
        )
    if kind not in get_args(NoiseKind):
        raise ValueError(
            f"{where}: the kind of noise must be one of {', '.join(get_args(NoiseKind))}, got "
            f"{kind!r}"
        )
    if (kind == "structured") != bool(pairs):
        raise ValueError(
            f"{where}: structured noise, and no other, needs the pairs of confused classes, got "
            f"{kind} with {list(pairs)}; for MNIST: [[3, 5], [9, 7], [4, 9]]"
        )
    if len({a for a, _ in pairs}) < len(pairs) or any(a == b for a, b in pairs):
        raise ValueError(
            f"{where}: pairs must lead from different classes to other classes, got {list(pairs)}"
        )


def _check_labels(labels: Tensor, num_classes: int, pairs: Pairs) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"label_noise: labels must be an integer tensor (n,), got {got}")
    if labels.ndim != 1:
        raise ValueError(f"label_noise: labels must have shape (n,), got {tuple(labels.shape)}")
    if bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"label_noise: labels must lie in [0, num_classes = {num_classes}), got "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    if any(not 0 <= c < num_classes for pair in pairs for c in pair):
        raise ValueError(
            f"label_noise: pairs must be classes in [0, num_classes = {num_classes}), got "
            f"{list(pairs)}"
        )


def _some(ids: Tensor, rate: float, private: torch.Generator) -> Tensor:
    """Draw round(rate * n) of the ids."""
    return ids[torch.randperm(len(ids), generator=private)[: round(rate * len(ids))]]
