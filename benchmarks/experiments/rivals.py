"""Compare selection with its rivals at equal counted cost, over five budgets.

python benchmarks/experiments/rivals.py --data DATA [--sets letters ocr]
python benchmarks/experiments/rivals.py --draw

A forward pass of an example costs 1 and a backward pass 2; IL models, scoring and re-scoring count.
A budget of b passes is 3 * b * n. Every method has a learning rate of its own, and a filter its
share: those with the best accuracy after 8 passes on validation examples, whose labels are as wrong
as those of the others, with other seeds. A best rate at the edge of the grid widens the grid.
`rates.csv` has a row for each candidate. A row of `runs.csv` is one run of five or three seeds side
by side, with accuracies in % by seed. Rows that are there stay: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from experiments import rivals_page
from experiments.corruption import Corruption, CorruptionConfig
from experiments.evidence import DataConfig
from experiments.lanes import Data, Lanes, Method, crossfit, logits_of, train
from experiments.noise import label_noise, weak_labels
from rho_train import IndexedDataset, find_duplicates

OUT = Path(__file__).parent / "results" / "rivals"
SEEDS, TUNING_SEEDS = (1000, 1001, 1002, 1003, 1004), (100,)
BUDGETS, TUNED_AT = (1, 2, 4, 8, 16), 8  # in passes
GRID = (0.001, 0.003, 0.01)
SHARES = (0.6, 0.75, 0.9, 0.95)
IL_EPOCHS, IL_SHARE = (4, 10), 0.3
N, VALIDATION = 4000, 2000
_SURE = 0.7  # below it, annotators doubted a label

METHODS = (
    Method("uniform"),
    Method("smoothing .3", smoothing=0.3),
    Method("GCE", loss="gce"),
    Method("agreement", smoothing=0.3, visits="agreement"),
    Method("true labels", smoothing=0.3, visits="true"),
    Method("RHO-LOSS", select="rho", il="included"),
    Method("RHO-LOSS, IL free", select="rho", il="free"),
    Method("filter", visits="filter", il="included"),
    Method("filter + smoothing, IL free", smoothing=0.3, visits="filter", il="free"),
    Method("smoothing .1", smoothing=0.1),
    Method("ELR", loss="elr"),
    Method("InfoBatch", loss="infobatch"),
    Method("filter, IL free", visits="filter", il="free"),
    Method("filter + smoothing", smoothing=0.3, visits="filter", il="included"),
    Method("RHO-LOSS + smoothing, IL free", smoothing=0.3, select="rho", il="free"),
    Method("highest loss", select="loss"),
)
COLUMNS = ("set", "noise", "method", "passes", "seeds", "lr", "share", "test", "balanced")
COLUMNS += ("worst_class", "validation", "wrong_visits", "cost", "il_cost", "seconds")
COLUMNS += ("commit", "machine", "torch", "date")
TRIED = ("set", "noise", "method", "passes", "share", "lr", "validation", "commit")


class Setting(NamedTuple):
    """A set of examples, and its noise: the share drawn anew in %, `weak`, or `natural`."""

    set: str
    noise: str
    seeds: int = 3


SETTINGS = (
    Setting("letters", "40", seeds=5),
    *(Setting(name, "40") for name in ("ocr", "fashion")),
    Setting("tweets", "natural"),
    *(Setting(name, noise) for noise in ("0", "weak") for name in ("letters", "ocr", "fashion")),
    *(Setting(name, "40") for name in ("web", "web, distinct")),
    *(Setting(name, "20") for name in ("letters", "ocr", "fashion")),
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
    x, y, test_x, test_y, classes, sure = source("letters" if web else setting.set, folder)
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


class Table:
    """A CSV file that gets a row at a time; `has` says which are there, by their first columns."""

    def __init__(self, path: Path, columns: tuple[str, ...], key: int) -> None:
        self.path, self.columns, self._key = path, columns, key
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(",".join(columns) + "\n")
        with path.open(newline="") as file:
            self.rows = {self.key(row): row for row in csv.DictReader(file)}

    def key(self, row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(f"{row[name]}" for name in self.columns[: self._key])

    def add(self, row: Mapping[str, object]) -> None:
        self.rows[self.key(row)] = {name: f"{value}" for name, value in row.items()}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)


class Comparison:
    """All methods on one setting: their tuning, and the runs that count."""

    def __init__(self, setting: Setting, folder: Path, out: Path, origin: dict[str, str]) -> None:
        self.setting, self.origin = setting, origin
        self.seeds = SEEDS[: setting.seeds]
        self.data = {seeds: load(setting, seeds, folder) for seeds in (self.seeds, TUNING_SEEDS)}
        self.tried = Table(out / "rates.csv", TRIED, 6)
        self.done = Table(out / "runs.csv", COLUMNS, 4)
        self._il: dict[tuple[Any, ...], tuple[Tensor, float]] = {}

    def budget(self, passes: int) -> float:
        """Return the cost of passes over the data."""
        return 3.0 * passes * self.data[self.seeds].unit

    def il(
        self, method: Method, seeds: tuple[int, ...], passes: int
    ) -> tuple[Tensor | None, float]:
        """Return the IL of a method for the seeds, and its cost."""
        if not method.il:
            return None, 0.0
        data = self.data[seeds]
        rate, epochs = self.recipe(IL_EPOCHS[:1])
        if method.il == "free":
            rate, epochs = self.recipe(IL_EPOCHS)
        else:
            n = len(data.x)
            epochs = (IL_SHARE * self.budget(passes) - n) / (3 * n)
        key = (seeds, rate, epochs)
        if key not in self._il:
            self._il[key] = crossfit(data, seeds, [rate] * len(seeds), epochs)
        return self._il[key]

    @cache  # noqa: B019 (one object a setting)
    def recipe(self, among: tuple[int, ...]) -> tuple[float, int]:
        """Return the rate and the epochs of IL models with the lowest mean loss."""
        found = {}
        data = self.data[TUNING_SEEDS]
        for epochs in among:

            def losses(candidates: list[tuple[float, float]], epochs: int = epochs) -> list[float]:
                lanes = torch.arange(len(TUNING_SEEDS)).repeat(len(candidates))
                rates = [lr for _, lr in candidates for _ in TUNING_SEEDS]
                seeds = TUNING_SEEDS * len(candidates)
                il, _ = crossfit(data.of(lanes), seeds, rates, epochs)
                return (-il.mean(1).view(-1, len(TUNING_SEEDS)).mean(1)).tolist()

            _, rate, value = self.best("IL", epochs, (1.0,), losses)
            found[value] = rate, epochs
        return found[max(found)]

    def best(
        self, name: str, passes: int, shares: tuple[float, ...], scores: Any
    ) -> tuple[float, float, float]:
        """Return the best share, by the middle rate, and rate, and its score."""
        known: dict[tuple[float, float], float] = {}
        first = GRID if len(shares) == 1 else GRID[1:2]
        wanted = [(share, lr) for share in shares for lr in first]
        while True:
            rows = {
                (share, lr): (*self.setting[:2], name, f"{passes}", f"{share:g}", f"{lr:g}")
                for share, lr in wanted
            }
            new = [of for of, key in rows.items() if key not in self.tried.rows]
            for of, score in zip(new, scores(new) if new else [], strict=True):
                row = dict(zip(TRIED, (*rows[of], f"{score:.5f}"), strict=False))
                self.tried.add(row | {"commit": self.origin["commit"]})
            known |= {of: float(self.tried.rows[key]["validation"]) for of, key in rows.items()}
            share, lr = max(known, key=lambda of: known[of])
            rates = sorted(rate for part, rate in known if part == share)
            if rates == [GRID[1]]:  # the share is known, the rate is not
                wanted = [(share, GRID[0]), (share, GRID[2])]
                continue
            wider = {rates[0]: rates[0] / 3, rates[-1]: rates[-1] * 3}.get(lr)
            if wider is None or len(rates) > len(GRID) + 1:
                return share, lr, known[share, lr]
            wanted = [(share, float(f"{wider:.1g}"))]

    def tune(self, method: Method) -> tuple[float, float]:
        """Return the share and the rate of a method with the best mean accuracy on validation."""

        def scores(candidates: list[tuple[float, float]]) -> list[float]:
            il, il_cost = self.il(method, TUNING_SEEDS, TUNED_AT)
            lanes = torch.arange(len(TUNING_SEEDS)).repeat(len(candidates))
            data = self.data[TUNING_SEEDS].of(lanes)
            found = train(
                method,
                data,
                TUNING_SEEDS * len(candidates),
                [lr for _, lr in candidates for _ in TUNING_SEEDS],
                self.budget(TUNED_AT) - (il_cost if method.il == "included" else 0),
                shares=[share for share, _ in candidates for _ in TUNING_SEEDS],
                il=None if il is None else il[lanes],
            )
            right = accuracy(found.lanes, data.validation_x, data.validation_y)
            return right.view(-1, len(TUNING_SEEDS)).mean(1).tolist()

        shares = SHARES if method.visits == "filter" else (1.0,)
        return self.best(method.name, TUNED_AT, shares, scores)[:2]

    def run(self, method: Method, passes: int) -> None:
        """Add the row of a method at a budget, unless it is there or IL models do not fit in."""
        key = (*self.setting[:2], method.name, f"{passes}")
        if key in self.done.rows or (method.il == "included" and passes == 1):
            return
        share, lr = self.tune(method)
        began = time.process_time()
        il, il_cost = self.il(method, self.seeds, passes)
        if method.il == "included":
            began = time.process_time()
        data, n = self.data[self.seeds], len(self.seeds)
        found = train(
            method,
            data,
            self.seeds,
            [lr] * n,
            self.budget(passes) - (il_cost if method.il == "included" else 0),
            shares=[share] * n,
            il=il,
        )
        seconds = (time.process_time() - began) / n
        right = logits_of(found.lanes, data.test_x).argmax(-1).eq(data.test_y).float()
        classes = F.one_hot(data.test_y).float()
        by_class = right @ classes / classes.sum(0)
        unit = 3.0 * data.unit
        row = dict(
            zip(COLUMNS, (*key, f"{self.seeds[0]}-{self.seeds[-1]}", f"{lr:g}"), strict=False)
        )
        row |= {
            "share": f"{share:g}",
            "test": percent(right.mean(1)),
            "balanced": percent(by_class.nanmean(1)),
            "worst_class": percent(by_class.nan_to_num(1).amin(1)),
            "validation": percent(accuracy(found.lanes, data.validation_x, data.validation_y)),
            "wrong_visits": percent(torch.tensor(found.wrong)),
            "cost": f"{max(found.cost) / unit:.3f}",
            "il_cost": f"{il_cost / unit:.3f}",
            "seconds": f"{seconds:.2f}",
        }
        self.done.add(row | self.origin)
        print(", ".join(key), row["test"], f"{lr:g} {share:g} {seconds:.1f} s", flush=True)


def accuracy(lanes: Lanes, x: Tensor, y: Tensor) -> Tensor:
    """Return the accuracy of each lane on x (m, d) with labels (lanes, m)."""
    return logits_of(lanes, x).argmax(-1).eq(y).float().mean(1)


def percent(values: Tensor) -> str:
    """Write shares in %, a space between them."""
    return " ".join(f"{100 * value:.2f}" for value in values.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default="data", help="has the folders of the sets")
    sets, noises = (list(dict.fromkeys(of)) for of in zip(*(s[:2] for s in SETTINGS), strict=True))
    names = [method.name for method in METHODS]
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets)
    parser.add_argument("--noise", nargs="+", choices=noises, default=noises)
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--machine", default="epyc", help="its name in rows")
    parser.add_argument("--draw", action="store_true", help="only the figure, from the rows")
    options = parser.parse_args()
    if options.draw:
        rivals_page.draw(Path(__file__).parent / "figures" / "rivals.png")
        return
    torch.set_num_threads(1)
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    origin = {"commit": commit, "machine": options.machine, "torch": torch.__version__}
    origin["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    for setting in SETTINGS:
        if setting.set not in options.sets or setting.noise not in options.noise:
            continue
        comparison = Comparison(setting, options.data, options.out, origin)
        for method, passes in product(METHODS, BUDGETS):
            clean = setting.noise == "0" and method.visits == "true"
            if method.name in options.methods and not clean:
                comparison.run(method, passes)


if __name__ == "__main__":
    main()
