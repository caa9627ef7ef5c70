"""Compare rankings of wrong labels with those of cleanlab, on the same cross-fit probabilities.

pip install cleanlab
python benchmarks/experiments/wrong_labels.py --data DATA

A row of `runs.csv` is a ranking of one draw of noise: how many of its first 100 are wrong, and
`top_wrong` of its first `top`: as many as there are wrong labels, or as cleanlab lists if these are
fewer. Then how many the method lists, and how many of these are wrong.
Labels are drawn anew (a share in %), drawn by a weak labeller, or as they are: in tweets those are
wrong that annotators doubted. `unequal` has a tenth of the examples of four in five classes.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from experiments.noise import label_noise, weak_labels
from experiments.rival_sets import source
from rho_train import ILRecipe, ILStore, IndexedDataset, crossfit_il, find_wrong_labels
from rho_train.tasks import mlp

OUT = Path(__file__).parent / "results" / "wrong_labels"
SETTINGS = (
    *(("letters", noise) for noise in ("0", "20", "40", "weak")),
    *(("letters, unequal", noise) for noise in ("20", "weak")),
    *((name, noise) for name in ("ocr", "fashion") for noise in ("20", "weak")),
    ("tweets", "natural"),
)
SEEDS, FOLDS = (1000, 1001, 1002), 2
COLUMNS = ("set", "noise", "seed", "examples", "wrong", "method", "top_100", "top", "top_wrong")
COLUMNS += ("listed", "listed_wrong", "commit", "machine", "torch", "cleanlab", "date")


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


def rankings(store: ILStore, y: Tensor, chances: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default="data", help="has the folders of the sets")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--machine", default="epyc", help="its name in rows")
    options = parser.parse_args()
    import cleanlab

    torch.set_num_threads(1)
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    origin = {"commit": commit, "machine": options.machine, "torch": torch.__version__}
    origin |= {"cleanlab": cleanlab.__version__, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for (name, noise), seed in ((setting, seed) for setting in SETTINGS for seed in SEEDS):
            x, y, wrong = noisy(name, noise, seed, options.data)
            n = int(wrong.sum())
            setting = {"set": name, "noise": noise, "seed": seed, "examples": len(y), "wrong": n}
            store, chances = crossfit(x, y, seed)
            found = rankings(store, y, chances)
            top = min(n, *(len(order) for order, _ in found.values()))
            for method, (order, listed) in found.items():
                row = {"method": method, "listed": len(listed), **setting, **origin}
                row |= {"top_100": int(wrong[order[:100]].sum()), "top": top}
                row |= {"top_wrong": int(wrong[order[:top]].sum())}
                writer.writerow(row | {"listed_wrong": int(wrong[listed].sum())})
            file.flush()
            print(name, noise, seed, flush=True)


if __name__ == "__main__":
    main()
