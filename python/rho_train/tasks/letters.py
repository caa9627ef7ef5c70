"""Letter Recognition, the real data set that ships with the package."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path

from rho_train.tasks.classification import ClassificationData
from rho_train.tasks.table import load_table

_TEST_ROWS = 4000


def load_letters() -> ClassificationData:
    """Load Letter Recognition: 16 measurements of printed capital letters, 26 classes.

    14,668 training and 4,000 test rows without duplicates, features standardised. Slate, D.
    (1991), UCI Machine Learning Repository, doi 10.24432/C5ZP40, CC BY 4.0.

    Example:
        >>> data = load_letters()
        >>> data.train_x.shape, len(data.test_y), data.num_classes
        (torch.Size([14668, 16]), 4000, 26)
    """
    table = load_table(Path(__file__).with_name("letter_recognition.npz"), _TEST_ROWS)
    return dataclasses.replace(
        table,
        name="Letter Recognition",
        attribution="Slate, D. (1991). Letter Recognition. UCI Machine Learning Repository. "
        "https://doi.org/10.24432/C5ZP40 (CC BY 4.0; duplicate rows removed)",
        classes=tuple(string.ascii_uppercase),
        licence="CC BY 4.0",
        source="UCI Machine Learning Repository, doi 10.24432/C5ZP40",
        split="the last 4,000 rows are the test set",
    )
