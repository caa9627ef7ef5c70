"""The pieces of work of an experiment; each leaves its result in the output folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train.data import ClassificationData, IndexedDataset, generator, uniform_label_noise
from rho_train.experiment.config import ExperimentConfig, Method
from rho_train.il import ILStore, crossfit_il, holdout_il
from rho_train.models import mlp
from rho_train.progress import OnStep
from rho_train.selection import Selector
from rho_train.training import Trainer


@dataclass(frozen=True, eq=False)
class Setting:
    """What all methods share under one seed: noisy labels and the split."""

    data: ClassificationData
    dataset: IndexedDataset
    noisy: Tensor
    held_out: Tensor
    rest: Tensor

    @classmethod
    def make(cls, config: ExperimentConfig, seed: int) -> Setting:
        """Draw noise and split from `seed`."""
        data = config.data.load()
        labels, noisy = uniform_label_noise(
            data.train_y, config.data.noise, data.num_classes, seed=seed
        )
        n = len(labels)
        order = torch.randperm(n, generator=generator(seed, "holdout"))
        count = round(config.holdout * n)
        dataset = IndexedDataset(TensorDataset(data.train_x, labels))
        return cls(data, dataset, noisy, order[:count].sort().values, order[count:].sort().values)

    def points(self, method: Method) -> Tensor:
        """Return the ids that a method trains on."""
        return torch.arange(len(self.dataset)) if method.points == "all" else self.rest


def il_path(out: Path, kind: str, seed: int) -> Path:
    """Return where the store of a kind and seed lies."""
    return out / "il" / f"{kind}-seed{seed}.safetensors"


def run_folder(out: Path, method: Method, seed: int) -> Path:
    """Return the folder of one run."""
    return out / "runs" / f"{method.name}-seed{seed}"


def il_steps(config: ExperimentConfig, kind: str, n: int) -> int:
    """Return the training steps that a kind of irreducible loss takes for n training points."""
    if kind == "holdout":
        return config.il.steps(round(config.holdout * n))
    sizes = [n - len(range(fold, n, config.folds)) for fold in range(config.folds)]
    return sum(config.il.steps(size) for size in sizes)


def il_job(config: ExperimentConfig, out: Path, kind: str, seed: int, on_step: OnStep) -> None:
    """Compute the irreducible losses of one kind and seed, unless the store is there already."""
    path = il_path(out, kind, seed)
    setting = Setting.make(config, seed)
    if path.exists():
        ILStore.load(path, setting.dataset)
        on_step(il_steps(config, kind, len(setting.dataset)))
        return
    path.parent.mkdir(parents=True, exist_ok=True)

    def make_model(model_seed: int) -> nn.Module:
        features = setting.data.train_x.shape[1]
        return mlp(features, config.hidden, setting.data.num_classes, seed=model_seed)

    # The target has the seed itself: its IL model must not start from the same weights.
    recipe = dataclasses.replace(config.il, seed=config.il.seed + 1000 * (seed + 1))
    if kind == "holdout":
        store = holdout_il(make_model, setting.dataset, setting.held_out, recipe, on_step=on_step)
    else:
        store = crossfit_il(make_model, setting.dataset, config.folds, recipe, on_step=on_step)
    store.save(path)


def train_job(
    config: ExperimentConfig, out: Path, method: Method, seed: int, on_step: OnStep
) -> None:
    """Train one method with one seed, going on from its checkpoint."""
    setting = Setting.make(config, seed)
    data = setting.data
    selector, il_seconds = None, 0.0
    if method.select != "uniform":
        store = None
        if method.il != "none":
            store = ILStore.load(il_path(out, method.il, seed), setting.dataset)
            il_seconds = float(store.info["seconds"])
        selector = Selector(
            il=store,
            k=config.train.batch,
            method=method.select,
            bf16=config.train.bf16,
            seed=seed,
        )
    model = mlp(data.train_x.shape[1], config.hidden, data.num_classes, seed=seed)
    trainer = Trainer(
        model,
        setting.dataset,
        setting.points(method),
        data.test_x,
        data.test_y,
        config.train,
        run_folder(out, method, seed),
        name=method.name,
        seed=seed,
        selector=selector,
        noisy=setting.noisy if config.data.noise > 0 else None,
        il_seconds=il_seconds,
    )
    on_step(trainer.step)
    trainer.fit(on_step)
