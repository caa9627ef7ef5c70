"""Text as token ids: lower-cased words, numbered by how often the training part has them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rho_train.tasks.classification import ClassificationData

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_PADDING, _UNKNOWN = "<padding>", "<unknown>"


def words_of(text: str) -> list[str]:
    """Return the words of a text: letters and digits, lower-cased, apostrophes inside kept.

    Example:
        >>> words_of("It's RHO-LOSS, v3!")
        ["it's", 'rho', 'loss', 'v3']
    """
    return _WORD.findall(text.lower())


class Tokenizer:
    """Turns texts into token ids: 0 padding, 1 unknown, then words from the most frequent on.

    Args:
        texts: the training texts; other texts have no part in the vocabulary.
        min_count: rarer words are unknown.

    Raises:
        ValueError: `min_count` is below 1.

    Example:
        >>> tokenizer = Tokenizer(["to be or not to be"], min_count=2)
        >>> tokenizer.words
        ('<padding>', '<unknown>', 'be', 'to')
        >>> tokenizer.encode(["To be, or what?", ""], max_len=5)
        tensor([[3, 2, 1, 1, 0],
                [0, 0, 0, 0, 0]])
    """

    def __init__(self, texts: Iterable[str], min_count: int = 1) -> None:
        if min_count < 1:
            raise ValueError(f"Tokenizer: min_count must be at least 1, got {min_count}")
        counts = Counter(word for text in texts for word in words_of(text))
        frequent = [word for word, count in counts.items() if count >= min_count]
        # Equal counts in the order of the alphabet, so that the order of the texts does not count.
        frequent.sort(key=lambda word: (-counts[word], word))
        self.words = (_PADDING, _UNKNOWN, *frequent)
        self._ids = {word: i for i, word in enumerate(frequent, start=2)}

    def encode(self, texts: Sequence[str], max_len: int) -> Tensor:
        """Return the ids of the first `max_len` words of each text, int64 (n, max_len).

        Raises:
            ValueError: `max_len` is below 1.
        """
        if max_len < 1:
            raise ValueError(f"Tokenizer: max_len must be at least 1, got {max_len}")
        ids = torch.zeros(len(texts), max_len, dtype=torch.int64)
        for row, text in enumerate(texts):
            found = [self._ids.get(word, 1) for word in words_of(text)[:max_len]]
            ids[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
        return ids


def text_data(
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    *,
    min_count: int,
    max_len: int,
    **described: Any,
) -> ClassificationData:
    """Return classification data from texts with labels.

    Args:
        train, test: (text, label) pairs; the classes are the labels in order.
        min_count: words that the training part has less often are unknown.
        max_len: words of a text that are read.
        described: the other fields of `ClassificationData`.

    Raises:
        ValueError: a part is empty, there are less than two classes, or the training part lacks
            one.

    Example:
        >>> pairs = [("good", "yes"), ("bad", "no"), ("good", "yes")]
        >>> data = text_data(pairs, pairs, min_count=1, max_len=2, name="mine")
        >>> data.classes, data.train_y.tolist(), data.train_x[0].tolist()
        (('no', 'yes'), [1, 0, 1], [2, 0])
    """
    name = described["name"]
    if not train or not test:
        raise ValueError(
            f"{name}: both parts need texts, got {len(train)} to train and {len(test)} to test on"
        )
    classes = sorted({label for _, label in (*train, *test)}, key=_order)
    missing = set(classes) - {label for _, label in train}
    if len(classes) < 2 or missing:
        raise ValueError(
            f"{name}: the training part must have all classes and at least two, got "
            f"{', '.join(classes)}" + (f" without {', '.join(missing)}" if missing else "")
        )
    number = {label: i for i, label in enumerate(classes)}
    texts = [tuple(text for text, _ in part) for part in (train, test)]
    tokenizer = Tokenizer(texts[0], min_count)
    labels = [torch.tensor([number[label] for _, label in part]) for part in (train, test)]
    return ClassificationData(
        train_x=tokenizer.encode(texts[0], max_len),
        train_y=labels[0],
        test_x=tokenizer.encode(texts[1], max_len),
        test_y=labels[1],
        num_classes=len(classes),
        kind="text",
        classes=tuple(classes),
        words=tokenizer.words,
        train_texts=texts[0],
        test_texts=texts[1],
        **described,
    )


def _order(label: str) -> tuple[int, int, str]:
    """Numbers as numbers, before names."""
    return (0, int(label), "") if label.lstrip("-").isdecimal() else (1, 0, label)
