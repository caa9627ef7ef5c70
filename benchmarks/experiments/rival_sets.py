"""The settings of rivals.py: parts of five sets as features, and wrong labels of several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from experiments.corruption import Corruption, CorruptionConfig
from experiments.evidence import DataConfig
from experiments.lanes import HIDDEN, Data
from experiments.noise import label_noise, weak_labels
from rho_train import IndexedDataset, find_duplicates

N, VALIDATION = 4000, 2000
_SURE = 0.7  # below it, annotators doubted a label


class Setting(NamedTuple):
    """A set of examples, and its noise: the share drawn anew in %, `weak`, or `natural`.

    Args:
        set, noise: as in rows.
        passes: the budgets.
        target, il: widths of the hidden layers of the target and of its IL models.
    """

    set: str
    noise: str
    passes: tuple[int, ...] = (1, 2, 4, 8, 16)
    target: tuple[int, ...] = HIDDEN
    il: tuple[int, ...] = HIDDEN


SETTINGS = (
    *(Setting(name, "40") for name in ("letters", "ocr", "fashion")),
    Setting("tweets", "natural"),
    *(Setting(name, noise) for noise in ("0", "weak") for name in ("letters", "ocr", "fashion")),
    *(Setting(name, "40") for name in ("web", "web, distinct")),
    *(Setting(name, "20") for name in ("letters", "ocr", "fashion")),
    Setting("letters, larger target", "40", (4, 16), (512, 512), (64,)),
)


class Source(NamedTuple):
    """Features and true labels; `sure` is False where annotators doubted a label."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    sure: Tensor


@cache
def source(name: str, folder: Path) -> Source:
    """Load a part of a set without duplicates; images and texts become standardised features."""
    config = {"fashion": "fashion_mnist"}.get(name, name)
    path = None if name == "letters" else folder / config.replace("_", "-")
    data = DataConfig(name=config, folder=path, drop_duplicates=name in ("ocr", "tweets")).load()
    draw = torch.Generator().manual_seed(4242)
    rows = torch.randperm(len(data.train_y), generator=draw)[: N + VALIDATION]
    x, test_x = data.train_x[rows], data.test_x
    if data.kind == "text":
        x, test_x = _latent(x, test_x)
    if name == "fashion":
        x, test_x = F.avg_pool2d(x.float(), 2), F.avg_pool2d(test_x.float(), 2)
    if data.kind != "features":
        x, test_x = x.flatten(1).float(), test_x.flatten(1).float()
        mean, std = x.mean(), x.std()
        x, test_x = (x - mean) / std, (test_x - mean) / std
    sure = torch.ones(len(rows), dtype=torch.bool)
    if data.confidence is not None:
        sure = ~(data.confidence[rows] < _SURE)
    return Source(x, data.train_y[rows], test_x, data.test_y, data.num_classes, sure)


def _latent(x: Tensor, test_x: Tensor, words: int = 3000, size: int = 100) -> tuple[Tensor, Tensor]:
    """Project the words of texts, weighted by rarity, on their leading directions."""
    there = [
        torch.zeros(len(part), words + 2).scatter_(1, part.clamp(max=words + 1), 1.0)[:, 2:-1]
        for part in (x, test_x)
    ]
    rarity = (len(x) / there[0].sum(0).clamp(min=1)).log()
    weighted = [F.normalize(part * rarity) for part in there]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        directions = torch.svd_lowrank(weighted[0], q=size)[2]
    return weighted[0] @ directions, weighted[1] @ directions


def load(setting: Setting, seeds: Sequence[int], folder: Path) -> Data:
    """Load a setting: a lane for each seed, which draws the noise; inputs are the same for all."""
    web = setting.set.startswith("web")
    name = "letters" if web else setting.set.partition(",")[0]
    x, y, test_x, test_y, classes, sure = source(name, folder)
    rows, train_rows = torch.arange(N + VALIDATION), torch.arange(N)
    if web:
        # Scraped data: of four in five classes 6 % are left, half of the examples occur ten times.
        rare = CorruptionConfig(relevance=0.06)
        copies = replace(rare, redundancy=0.5, copies=10)
        made = Corruption.draw(y[:N], test_y, classes, copies, seed=1)
        kept = Corruption.draw(y[N:], test_y, classes, rare, seed=1).row
        train_rows, rows = made.row, torch.cat([made.row.unique(), N + kept])
        test_x, test_y = test_x[made.test_row], test_y[made.test_row]
    labels = y.repeat(len(seeds), 1)
    for lane, seed in zip(labels, seeds, strict=True):
        if setting.noise == "weak":
            lane[rows] = weak_labels(x[rows], y[rows], classes, 0.6, seed=seed)
        elif setting.noise != "natural":
            share = int(setting.noise) / 100
            lane[rows] = label_noise(y[rows], share, classes, seed=seed).labels
    wrong, held_out, unit = (labels != y) | ~sure, rows[rows >= N], len(train_rows)
    if setting.set == "web, distinct":
        copied = IndexedDataset(TensorDataset(x[train_rows], y[train_rows]))
        train_rows = train_rows[find_duplicates(copied).unique()]
    return Data(
        *(x[train_rows], labels[:, train_rows], wrong[:, train_rows]),
        *(x[held_out], labels[:, held_out], test_x, test_y, unit),
    )
