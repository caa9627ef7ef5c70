"""Find why RHO-LOSS loses rare classes, and compare remedies.

python benchmarks/experiments/unequal.py --data DATA

Class sizes of Letters and Fashion-MNIST fall exponentially, in an order that the seed draws; those
of Reuters R52 are as they are. IL is cross-fit with two folds. All methods make the same steps on
32 examples, but for "uniform, equal cost", which has the counted cost of RHO-LOSS with its IL.
Rows have the accuracy, its mean over classes, over rare ones (at most ten examples) and of the
worst class; of rare classes their mean IL, and how often they are selected over their share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from common import Runs, parse, provenance
from experiments.methods import ClassQuota
from experiments.noise import label_noise
from experiments.rng import generator
from experiments.small_sets import Vectors, load
from rho_train import Batch, ILRecipe, IndexedDataset, Selector, crossfit_il
from rho_train.cost import forward_cost, training_cost
from rho_train.tasks import mlp

RUNS = Path(__file__).parent / "results" / "unequal" / "runs.csv"
SETS = {"Letters": (400, 3), "Fashion-MNIST": (2000, 4), "Reuters R52": None}
BATCH, LARGE, RARE = 32, 96, 10
COLUMNS = ("command", "set", "noise", "seed", "method", "steps", "accuracy", "balanced", "rare")
COLUMNS += ("worst", "il", "rare_il", "rare_selected")


def class_means(il: Tensor, y: Tensor) -> Tensor:
    """Return for every example the mean IL of its class."""
    counts = y.bincount().clamp_min(1)
    return (torch.zeros(len(counts)).index_add_(0, y, il) / counts)[y]


def centred(il: Tensor, y: Tensor) -> Tensor:
    """Give every class the same mean."""
    return il - class_means(il, y) + il.mean()


def zero(below: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a remedy that takes the IL of classes with fewer examples for 0: their loss counts."""
    return lambda il, y: il.masked_fill(y.bincount()[y] < below, 0.0)


def shrunk(il: Tensor, y: Tensor) -> Tensor:
    """Shrink IL by n / (n + 100) for a class of n examples: the fewer, the more the loss counts."""
    counts = y.bincount()[y]
    return il * counts / (counts + 100)


REMEDIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "RHO-LOSS": lambda il, y: il,
    "IL centred by class": centred,
    "IL 0 below 20 examples": zero(20),
    "IL 0 below 100 examples": zero(100),
    "IL shrunk by class": shrunk,
    "class quotas": lambda il, y: il,
    "equal quotas": lambda il, y: il,
}
METHODS = ("uniform", "uniform, equal cost", *REMEDIES)


def unequal(name: str, noise: float, seed: int, folder: Path) -> Vectors:
    """Load a set, leave few examples of most classes, and draw some labels anew."""
    data = load(name, folder)
    x, y = data.x, data.y
    sizes = SETS[name]
    if sizes is not None:
        private = generator(seed, "class sizes")
        order = torch.randperm(data.classes, generator=private)
        ids = torch.randperm(len(y), generator=private)
        largest, rarest = sizes
        kept = []
        for place, label in enumerate(order.tolist()):
            count = largest * (rarest / largest) ** (place / (data.classes - 1))
            kept.append(ids[y[ids] == label][: round(count)])
        rows = torch.cat(kept)
        x, y = x[rows], y[rows]
    return data._replace(x=x, y=label_noise(y, noise, data.classes, seed=seed).labels)


def il_of(data: Vectors, seed: int, steps: int) -> tuple[Tensor, int]:
    """Return cross-fit IL, and the uniform steps that cost what it and selecting steps do."""
    widths, n = (data.x.shape[1], [64], data.classes), len(data.y)
    recipe = ILRecipe(epochs=20, batch_size=32, seed=seed)
    indexed = IndexedDataset(TensorDataset(data.x, data.y))
    store = crossfit_il(lambda one: mlp(*widths, seed=one), indexed, 2, recipe)
    batch = Batch(data.x[:BATCH], data.y[:BATCH], torch.arange(BATCH))
    target, small = mlp(widths[0], [128, 128], data.classes, seed=0), mlp(*widths, seed=0)
    # Each of two models trains on a half, evaluates on the other half and scores it.
    cost = n * (20 * training_cost(small, batch) + 21 * forward_cost(small, batch))
    step = BATCH * training_cost(target, batch)
    return store.il, int(steps + (steps * LARGE * forward_cost(target, batch) + cost) / step)


def run(method: str, data: Vectors, il: Tensor, steps: int, lr: float, seed: int) -> dict[str, Any]:
    """Train a model and return what a row says of it."""
    counts = data.y.bincount(minlength=data.classes)
    rare = (counts > 0) & (counts <= RARE)
    model = mlp(data.x.shape[1], [128, 128], data.classes, seed=seed)
    selector = None
    if method in REMEDIES:
        shares = (1.0,) * data.classes if method == "equal quotas" else None
        how: Any = ClassQuota("rho", shares) if "quotas" in method else "rho"
        selector = Selector(il=REMEDIES[method](il, data.y), k=BATCH, method=how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    private, seen = generator(seed, "large batches"), torch.zeros(data.classes)
    for _ in range(steps):
        ids = torch.randint(len(data.y), (LARGE if selector else BATCH,), generator=private)
        batch = Batch(data.x[ids], data.y[ids], ids)
        if selector is not None:
            batch = selector(model, batch)
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
        seen.index_add_(0, batch.y, torch.ones(len(batch.y)))
    with torch.no_grad():
        right = (model(data.test_x).argmax(1) == data.test_y).float()
    tests = data.test_y.bincount(minlength=data.classes)
    recalls = torch.zeros(data.classes).index_add_(0, data.test_y, right) / tests
    means = torch.zeros(data.classes).index_add_(0, data.y, il) / counts
    often = seen[rare].sum() / seen.sum() / (counts[rare].sum() / counts.sum())
    return {
        "steps": steps,
        "accuracy": round(float(right.mean()), 4),
        "balanced": round(float(recalls.nanmean()), 4),
        "rare": round(float(recalls[rare].nanmean()), 4),
        "worst": round(float(recalls[tests > 0].min()), 4),
        "il": round(float(il.mean()), 3),
        "rare_il": round(float(means[rare].mean()), 3),
        "rare_selected": round(float(often), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has the folders of the sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302, 303, 304])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--out", type=Path, default=RUNS)
    options = parse(parser, sets=["Letters"], noise=[0.0], seeds=[300])
    command = f"unequal.py --steps {options.steps} --lr {options.lr}"
    runs = Runs(options.out, {**provenance("unequal", options), "command": command}, COLUMNS)
    for name, noise, seed in product(options.sets, options.noise, options.seeds):
        key = {"set": name, "noise": noise, "seed": seed}
        methods = [one for one in options.methods if not runs.find({**key, "method": one})]
        if not methods:
            continue
        data = unequal(name, noise, seed, options.data)
        il, more = il_of(data, seed, options.steps)
        for method in methods:
            steps = more if method == "uniform, equal cost" else options.steps
            make = partial(run, method, data, il, steps, options.lr, seed)
            runs.row({**key, "method": method}, make)


if __name__ == "__main__":
    main()
