"""The task of the evidence: a known set, corrupted, and a model by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import experiments.methods  # noqa: F401 - names of rivals
from experiments.classification import ClassificationData
from experiments.corruption import Corruption, CorruptionConfig
from experiments.duplicates import without_duplicates
from experiments.models import ModelConfig
from experiments.sets import SETS, SetName
from rho_train import Task
from rho_train.tasks import letters

# Below it, an annotator's confidence says that the label may well be wrong.
_SURE = 0.7


@dataclass(frozen=True, kw_only=True)
class DataConfig(CorruptionConfig):
    """A known set and how it is corrupted.

    Args:
        name: of the set; all but letters, which come with the package, need `folder`.
        folder: where its files lie.
        min_count: of text: words that the training part has less often are unknown; none: as the
            loader of the set has it.
        max_len: of text: words that are read of each; none: as the loader of the set has it.
        size: of image files: height and width that they are cut to; none: as the loader has it.
        drop_duplicates: leave out training examples that occurred before or are in the test set.
    """

    name: SetName = "letters"
    folder: Path | None = None
    min_count: int | None = None
    max_len: int | None = None
    size: int | None = None
    drop_duplicates: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in get_args(SetName):
            names = ", ".join(get_args(SetName))
            raise ValueError(f"name must be one of {names}, got {self.name!r}")
        if (self.name == "letters") != (self.folder is None):
            raise ValueError(
                f"folder must be given for all sets but letters, got {self.folder} for {self.name}"
            )
        for option, value in self._options().items():
            if self.folder is None or option not in SETS[self.name].takes:
                raise ValueError(f"{option} has no meaning for {self.name}")
            if value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}")

    def load(self) -> ClassificationData:
        """Read the data as they are, without corruption.

        Raises:
            FileNotFoundError, ValueError: files are missing or damaged, see the loaders.
            ImportError: Pillow is missing for image files.
        """
        data = (
            _letters()
            if self.folder is None
            else SETS[self.name].load(Path(self.folder), **self._options())
        )
        return without_duplicates(data) if self.drop_duplicates else data

    def corrupt(self, data: ClassificationData, seed: int) -> Corruption:
        """Draw what becomes of the data; `Corruption.apply` gives what is trained on."""
        how = {field.name: getattr(self, field.name) for field in fields(CorruptionConfig)}
        config = CorruptionConfig(**how)
        return Corruption.draw(data.train_y, data.test_y, data.num_classes, config, seed=seed)

    def _options(self) -> dict[str, int]:
        values = {name: getattr(self, name) for name in ("min_count", "max_len", "size")}
        return {name: value for name, value in values.items() if value is not None}


def evidence(
    seed: int,
    model: Mapping[str, Any] | None = None,
    il_model: Mapping[str, Any] | None = None,
    confused: Sequence[Sequence[int]] = (),
    **data: Any,
) -> Task:
    """Make the task of a set of the evidence.

    Args:
        seed: of the corruption.
        model: fields of `ModelConfig`.
        il_model: the same of the model of the irreducible losses; none: as `model`.
        confused: pairs of classes, see `CorruptionConfig`.
        data: other fields of `DataConfig`.

    Raises:
        ValueError: a field is unknown or impossible, or files are damaged.
        FileNotFoundError: files are missing.

    Example:
        >>> task = evidence(0, noise=0.1, redundancy=0.5, model={"widths": [32]})
        >>> len(task.train), sorted(task.flags)
        (44004, ['noisy', 'redundant'])
    """
    known = {field.name for field in fields(DataConfig)}
    if unknown := sorted(data.keys() - known):
        raise ValueError(
            f"evidence: unknown options {', '.join(unknown)}; choose among "
            f"{', '.join(sorted(known))}"
        )
    pairs = tuple((int(a), int(b)) for a, b in confused)
    config = DataConfig(confused=pairs, **data)
    target = ModelConfig(**(model or {}))
    scorer = target if il_model is None else ModelConfig(**il_model)
    clean = config.load()
    corruption = config.corrupt(clean, seed)
    given = corruption.apply(clean)
    flags = corruption.flags
    if given.confidence is not None:
        flags["unsure"] = given.confidence < _SURE
    train, test = given.dataset(), given.dataset(test=True)
    return Task(
        name=given.name,
        train=train.dataset,
        test=test.dataset,
        labels=given.train_y,
        test_labels=given.test_y,
        make_model=lambda seed: target.build(given, seed),
        make_il_model=lambda seed: scorer.build(given, seed),
        classes=given.classes,
        show=None if given.train_texts is None else given.train_texts.__getitem__,
        groups=corruption.source,
        flags=flags,
        attribution=given.attribution,
    )


def _letters() -> ClassificationData:
    task = letters()
    train: Any = task.train
    test: Any = task.test
    return ClassificationData(
        train_x=train.tensors[0],
        train_y=train.tensors[1],
        test_x=test.tensors[0],
        test_y=test.tensors[1],
        num_classes=26,
        name=task.name,
        attribution=task.attribution,
        classes=tuple(task.classes),
        licence="CC BY 4.0",
        source="UCI Machine Learning Repository, doi 10.24432/C5ZP40",
        split="the last 4,000 rows are the test set",
    )
