"""Estimate the share of wrong labels as `rho-ext plan` does, where it is known.

python benchmarks/experiments/estimate.py --data DATA

Each row is an estimate from 4,000 examples, and the share that is wrong. The threshold of
`rho_train.recommendation` lies between right labels and those of which a fifth is drawn anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch.utils.data import TensorDataset

sys.path.insert(0, f"{Path(__file__).parents[1]}")

from common import Row, Runs, parse, provenance
from experiments.lanes import HIDDEN, Data
from experiments.rival_sets import Setting, load
from rho_train import IndexedDataset
from rho_train.recommendation import estimate_wrong
from rho_train.tasks import mlp

OUT = Path(__file__).parent / "results" / "estimate" / "runs.csv"
COLUMNS = ("command", "set", "noise", "seed", "lr", "estimate", "wrong")
SETTINGS = [(name, noise) for name in ("letters", "ocr", "fashion") for noise in ("0", "20", "40")]


def estimate(data: Data, seed: int, lr: float) -> Row:
    """Return the estimate of a model with that seed and rate, and the truth."""
    model = mlp(data.x.shape[1], list(HIDDEN), int(data.test_y.max()) + 1, seed=seed)
    examples = IndexedDataset(TensorDataset(data.x, data.y[0]))
    found = estimate_wrong(model, examples, batch=32, lr=lr, steps=10**6)
    said = "" if found is None else f"{found:.3f}"
    return {"estimate": said, "wrong": f"{float(data.wrong.float().mean()):.3f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default="data", help="has the folders of the sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.001, 0.003, 0.01])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parse(parser, seeds=[1000], lr=[0.003])
    runs = Runs(options.out, {**provenance("estimate", options), "command": "estimate.py"}, COLUMNS)
    for name, noise in (*SETTINGS, ("tweets", "natural")):
        for seed in options.seeds:
            data = load(Setting(name, noise), (seed,), options.data)
            for lr in options.lr:
                key = {"set": name, "noise": noise, "seed": seed, "lr": lr}
                runs.row(key, lambda data=data, seed=seed, lr=lr: estimate(data, seed, lr))


if __name__ == "__main__":
    main()
