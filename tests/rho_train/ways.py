"""Every way to train, on a small model: each method, and what can be added to one.

A program finds this module beside itself, so it imports nothing of the tests.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from rho_train import IndexedDataset, OnlineModel, Selector, TrainConfig, Trainer
from rho_train.files import read_lines
from rho_train.methods import ScoringContext, Selected
from rho_train.methods.registry import find, names
from rho_train.scoring import Scoring

N = 200
CONFIG = TrainConfig(
    steps=30, large_batch=32, batch=8, eval_every=10, log_every=7, checkpoint_every=11
)


def fewer(step: int) -> float:
    """Return a ratio that falls from 0.25 to 0.1 in four stages."""
    done = min(step * 4 // 30, 3) / 3
    return 0.25 * (1.0 - done) + 0.1 * done


def by_chance(context: ScoringContext) -> Selected:
    """Select the highest excess loss after noise, as a method of a user that draws."""
    noise = torch.rand(len(context.ids), generator=context.generator)
    return context.select("rho", noise.to(context.ids.device))


by_chance.needs = ("il",)  # type: ignore[attr-defined]


class Rarest:
    """Select of each class what has been selected least, as a method of a user that learns."""

    def __init__(self) -> None:
        self.counts = torch.zeros(3)

    def __call__(self, context: ScoringContext) -> Selected:
        return context.select("loss", -self.counts[context.labels])

    def update(self, context: ScoringContext, selected: Selected) -> None:
        self.counts += context.labels[selected.indices].bincount(minlength=3)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = state["counts"]


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "online il": lambda: {"il": OnlineModel(small_model(2), lr=0.01)},
    "online scorer": lambda: {"scorer": OnlineModel(small_model(2), lr=0.01), "method": "loss"},
    "proxy": lambda: {"scorer": small_model(2)},
    "learning": lambda: {"method": Rarest()},
    "phases": lambda: {"phases": lambda step: not 8 <= step < 21, "method": "loss"},
    "micro-batches": lambda: {"scoring": Scoring(micro_batch=5)},
    "train mode": lambda: {"scoring": Scoring(train_mode=True)},
    "by chance": lambda: {"method": by_chance},
    "fewer": lambda: {"k": None, "ratio": fewer},
}
# Other tests register methods of their own.
METHODS = tuple(name for name in names() if find(name).__module__.startswith("rho_train."))
WAYS = ("plain", "agreement", *METHODS, *PARTS)
# All resume after a stop; kills cut what they have in common, at each kind of moment.
KILLED = ("plain", "loss", "entropy", "online il", "learning", "train mode")


def small_model(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Dropout makes a lost random state visible, BatchNorm a lost buffer.
        return nn.Sequential(
            nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
        )


def make_trainer(
    folder: Path, way: str = "rho", config: TrainConfig = CONFIG, **options: Any
) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 5, generator=generator)
    y = torch.randint(0, 3, (N,), generator=generator)
    selector = None
    if way not in ("plain", "agreement"):
        il = torch.rand(N, generator=generator)
        chosen = {"il": il, "k": config.batch, "seed": 5}
        chosen |= PARTS[way]() if way in PARTS else {"method": way}
        selector = Selector(**chosen)
    defaults: dict[str, Any] = {
        "model": small_model(1),
        "dataset": IndexedDataset(TensorDataset(x, y)),
        # By agreement a few examples, so that a run has passes that leave some out.
        "train_ids": torch.arange(140, N) if way == "agreement" else torch.arange(N),
        "agreement": way == "agreement",
        "name": way,
        "seed": 3,
        "flags": {"noisy": y == 0},
        "selector": selector,
        "eval_set": TensorDataset(x[:50], y[:50]),
    }
    return Trainer(config=config, folder=folder, **{**defaults, **options})


def records(folder: Path) -> list[dict[str, Any]]:
    """Read the metrics without the clock."""
    return [_plain(one) for one in read_lines(folder / "metrics.jsonl")]


def ending(folder: Path) -> dict[str, Any]:
    """Read all that a run left, without the clock; tensors as their SHA-256."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    metrics = (folder / "metrics.jsonl").read_bytes()
    first = state["of_ranks"][0]
    found = first.pop("metrics_size"), first.pop("metrics_crc32")
    assert found == (len(metrics), zlib.crc32(metrics))
    return {**_plain(state), "records": records(folder)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not str(k).endswith("seconds")}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        content = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        return f"{value.dtype} {tuple(value.shape)} {content}"
    return value
