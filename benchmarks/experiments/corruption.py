"""Corruptions of a data set that are known point by point: label noise, copies, rare classes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from experiments.classification import ClassificationData
from experiments.noise import NoiseKind, check_noise, label_noise
from rho_train.dataset import IndexedDataset
from rho_train.files import atomic_write
from rho_train.rng import generator

_FORMAT = "rho_ext.corruption"
_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How a data set is corrupted; nothing is by default.

    Args:
        noise: share of the training points that get another label, see `label_noise`.
        noise_kind: uniform: over all classes, the true one included; pair: the next class;
            structured: the share `noise` of the first class of each of the pairs `confused`.
        confused: pairs of classes for structured noise, for MNIST [[3, 5], [9, 7], [4, 9]].
        redundancy: share of the training points that occur `copies` times, label noise and all.
        copies: how often such a point occurs.
        relevance: share of the points that is kept of the less relevant classes; the paper's
            CIFAR-100-Relevance has 0.06.
        relevance_test: the same for the test set; none: as `relevance`.
        relevant_classes: share of the classes, drawn at random, that keeps all points.
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
        """Shares kept of the less relevant classes, of training and of test points."""
        test = self.relevance_test
        return self.relevance, self.relevance if test is None else test


@dataclass(frozen=True, eq=False)
class Corruption:
    """What became of a data set, by the ids of the corrupted training set of N points.

    Args:
        row: int64 (N,), the row of the training set before.
        original: int64 (N,), the label before.
        label: int64 (N,), the label now.
        source: int64 (N,), the id of the point that this one is a copy of, else its own.
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
        """Draw a corruption: classes become rare, labels wrong, points repeated, in this order.

        A copy has the label of its point, so what is noisy is copied with its noise. The result
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
        """Which labels are wrong, bool (N,)."""
        return self.label != self.original

    @property
    def redundant(self) -> Tensor:
        """Which points are copies of a point before them, bool (N,)."""
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

    def take(self, ids: Tensor) -> Corruption:
        """Return the corruption of some points, ascending ids, which are numbered anew.

        Raises:
            ValueError: a copy is taken without the point that it is a copy of.
        """
        place = torch.full_like(self.source, -1)
        place[ids] = torch.arange(len(ids))
        source = place[self.source[ids]]
        if bool((source < 0).any()):
            raise ValueError("Corruption.take: a copy is taken without its point; take both")
        parts = {n: getattr(self, n)[ids] for n in ("row", "original", "label", "relevant")}
        return replace(self, **parts, source=source)

    def verify(self, dataset: IndexedDataset) -> None:
        """Check that a data set has the labels of this corruption, point by point.

        Raises:
            ValueError: it has others.
        """
        if not torch.equal(dataset.labels, self.label):
            differ = (
                f"it has {len(dataset)} points, the corruption {len(self.label)}"
                if len(dataset) != len(self.label)
                else f"{int((dataset.labels != self.label).sum())} labels differ"
            )
            raise ValueError(
                f"Corruption: it belongs to another data set ({differ}); load the data that it was "
                "made for, or draw it again"
            )

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file, in one step.

        Raises:
            OSError: the file cannot be written; an earlier file is untouched.
        """
        tensors = self._tensors()
        described = {
            "format": _FORMAT,
            "version": _VERSION,
            "seed": str(self.seed),
            "config": json.dumps(asdict(self.config)),
        }
        described["sha256"] = _digest(tensors, described)
        atomic_write(path, save(tensors, described))

    @classmethod
    def load(cls, path: Path, dataset: IndexedDataset | None = None) -> Corruption:
        """Read a file that `save` wrote, and check that it is whole and belongs to `dataset`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is cut, damaged, of another kind or version, or of another data set.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"Corruption.load: there is no file {path}; check the path")
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                described = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"Corruption.load: {path} is cut, damaged or no safetensors file ({error})"
            ) from error
        kind = (described.get("format"), described.get("version"))
        if kind != (_FORMAT, _VERSION):
            raise ValueError(
                f"Corruption.load: {path} is of another kind: format and version are {kind}, "
                f"wanted {(_FORMAT, _VERSION)}; give a file that Corruption.save wrote"
            )
        if described.pop("sha256", None) != _digest(tensors, described):
            raise ValueError(
                f"Corruption.load: {path} does not match its checksum: it is damaged; "
                "delete it and draw it again"
            )
        config = json.loads(described["config"])
        config["confused"] = tuple((a, b) for a, b in config["confused"])
        loaded = cls(**tensors, config=CorruptionConfig(**config), seed=int(described["seed"]))
        if dataset is not None:
            try:
                loaded.verify(dataset)
            except ValueError as error:
                raise ValueError(f"Corruption.load: {path}: {error}") from error
        return loaded

    def _tensors(self) -> dict[str, Tensor]:
        names = ("row", "original", "label", "source", "relevant", "test_row")
        return {name: getattr(self, name) for name in names}


def _thin(labels: Tensor, is_relevant: Tensor, share: float, private: torch.Generator) -> Tensor:
    """Return the rows that stay, in order: of each class that is not relevant only a share."""
    kept = is_relevant[labels]
    for c in (~is_relevant).nonzero().flatten().tolist():
        rows = (labels == c).nonzero().flatten()
        # A class that training should know has at least one point.
        count = max(round(share * len(rows)), min(1, math.ceil(share)))
        kept[rows[torch.randperm(len(rows), generator=private)[:count]]] = True
    return kept.nonzero().flatten()


def _inside(rows: Tensor, labels: Tensor) -> bool:
    return len(rows) == 0 or int(rows.max()) < len(labels)


def _digest(tensors: Mapping[str, Tensor], described: Mapping[str, str]) -> str:
    content = hashlib.sha256(json.dumps(dict(described), sort_keys=True).encode())
    for name in sorted(tensors):
        content.update(f"{name} {tensors[name].dtype} {len(tensors[name])}".encode())
        content.update(tensors[name].contiguous().numpy().data)
    return content.hexdigest()
