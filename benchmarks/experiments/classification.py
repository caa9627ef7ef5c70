"""Classification data as the loaders of the evidence sets return them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import StackDataset, TensorDataset

from rho_train import IndexedDataset
from rho_train.tasks import ImageFiles

Kind = Literal["features", "image", "text"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassificationData:
    """A training and a test set with labels int64 (n,) in [0, C).

    Args:
        train_x, test_x: by `kind`: features float32 (n, d), standardised; images uint8
            (n, channels, height, width), or files that are read when they are asked for; text as
            token ids int64 (n, length), 0 where a text is over.
        train_y, test_y: the labels.
        num_classes: C.
        name: of the data set, for people.
        attribution: whom to name when results are shown.
        kind: what the inputs are.
        classes: names of the classes, C of them, or none.
        licence, source, split: what they are, in words.
        words: of the token ids 0, 1, 2, ... of text.
        train_texts, test_texts: the texts that the token ids were made from.
        confidence: float32 (n,) in [0, 1], how sure the annotators were of each training label;
            NaN where nobody said.

    Raises:
        ValueError: inputs, labels and what is known of them differ in length.

    Example:
        >>> import torch
        >>> x, y = torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
        >>> data = ClassificationData(
        ...     train_x=x, train_y=y, test_x=x, test_y=y, num_classes=2, name="random")
        >>> data.take(train=torch.tensor([2, 0])).train_y
        tensor([1, 0])
    """

    train_x: Tensor | ImageFiles
    train_y: Tensor
    test_x: Tensor | ImageFiles
    test_y: Tensor
    num_classes: int
    name: str
    attribution: str = ""
    kind: Kind = "features"
    classes: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    split: str = ""
    words: tuple[str, ...] = ()
    train_texts: tuple[str, ...] | None = None
    test_texts: tuple[str, ...] | None = None
    confidence: Tensor | None = None

    def __post_init__(self) -> None:
        n, m = len(self.train_y), len(self.test_y)
        for name, wanted in (
            ("train_x", n),
            ("test_x", m),
            ("train_texts", n),
            ("test_texts", m),
            ("confidence", n),
        ):
            value = getattr(self, name)
            if value is not None and len(value) != wanted:
                raise ValueError(
                    f"ClassificationData: {name} must have one row a label, {wanted}, got "
                    f"{len(value)}"
                )
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(
                f"ClassificationData: classes must name all {self.num_classes} classes or none, "
                f"got {len(self.classes)}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.train_x[0].shape)

    def dataset(self, *, test: bool = False) -> IndexedDataset:
        """Return a part with ids, and labels that are known without reading an input."""
        x, y = (self.test_x, self.test_y) if test else (self.train_x, self.train_y)
        if isinstance(x, Tensor):
            return IndexedDataset(TensorDataset(x, y))
        columns: Any = (x, y)
        return IndexedDataset(StackDataset(*columns), labels=y)

    def take(self, train: Tensor | None = None, test: Tensor | None = None) -> ClassificationData:
        """Return the rows `train` of the training part and `test` of the test part; None: all."""
        changes: dict[str, object] = {}
        for part, rows in (("train", train), ("test", test)):
            if rows is None:
                continue
            for name in (f"{part}_x", f"{part}_y"):
                changes[name] = getattr(self, name)[rows]
            texts = getattr(self, f"{part}_texts")
            if texts is not None:
                changes[f"{part}_texts"] = tuple(texts[row] for row in rows.tolist())
        if train is not None and self.confidence is not None:
            changes["confidence"] = self.confidence[train]
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
