"""Compare AgreementSampler with uniform sampling and its rivals at equal counted cost.

python benchmarks/experiments/agreement.py --data DATA

The cost of an example is 1 for a forward pass and 2 for a backward pass; the re-scoring of examples
that were left out counts. All methods have the same budget, the same learning rate, which decays
over all of it, and the same seeds. `wrong_visits` is the share of the visits in the last quarter of
a run that went to wrong labels. Rows are appended to the file; those that it has stay.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from experiments.noise import label_noise
from experiments.robust import EarlyLearning, infobatch
from experiments.sets import load_fashion_mnist
from rho_train import AgreementSampler, Batch, IndexedDataset, gce_losses, loader
from rho_train.tasks import letters

RUNS = Path(__file__).parent / "results" / "agreement" / "runs.csv"
METHODS = ("uniform", "smoothing", "gce", "elr", "infobatch", "agreement", "true labels")
METHODS += ("agreement by loss",)
FIELDS = (
    *("set", "noise", "method", "seed", "passes", "lr", "test", "visits", "scored", "steps"),
    *("wrong_visits", "seconds", "commit", "torch"),
)


class Setting(NamedTuple):
    """A set of examples, the share of its labels that is drawn anew, the budget and the rate."""

    name: str
    noise: float
    passes: float
    lr: float


SETTINGS = (
    *(Setting("Letters", noise, 15, 0.01) for noise in (0.4, 0.0)),
    *(Setting("Fashion-MNIST", noise, 8, 0.003) for noise in (0.4, 0.0)),
    Setting("Letters", 0.4, 6, 0.01),
)


class Data(NamedTuple):
    """Training inputs, their labels and which of these are wrong; a clean test set."""

    x: Tensor
    y: Tensor
    wrong: Tensor
    test_x: Tensor
    test_y: Tensor


def load(setting: Setting, seed: int, folder: Path) -> Data:
    """Load a set, Fashion-MNIST by 15,000 random images, and draw some labels anew."""
    if setting.name == "Letters":
        task = letters()
        x, y = task.train.tensors
        test_x, test_y = task.test.tensors
    else:
        data = load_fashion_mnist(folder / "fashion-mnist")
        some = torch.randperm(len(data.train_y), generator=torch.Generator().manual_seed(1))[:15000]
        x, test_x = (part.flatten(1).float() / 255 for part in (data.train_x[some], data.test_x))
        y, test_y = data.train_y[some], data.test_y
        mean, std = x.mean(), x.std()
        x, test_x = (x - mean) / std, (test_x - mean) / std
    labels, wrong = label_noise(y, setting.noise, int(y.max()) + 1, seed=seed)
    return Data(x, labels, wrong, test_x, test_y)


def train(
    method: str, data: Data, passes: float, lr: float, seed: int, batch_size: int = 64
) -> dict[str, float | int]:
    """Train an MLP with two hidden layers of 128 and return what a row says."""
    classes, n = int(data.test_y.max()) + 1, len(data.y)
    torch.manual_seed(seed)
    sizes = (data.x.shape[1], 128, 128)
    hidden = (nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairwise(sizes))
    model = nn.Sequential(*hidden, nn.Linear(128, classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    budget = passes * n * 3
    spent = visits = scored = steps = 0
    generator = torch.Generator().manual_seed(seed)
    elr, last = EarlyLearning(n, classes), torch.full((n,), math.inf)
    sampler = AgreementSampler(n, batch_size, steps=round(passes * n / batch_size), seed=seed)
    batches = loader(IndexedDataset(TensorDataset(data.x, data.y)), sampler)
    weights = torch.ones(n)

    def one_pass() -> Iterator[Any]:
        nonlocal scored, weights
        if method.startswith("agreement"):
            by_loss = method == "agreement by loss"
            forward = (lambda model, batch: outputs(model(batch.x), batch)[0]) if by_loss else None
            scored += sampler.rescore(model, batches, forward=forward)
            yield from batches
            return
        ids = (~data.wrong).nonzero().flatten() if method == "true labels" else torch.arange(n)
        ids = ids[torch.randperm(len(ids), generator=generator)]
        if method == "infobatch":
            ids, weights = infobatch(last, spent / budget, generator)
        for some in ids.split(batch_size)[: len(ids) // batch_size]:
            yield Batch(data.x[some], data.y[some], some)

    def outputs(logits: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the sampler learns from: logits and labels, or numbers from the losses."""
        if method == "agreement":
            return logits, batch.y
        return (math.log(classes) - F.cross_entropy(logits, batch.y, reduction="none"),)

    def loss_of(logits: Tensor, batch: Batch) -> Tensor:
        if method == "gce":
            return gce_losses(logits, batch.y).mean()
        if method == "elr":
            return elr.losses(logits, batch.y, batch.ids).mean()
        if method == "infobatch":
            losses = F.cross_entropy(logits, batch.y, reduction="none")
            last[batch.ids] = losses.detach()
            return (losses * weights[batch.ids]).mean()
        smoothing = 0.0 if method == "uniform" else 0.3
        return F.cross_entropy(logits, batch.y, label_smoothing=smoothing)

    began = time.process_time()
    late, wrong = 1, torch.zeros((), dtype=torch.int64)
    while spent + 3 * batch_size <= budget:
        for batch in one_pass():
            spent = 3 * visits + scored
            if spent + 3 * batch_size > budget:
                break
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * spent / budget))
            logits = model(batch.x)
            optimizer.zero_grad()
            loss_of(logits, batch).backward()
            optimizer.step()
            visits, steps = visits + len(batch.ids), steps + 1
            if spent > 0.75 * budget:
                late, wrong = late + len(batch.ids), wrong + data.wrong[batch.ids].sum()
            if method.startswith("agreement"):
                sampler.update(batch.ids, *outputs(logits, batch))
        if sampler.step == sampler.steps:
            break
    seconds = time.process_time() - began
    with torch.no_grad():
        test = float((model(data.test_x).argmax(1) == data.test_y).float().mean())
    return {
        "test": round(test, 5),
        "visits": visits,
        "scored": scored,
        "steps": steps,
        "wrong_visits": round(int(wrong) / late, 4),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has the folder fashion-mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[900, 901, 902])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if options.out.exists():
        with options.out.open(newline="") as file:
            done = {tuple(row[name] for name in FIELDS[:5]) for row in csv.DictReader(file)}
    for setting in SETTINGS:
        for seed in options.seeds:
            data = load(setting, seed, options.data)
            for method in options.methods:
                name, noise, passes, lr = setting
                key = (name, f"{noise:g}", method, f"{seed}", f"{passes:g}")
                if key in done or (method == "true labels" and not noise):
                    continue
                found = train(method, data, passes, lr, seed)
                row = dict(zip(FIELDS, (*key, lr), strict=False)) | found
                row |= {"commit": commit, "torch": torch.__version__}
                new = not options.out.exists()
                with options.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
