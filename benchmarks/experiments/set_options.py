"""Options of the sets that suites name: data, model, and an IL recipe that `tune_il` found."""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]

LETTERS: Options = {"task.name": "letters", "il.lr": 0.01, "il.epochs": 12}
FASHION: Options = {"task.name": "fashion_mnist", "il.lr": 0.003, "il.epochs": 6}
OCR: Options = {"task.name": "ocr", "task.drop_duplicates": True, "il.lr": 0.003, "il.epochs": 6}
_BAG = {"name": "embedding_bag"}
TWEETS: Options = {
    **{"task.name": "tweets", "task.drop_duplicates": True, "task.model": _BAG},
    **{"il.lr": 0.01, "il.epochs": 3},
}
NEWSGROUPS: Options = {
    **{"task.name": "newsgroups", "task.drop_duplicates": True, "task.model": _BAG},
    **{"il.lr": 0.01, "il.epochs": 24},
}
THREE = {"Letters": LETTERS, "Fashion-MNIST": FASHION, "OCR letters": OCR}
FIVE = {**THREE, "Tweets": TWEETS, "20 Newsgroups": NEWSGROUPS}
FOLDERS = {
    **{"fashion_mnist": "fashion-mnist", "ocr": "ocr", "tweets": "tweets"},
    **{"newsgroups": "newsgroups", "cifar10": "cifar-10-batches-bin"},
    **{"cifar100": "cifar-100-binary", "cinic10": "CINIC-10", "clothing1m": "clothing1m"},
}
"""The folder of each set in the one that --data names."""

CLEAN: dict[str, Options] = {"as it is": {}}
NOISE_20: dict[str, Options] = {"20 % noise": {"task.noise": 0.2}}
NOISE_40: dict[str, Options] = {"40 % noise": {"task.noise": 0.4}}

# Targets of other kinds, with one small IL model for all.
_SMALL_IL = {"task.il_model": {"widths": [128]}}
_CNN, _RESNET = {"task.model": {"name": "cnn"}}, {"task.model": {"name": "resnet"}}
_OCR, _FASHION = {**OCR, **_SMALL_IL}, {**FASHION, **_SMALL_IL, "task.noise": 0.2}
_TWEETS = {**TWEETS, "task.il_model": _BAG}
TARGETS: dict[str, Options] = {
    "OCR letters, MLP": _OCR,
    "OCR letters, CNN": {**_OCR, **_CNN},
    "OCR letters, residual net": {**_OCR, **_RESNET},
    "Fashion-MNIST, MLP": _FASHION,
    "Fashion-MNIST, CNN": {**_FASHION, **_CNN},
    "Fashion-MNIST, residual net": {**_FASHION, **_RESNET},
    "Tweets, bag of embeddings": _TWEETS,
    "Tweets, transformer": {**_TWEETS, "task.model": {"name": "transformer"}},
}
LARGE_MLP: dict[str, Options] = {
    "OCR letters, MLP of 3 x 768, 40 % noise": {
        **OCR,
        **{"task.noise": 0.4, "task.model": {"widths": [768, 768, 768]}},
        **{"task.il_model": {}},
    }
}
RESNET: dict[str, Options] = {"Fashion-MNIST, residual net, 20 % noise": {**_FASHION, **_RESNET}}
# Half of the examples occur ten times, 40 % of the labels are wrong, four in five classes are rare.
SCRAPED: Options = {
    **{"task.noise": 0.4, "task.redundancy": 0.5, "task.copies": 10, "task.relevance": 0.06},
}
