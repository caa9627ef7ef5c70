"""Classification data from texts: token ids of lower-cased words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.classification import ClassificationData

Pairs = Sequence[tuple[str, str]]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text: letters and digits, lower-cased, apostrophes inside kept.

    Example:
        >>> words_of("It's RHO-LOSS, v3!")
        ["it's", 'rho', 'loss', 'v3']
    """
    return _WORD.findall(text.lower())


def text_data(
    train: Pairs, test: Pairs, *, min_count: int, max_len: int, name: str, **described: Any
) -> ClassificationData:
    """Return classification data from (text, label) pairs.

    Args:
        train, test: the pairs; the classes are the labels in order.
        min_count: words that the training part has less often are unknown.
        max_len: words of a text that are read.
        name, described: the other fields of `ClassificationData`.

    Raises:
        ValueError: a part is empty, or the training part lacks a class.
    """
    classes = sorted({label for _, label in (*train, *test)})
    missing = set(classes) - {label for _, label in train}
    if not test or len(classes) < 2 or missing:
        raise ValueError(
            f"{name}: both parts need texts, and the training part all classes and at least two; "
            f"got {len(train)} and {len(test)} texts, {len(classes)} classes, of which "
            f"{len(missing)} are not trained on"
        )
    words = _vocabulary((text for text, _ in train), min_count)
    (train_x, train_y), (test_x, test_y) = (
        (
            _token_ids([text for text, _ in part], words, max_len),
            torch.tensor([classes.index(label) for _, label in part]),
        )
        for part in (train, test)
    )
    return ClassificationData(
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        num_classes=len(classes),
        name=name,
        kind="text",
        classes=tuple(classes),
        words=tuple(words),
        train_texts=tuple(text for text, _ in train),
        test_texts=tuple(text for text, _ in test),
        **described,
    )


def _vocabulary(texts: Iterable[str], min_count: int) -> dict[str, int]:
    """Number words: 0 padding, 1 unknown, then words by their count and the alphabet."""
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    counts = Counter(word for text in texts for word in words_of(text))
    frequent = [word for word, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda word: (-counts[word], word))
    return {word: i for i, word in enumerate(("<padding>", "<unknown>", *frequent))}


def _token_ids(texts: Sequence[str], words: Mapping[str, int], max_len: int) -> Tensor:
    if max_len < 1:
        raise ValueError(f"max_len must be at least 1, got {max_len}")
    ids = torch.zeros(len(texts), max_len, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = [words.get(word, 1) for word in words_of(text)[:max_len]]
        ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return ids
