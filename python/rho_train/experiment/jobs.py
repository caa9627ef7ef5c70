"""The pieces of work of an experiment; each leaves its result in the output folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, StackDataset, TensorDataset

from rho_train.data.corruption import Corruption
from rho_train.dataset import IndexedDataset
from rho_train.experiment.config import ExperimentConfig, Method, SelectorConfig
from rho_train.experiment.losses import compute_il, load_stored
from rho_train.experiment.minutes import steps_in
from rho_train.experiment.setting import Setting
from rho_train.files import atomic_write
from rho_train.history import History
from rho_train.il import ILStore
from rho_train.progress import OnStep
from rho_train.schedules import UniformPhases
from rho_train.selector import Selector
from rho_train.tasks.image_files import ImageFiles
from rho_train.trainer import TrainConfig, Trainer
from rho_train.trainer.evaluation import evaluate


def il_path(out: Path, config: ExperimentConfig, kind: str, seed: int) -> Path:
    """Return where the store of a kind and seed lies."""
    return out / "il" / f"{config.il_name(kind)}-seed{seed}.safetensors"


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Return the folder of the run of one method."""
    return out / "runs" / f"{name}-seed{seed}"


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
    path = il_path(out, config, kind, seed)
    work = path.with_suffix(".unfinished")
    setting = _setting(config, out, seed)
    if path.exists():
        ILStore.load(path, setting.dataset).check()
        on_step(il_steps(config, kind, len(setting.dataset)))
    else:
        compute_il(config, setting, kind, seed, work, on_step).save(path)
    shutil.rmtree(work, ignore_errors=True)


def train_steps(config: ExperimentConfig, out: Path, method: Method, seed: int) -> int:
    """Return the steps of a run; for those of `minutes` the runs that they follow must be done.

    Raises:
        ValueError, OSError: see `steps_in`.
    """
    own = config.of(method)
    if method.minutes is None:
        return own.train.steps
    of, pace = (run_folder(out, name, seed) for name in (method.minutes.of, method.minutes.pace))
    il = 0.0
    if method.computes_il:
        il = _seconds(ILStore.load(il_path(out, own, method.il, seed)))
    return steps_in(method.minutes, of, pace, run_folder(out, method.name, seed), il)


def train_job(
    experiment: ExperimentConfig,
    out: Path,
    method: Method,
    seed: int,
    where: Mapping[str, str | int],
    on_step: OnStep,
) -> None:
    """Train one method with one seed, going on from its checkpoint, and test it at the end.

    Beside metrics and checkpoint the folder of the run gets `origin.json`, on what it began, and
    `test.json`, what it came to.
    """
    config, folder = experiment.of(method), run_folder(out, method.name, seed)
    train = replace(config.train, steps=train_steps(experiment, out, method, seed))
    setting = _setting(config, out, seed)
    data = setting.data
    store, points = None, setting.points(method)
    kind = method.il if method.uses_il else "none"
    if kind == "stored":
        assert config.store is not None
        store = load_stored(config.store, config, setting)
        points = store.known.nonzero().flatten()
    elif kind != "none":
        store = ILStore.load(il_path(out, config, kind, seed), setting.dataset)
    if store is not None and method.keep < 1.0:
        points = store.lowest(method.keep, points)
    model = config.model.build(data, seed)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "origin.json").exists():
        sizes: dict[str, dict[str, float]] = {"model": {**config.model.size(data)}}
        if store is not None:
            sizes["il_model"] = {**config.il_target.size(data), **_loss(store)}
        atomic_write(folder / "origin.json", json.dumps({**where, **sizes}, indent=1))
    trainer = Trainer(
        model,
        setting.dataset,
        points,
        _eval_set(*setting.watched),
        train,
        folder,
        name=method.name,
        seed=seed,
        selector=_selector(method, config.selector, train, store, len(setting.dataset), seed),
        flags=setting.flags,
        il_seconds=0.0 if store is None or kind == "stored" else _seconds(store),
        classes=data.classes,
        show=None if data.train_texts is None else data.train_texts.__getitem__,
    )
    on_step(trainer.step)
    trainer.fit(on_step)
    if not (folder / "test.json").exists():
        found = evaluate(model, _eval_set(data.test_x, data.test_y), bf16=train.bf16)
        result = {"step": train.steps, **found._asdict()}
        atomic_write(folder / "test.json", json.dumps(result))


def _selector(
    method: Method,
    options: SelectorConfig,
    train: TrainConfig,
    store: ILStore | None,
    points: int,
    seed: int,
) -> Selector | None:
    """Make the Selector of a run, None for plain training."""
    if method.select == "uniform":
        return None
    scoring, phased = options.scoring, options.warmup > 0 or options.anneal > 0
    return Selector(
        il=store,
        k=train.batch,
        method=method.select,
        scoring=replace(scoring, bf16=train.bf16) if scoring.bf16 is None else scoring,
        phases=UniformPhases(train.steps, options.warmup, options.anneal) if phased else None,
        history=History(points),
        seed=seed,
    )


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


def _eval_set(x: Tensor | ImageFiles, y: Tensor) -> Dataset[Any]:
    if isinstance(x, Tensor):
        return TensorDataset(x, y)
    columns: Any = (x, y)
    return IndexedDataset(StackDataset(*columns), labels=y)


def _loss(store: ILStore) -> dict[str, float]:
    """The mean `loss` of the IL models on what they score; a converted store has none."""
    # One value a model; seeds that were averaged are separated by another sign.
    losses = re.findall(r"[^;, ]+", store.info.get("holdout_loss", ""))
    return {"loss": fmean(map(float, losses))} if losses else {}


def _seconds(store: ILStore) -> float:
    return float(store.info["seconds"])
