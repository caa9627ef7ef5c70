"""Options of the sets that suites name: data, a learning rate, and an IL recipe."""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]

LETTERS: Options = {"task.name": "letters", "train.lr": 0.003, "il.lr": 0.01, "il.epochs": 6}
FASHION: Options = {
    **{"task.name": "fashion_mnist", "train.lr": 0.001},
    **{"il.lr": 0.003, "il.epochs": 6},
}
OCR: Options = {
    **{"task.name": "ocr", "task.drop_duplicates": True, "train.lr": 0.003},
    **{"il.lr": 0.003, "il.epochs": 6},
}
THREE = {"Letters": LETTERS, "Fashion-MNIST": FASHION, "OCR letters": OCR}
FOLDERS = {
    **{"fashion_mnist": "fashion-mnist", "ocr": "ocr", "tweets": "tweets"},
    **{"newsgroups": "newsgroups", "cifar10": "cifar-10-batches-bin"},
    **{"cifar100": "cifar-100-binary", "cinic10": "CINIC-10", "clothing1m": "clothing1m"},
}
"""The folder of each set in the one that --data names."""
