"""Compare rankings of wrong labels with those of cleanlab, on the same cross-fit probabilities.

pip install cleanlab
python benchmarks/experiments/wrong_labels.py --data DATA

A row of `runs.csv` is a ranking of one draw of noise: how many of its first 100 are wrong, and
`top_wrong` of its first `top`: as many as there are wrong labels, or as cleanlab lists if these are
fewer. Then how many the method lists, and how many of these are wrong. Labels are drawn anew (a
share in %), drawn by a weak labeller, or as they are: in tweets those are wrong that annotators
doubted. `unequal` has a tenth of the examples of four in five classes. After a stop the same
command goes on.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from common import Row, Runs, parse, provenance
from experiments.noise import label_noise, weak_labels
from experiments.rival_sets import source
from rho_train import ILRecipe, ILStore, IndexedDataset, crossfit_il, find_wrong_labels
from rho_train.tasks import mlp

OUT = Path(__file__).parent / "results" / "wrong_labels" / "runs.csv"
SETTINGS = (
    *(("letters", noise) for noise in ("0", "20", "40", "weak")),
    *(("letters, unequal", noise) for noise in ("20", "weak")),
    *((name, noise) for name in ("ocr", "fashion") for noise in ("20", "weak")),
    ("tweets", "natural"),
)
SEEDS, FOLDS = (1000, 1001, 1002), 2
COLUMNS = ("command", "cleanlab", "set", "noise", "seed", "method", "examples", "wrong")
COLUMNS += ("top_100", "top", "top_wrong", "listed", "listed_wrong")


def noisy(name: str, noise: str, seed: int, folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs (n, d), labels (n,), and which of these are wrong, bool (n,)."""
    found = source(name.partition(",")[0], folder)
    x, y, sure, draw = found.x, found.y, found.sure, torch.Generator().manual_seed(seed)
    if name.endswith("unequal"):
        kept = (y % 5 == 0) | (torch.rand(len(y), generator=draw) < 0.1)
        x, y, sure = x[kept], y[kept], sure[kept]
    labels = y
    if noise == "weak":
        labels = weak_labels(x, y, found.classes, 0.6, seed=seed)
    elif noise != "natural":
        labels = label_noise(y, int(noise) / 100, found.classes, seed=seed).labels
    return x, labels, (labels != y) | ~sure


def crossfit(x: Tensor, y: Tensor, seed: int) -> tuple[ILStore, Tensor]:
    """Return the irreducible losses, and the probabilities (n, C) of the same models."""
    models, classes = dict[int, nn.Module](), int(y.max()) + 1

    def make(seed: int) -> nn.Module:
        return models.setdefault(seed, mlp(x.shape[1], (128, 128), classes, seed=seed))

    data, recipe = (
        IndexedDataset(TensorDataset(x, y)),
        ILRecipe(epochs=10, batch_size=128, seed=10 * seed),
    )
    store = crossfit_il(make, data, FOLDS, recipe)
    assert store.fold is not None
    chances = torch.empty(len(x), classes)
    with torch.no_grad():
        for fold in range(FOLDS):
            rows = store.fold == fold
            chances[rows] = models[recipe.seed + fold](x[rows]).softmax(1)
    torch.testing.assert_close(-chances.gather(1, y.unsqueeze(1)).log().squeeze(1), store.il)
    return store, chances


def rankings(store: ILStore, chances: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by method the ids, most suspicious first, and those of them that it lists."""
    from cleanlab.filter import find_label_issues

    listed, share = find_wrong_labels(store), y.bincount() / len(y)
    above, margin = store.il + share.log()[y], chances.log()
    other = margin.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    margin = other - margin.gather(1, y.unsqueeze(1)).squeeze(1)
    scores = {"find_wrong_labels": above, "IL": store.il, "log margin": margin}
    orders = {name: score.argsort(descending=True, stable=True) for name, score in scores.items()}
    found = {name: (order, listed) for name, order in orders.items()}
    for rank in ("self_confidence", "normalized_margin"):
        ids = find_label_issues(y.numpy(), chances.numpy(), return_indices_ranked_by=rank)
        order = torch.tensor(ids.tolist(), dtype=torch.int64)
        found[f"cleanlab, {rank}"] = order, order
    return found


def measures(name: str, noise: str, seed: int, folder: Path) -> dict[str, Row]:
    """Return the measures of each ranking."""
    x, y, wrong = noisy(name, noise, seed, folder)
    found = rankings(*crossfit(x, y, seed), y)
    top = min(int(wrong.sum()), *(len(order) for order, _ in found.values()))
    return {
        method: {
            "examples": len(y),
            "wrong": int(wrong.sum()),
            "top_100": int(wrong[order[:100]].sum()),
            "top": top,
            "top_wrong": int(wrong[order[:top]].sum()),
            "listed": len(listed),
            "listed_wrong": int(wrong[listed].sum()),
        }
        for method, (order, listed) in found.items()
    }


def main() -> None:
    import cleanlab

    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default="data", help="has the folders of the sets")
    sets = list(dict.fromkeys(name for name, _ in SETTINGS))
    parser.add_argument("--sets", nargs="+", choices=sets, default=sets)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parse(parser, sets=["letters"])
    origin = {"command": "wrong_labels.py", "cleanlab": cleanlab.__version__}
    runs = Runs(options.out, provenance("wrong_labels", options) | origin, COLUMNS)
    for (name, noise), seed in product(SETTINGS, SEEDS):
        key = {"set": name, "noise": noise, "seed": seed}
        if name in options.sets and runs.find(key) is None:
            for method, row in measures(name, noise, seed, options.data).items():
                runs.row({**key, "method": method}, lambda row=row: row)


if __name__ == "__main__":
    main()
