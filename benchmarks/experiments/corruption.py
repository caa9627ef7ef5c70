"""Corruptions that are known by example: label noise, copies, rare classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.noise import NoiseKind, check_noise, label_noise
from experiments.rng import generator


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Options of a corruption; nothing is corrupted by default.

    Args:
        noise: share of the training examples that get another label, see `label_noise`.
        noise_kind: uniform: over all classes, the true one included; pair: the next class;
            structured: the share `noise` of the first class of each of the pairs `confused`.
        confused: pairs of classes for structured noise, for MNIST [[3, 5], [9, 7], [4, 9]].
        redundancy: share of the training examples that occur `copies` times, label noise and all.
        copies: how often such an example occurs.
        relevance: share of the examples that is kept of the less relevant classes; the paper's
            CIFAR-100-Relevance has 0.06.
        relevance_test: the same for the test set; none: as `relevance`.
        relevant_classes: share of the classes, drawn at random, that keeps all examples.
    """

    noise: float = 0.0
    noise_kind: NoiseKind = "uniform"
    confused: tuple[tuple[int, int], ...] = ()
    redundancy: float = 0.0
    copies: int = 5
    relevance: float = 1.0
    relevance_test: float | None = None
    relevant_classes: float = 0.2

    def __post_init__(self) -> None:
        check_noise("noise", self.noise, self.noise_kind, self.confused)
        if not 0 <= self.redundancy <= 1:
            raise ValueError(f"redundancy must lie in [0, 1], got {self.redundancy}")
        if self.copies < 2:
            raise ValueError(f"copies must be at least 2, got {self.copies}")
        if not 0 < self.relevance <= 1:
            raise ValueError(
                f"relevance must lie in (0, 1], got {self.relevance}; 0.06 keeps 6 % of the "
                "less relevant classes, 1 keeps all"
            )
        if self.relevance_test is not None and not 0 <= self.relevance_test <= 1:
            raise ValueError(f"relevance_test must lie in [0, 1], got {self.relevance_test}")
        if not 0 < self.relevant_classes < 1:
            raise ValueError(f"relevant_classes must lie in (0, 1), got {self.relevant_classes}")

    @property
    def kept(self) -> tuple[float, float]:
        """Shares kept of the less relevant classes, of training and of test examples."""
        test = self.relevance_test
        return self.relevance, self.relevance if test is None else test


@dataclass(frozen=True, eq=False)
class Corruption:
    """The result of a corruption, by the ids of the corrupted training set of N examples.

    Args:
        row: int64 (N,), the row of the training set before.
        original: int64 (N,), the label before.
        label: int64 (N,), the label now.
        source: int64 (N,), the id of the example that this one is a copy of, else its own.
        relevant: bool (N,), whether the original label is one of the relevant classes.
        test_row: int64 (M,), the rows of the test set that are kept.
        config: how it was corrupted.
        seed: of the draws.

    Example:
        >>> labels = torch.arange(100) % 10
        >>> config = CorruptionConfig(noise=0.2, noise_kind="pair", redundancy=0.5, copies=3)
        >>> made = Corruption.draw(labels, labels, 10, config, seed=0)
        >>> len(made.row), int(made.redundant.sum()), int(made.noisy[:100].sum())
        (200, 100, 20)
    """

    row: Tensor
    original: Tensor
    label: Tensor
    source: Tensor
    relevant: Tensor
    test_row: Tensor
    config: CorruptionConfig
    seed: int

    @classmethod
    def draw(
        cls,
        train_y: Tensor,
        test_y: Tensor,
        num_classes: int,
        config: CorruptionConfig,
        *,
        seed: int,
    ) -> Corruption:
        """Draw a corruption: classes become rare, labels wrong, examples repeated, in this order.

        A copy has the label of its example, so what is noisy is copied with its noise. The result
        depends on the arguments alone.

        Args:
            train_y, test_y: labels int64 (n,) and (m,) in [0, C), before.
            num_classes: C.
            config: how.
            seed: of private generators.
        """
        order = torch.randperm(num_classes, generator=generator(seed, "relevant classes"))
        is_relevant = torch.zeros(num_classes, dtype=torch.bool)
        is_relevant[order[: max(1, round(config.relevant_classes * num_classes))]] = True
        if config.kept == (1.0, 1.0):
            is_relevant[:] = True
        kept_train, kept_test = config.kept
        row = _thin(train_y, is_relevant, kept_train, generator(seed, "rare in training"))
        test_row = _thin(test_y, is_relevant, kept_test, generator(seed, "rare in the test"))
        original = train_y[row]
        label = label_noise(
            original,
            config.noise,
            num_classes,
            kind=config.noise_kind,
            pairs=config.confused,
            seed=seed,
        ).labels
        n = len(row)
        order = torch.randperm(n, generator=generator(seed, "redundancy"))
        repeated = order[: round(config.redundancy * n)].sort().values
        source = torch.cat([torch.arange(n), repeated.repeat(config.copies - 1)])
        return cls(
            row[source],
            original[source],
            label[source],
            source,
            is_relevant[original][source],
            test_row,
            config,
            seed,
        )

    @property
    def noisy(self) -> Tensor:
        """True for wrong labels, bool (N,)."""
        return self.label != self.original

    @property
    def redundant(self) -> Tensor:
        """True for copies of an example before them, bool (N,)."""
        return self.source != torch.arange(len(self.source))

    @property
    def flags(self) -> dict[str, Tensor]:
        """The flags of the corruptions that were asked for."""
        known = {}
        if self.config.noise > 0:
            known["noisy"] = self.noisy
        if self.config.kept != (1.0, 1.0):
            known["less_relevant"] = ~self.relevant
        if self.config.redundancy > 0:
            known["redundant"] = self.redundant
        return known

    def apply(self, data: ClassificationData) -> ClassificationData:
        """Return the corrupted data, with the labels that a model is given.

        Raises:
            ValueError: the labels of `data` are not those that the corruption was drawn for.
        """
        fits = _inside(self.row, data.train_y) and _inside(self.test_row, data.test_y)
        if not fits or not torch.equal(data.train_y[self.row], self.original):
            raise ValueError(
                f"Corruption: it was drawn for other training labels than those of {data.name}; "
                "draw it again, or load the data that it was drawn for"
            )
        same_rows = torch.equal(self.row, torch.arange(len(data.train_y)))
        same_test = len(self.test_row) == len(data.test_y)
        kept = data.take(None if same_rows else self.row, None if same_test else self.test_row)
        return replace(kept, train_y=self.label)


def _thin(labels: Tensor, is_relevant: Tensor, share: float, private: torch.Generator) -> Tensor:
    """Return the rows that stay, in order: of each class that is not relevant only a share."""
    kept = is_relevant[labels]
    for c in (~is_relevant).nonzero().flatten().tolist():
        rows = (labels == c).nonzero().flatten()
        # A class that training should know has at least one example.
        count = max(round(share * len(rows)), min(1, math.ceil(share)))
        kept[rows[torch.randperm(len(rows), generator=private)[:count]]] = True
    return kept.nonzero().flatten()


def _inside(rows: Tensor, labels: Tensor) -> bool:
    return len(rows) == 0 or int(rows.max()) < len(labels)
