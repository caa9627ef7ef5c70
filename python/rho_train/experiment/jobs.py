"""The pieces of work of an experiment; each leaves its result in the output folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from rho_train.data import Corruption
from rho_train.experiment.config import ExperimentConfig, Method
from rho_train.experiment.losses import compute_il, load_stored
from rho_train.experiment.setting import Setting
from rho_train.il import ILStore
from rho_train.models import build_model
from rho_train.progress import OnStep
from rho_train.selection import History, Scoring, Selector
from rho_train.training import Trainer


def il_path(out: Path, kind: str, seed: int) -> Path:
    """Return where the store of a kind and seed lies."""
    return out / "il" / f"{kind}-seed{seed}.safetensors"


def run_folder(out: Path, method: Method, seed: int) -> Path:
    """Return the folder of one run."""
    return out / "runs" / f"{method.name}-seed{seed}"


def corruption_path(out: Path, seed: int) -> Path:
    """Return where lies what is wrong with the data of a seed, point by point."""
    return out / "corruption" / f"seed{seed}.safetensors"


def il_steps(config: ExperimentConfig, kind: str, n: int) -> int:
    """Return the training steps that a kind of irreducible loss takes for n training points."""
    if kind == "holdout":
        return config.il.steps(round(config.holdout * n))
    sizes = [n - len(range(fold, n, config.folds)) for fold in range(config.folds)]
    return sum(config.il.steps(size) for size in sizes)


def il_job(config: ExperimentConfig, out: Path, kind: str, seed: int, on_step: OnStep) -> None:
    """Compute the irreducible losses of one kind and seed, unless the store is there already."""
    path = il_path(out, kind, seed)
    work = path.with_suffix(".unfinished")
    setting = _setting(config, out, seed)
    if path.exists():
        ILStore.load(path, setting.dataset).check()
        on_step(il_steps(config, kind, len(setting.dataset)))
    else:
        compute_il(config, setting, kind, seed, work, on_step).save(path)
    shutil.rmtree(work, ignore_errors=True)


def train_job(
    config: ExperimentConfig, out: Path, method: Method, seed: int, on_step: OnStep
) -> None:
    """Train one method with one seed, going on from its checkpoint."""
    setting = _setting(config, out, seed)
    data = setting.data
    selector, il_seconds, points = None, 0.0, setting.points(method)
    if method.select != "uniform":
        store = None
        if method.il == "stored":
            assert config.store is not None
            store = load_stored(config.store, config, setting)
            points = store.known.nonzero().flatten()
        elif method.il != "none":
            store = ILStore.load(il_path(out, method.il, seed), setting.dataset)
            il_seconds = float(store.info["seconds"])
        selector = Selector(
            il=store,
            k=config.train.batch,
            method=method.select,
            scoring=Scoring(bf16=config.train.bf16),
            seed=seed,
            history=History(len(setting.dataset)),
        )
    model = build_model("mlp", data, config.hidden, seed=seed, dropout=config.dropout)
    trainer = Trainer(
        model,
        setting.dataset,
        points,
        data.test_x,
        data.test_y,
        config.train,
        run_folder(out, method, seed),
        name=method.name,
        seed=seed,
        selector=selector,
        flags=setting.flags,
        il_seconds=il_seconds,
        classes=data.classes,
        show=None if data.train_texts is None else data.train_texts.__getitem__,
    )
    on_step(trainer.step)
    trainer.fit(on_step)


def _setting(config: ExperimentConfig, out: Path, seed: int) -> Setting:
    """Make the setting of a seed and keep its corruption, or compare with the one that is there."""
    setting = Setting.make(config, seed)
    path = corruption_path(out, seed)
    if path.exists():
        Corruption.load(path, setting.dataset)
    elif setting.corruption.flags.names:
        path.parent.mkdir(parents=True, exist_ok=True)
        setting.corruption.save(path)
    return setting
