"""Compare selection with its rivals at equal counted cost, over five budgets.

python benchmarks/experiments/rivals.py --data DATA [--sets letters ocr]
python benchmarks/experiments/rivals.py --draw

A forward pass of an example costs 1 and a backward pass 2; IL models, scoring and re-scoring count.
A budget of b passes is 3 * b * n. IL models have the target's size and 30 % of the budget; those of
a "larger target" have one small layer and the epochs that are best, whose cost is the share of
their multiply-adds. Every method has a learning rate of its own, and a filter its
share: those with the best accuracy after 8 passes on validation examples, whose labels are as wrong
as those of the others, with another seed. A best rate at the edge of the grid widens the grid.
`rates.csv` has a row for each candidate. A row of `runs.csv` is one run of five seeds side by side,
with accuracies in % by seed. Rows that are there stay: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache, partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from common import Row, Runs, parse, provenance
from experiments import rivals_page
from experiments.lanes import Lanes, Method, crossfit, logits_of, train
from experiments.rival_sets import SETTINGS, Setting, load

OUT = Path(__file__).parent / "results" / "rivals"
SEEDS, TUNING_SEEDS = (1000, 1001, 1002, 1003, 1004), (100,)
TUNED_AT = 8  # passes
GRID = (0.001, 0.003, 0.01)
SHARES = (0.6, 0.75, 0.9, 0.95)
IL_EPOCHS, IL_SHARE = (4, 10), 0.3

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
    Method("agreement by loss", smoothing=0.3, visits="by loss"),
    Method("agreement by IL - loss, IL free", smoothing=0.3, visits="by loss", il="free"),
    Method("agreement by loss - IL, IL free", smoothing=0.3, visits="by excess loss", il="free"),
)
KEY = ("command", "set", "noise", "method", "passes")
TRIED = (*KEY, "share", "lr", "validation")
COLUMNS = (*KEY, "seeds", "lr", "share", "test", "balanced", "worst_class", "validation")
COLUMNS += ("wrong_visits", "cost", "il_cost", "seconds")


class Comparison:
    """All methods on one setting: their tuning, and the runs that count."""

    def __init__(self, setting: Setting, folder: Path, out: Path, origin: Row) -> None:
        self.setting = setting
        self.data = {seeds: load(setting, seeds, folder) for seeds in (SEEDS, TUNING_SEEDS)}
        self.tried = Runs(out / "rates.csv", origin, TRIED)
        self.done = Runs(out / "runs.csv", origin, COLUMNS)
        self._il: dict[tuple[Any, ...], tuple[Tensor, float]] = {}

    def key(self, name: str, passes: int) -> dict[str, object]:
        """Return the cells by which rows of a method are found."""
        of = self.setting
        return {"set": of.set, "noise": of.noise, "method": name, "passes": passes}

    def budget(self, passes: int) -> float:
        """Return the cost of passes over the data."""
        return 3.0 * passes * self.data[SEEDS].unit

    def il(
        self, method: Method, seeds: tuple[int, ...], passes: int
    ) -> tuple[Tensor | None, float]:
        """Return the IL of a method for the seeds, and its cost."""
        if not method.il:
            return None, 0.0
        data = self.data[seeds]
        setting, n = self.setting, len(data.x)
        sizes = [(data.x.shape[1], *of, int(data.test_y.max()) + 1) for of in setting[3:]]
        target, small = (sum(a * b for a, b in pairwise(of)) for of in sizes)
        if method.il == "free" or small < target:
            rate, epochs = self.recipe(IL_EPOCHS)
        else:
            rate, _ = self.recipe(IL_EPOCHS[:1])
            epochs = (IL_SHARE * self.budget(passes) - n) / (3 * n)
        key = (seeds, rate, epochs)
        if key not in self._il:
            il, cost = crossfit(data, seeds, [rate] * len(seeds), epochs, setting.il)
            self._il[key] = il, cost * small / target
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
                il, _ = crossfit(data.of(lanes), seeds, rates, epochs, self.setting.il)
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
            keys = {
                (share, lr): {**self.key(name, passes), "share": f"{share:g}", "lr": f"{lr:g}"}
                for share, lr in wanted
            }
            new = [of for of, key in keys.items() if self.tried.find(key) is None]
            for of, score in zip(new, scores(new) if new else [], strict=True):
                self.tried.row(keys[of], partial(dict, validation=f"{score:.5f}"))
            for of, key in keys.items():
                known[of] = float(f"{self.tried.row(key, dict)['validation']}")
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
                hidden=self.setting.target,
            )
            right = accuracy(found.lanes, data.validation_x, data.validation_y)
            return right.view(-1, len(TUNING_SEEDS)).mean(1).tolist()

        shares = SHARES if method.visits == "filter" else (1.0,)
        return self.best(method.name, TUNED_AT, shares, scores)[:2]

    def run(self, method: Method, passes: int) -> None:
        """Add the row of a method at a budget, unless it is there or IL models do not fit in."""
        if method.il != "included" or passes > 1:
            self.done.row(self.key(method.name, passes), partial(self._run, method, passes))

    def _run(self, method: Method, passes: int) -> Row:
        share, lr = self.tune(method)
        il, il_cost = self.il(method, SEEDS, passes)
        began = time.process_time()
        data, n = self.data[SEEDS], len(SEEDS)
        found = train(
            method,
            data,
            SEEDS,
            [lr] * n,
            self.budget(passes) - (il_cost if method.il == "included" else 0),
            shares=[share] * n,
            il=il,
            hidden=self.setting.target,
        )
        seconds = (time.process_time() - began) / n
        right = logits_of(found.lanes, data.test_x).argmax(-1).eq(data.test_y).float()
        classes = F.one_hot(data.test_y).float()
        by_class = right @ classes / classes.sum(0)
        unit = 3.0 * data.unit
        return {
            "seeds": f"{SEEDS[0]}-{SEEDS[-1]}",
            "lr": f"{lr:g}",
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
    parser.add_argument("--draw", action="store_true", help="only the figure, from the rows")
    options = parse(parser, sets=["letters"], noise=["40"])
    if options.draw:
        rivals_page.draw(Path(__file__).parent / "figures" / "rivals.png")
        return
    origin = {**provenance("rivals", options), "command": "rivals.py"}
    for setting in SETTINGS:
        if setting.set not in options.sets or setting.noise not in options.noise:
            continue
        comparison = Comparison(setting, options.data, options.out, origin)
        for method, passes in product(METHODS, setting.passes):
            clean = setting.noise == "0" and method.visits == "true"
            if method.name in options.methods and not clean:
                comparison.run(method, passes)


if __name__ == "__main__":
    main()
