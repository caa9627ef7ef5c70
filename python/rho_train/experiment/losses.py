"""The irreducible losses of an experiment, or of one command for many runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rho_train.experiment.config import ExperimentConfig
from rho_train.experiment.setting import Setting
from rho_train.il import ILShards, ILStore, average_il, crossfit_il, holdout_il
from rho_train.progress import OnStep


def compute_il(
    config: ExperimentConfig, setting: Setting, kind: str, seed: int, work: Path, on_step: OnStep
) -> ILStore:
    """Compute the irreducible losses of a setting, going on from what lies in the folder `work`.

    The IL models take their weights and order from `seed`.
    """
    make_model = partial(config.il_target.build, setting.data)
    # The target has the seed itself: its IL model must not start from the same weights.
    recipe = replace(config.il, seed=config.il.seed + 1000 * (seed + 1))
    dataset = setting.dataset
    if kind == "holdout":
        return holdout_il(
            make_model, dataset, setting.held_out, recipe, folder=work, on_step=on_step
        )
    # A model must not have seen a copy of what it scores.
    copies = setting.corruption.source
    return crossfit_il(
        make_model, dataset, config.folds, recipe, groups=copies, folder=work, on_step=on_step
    )


def identity(config: ExperimentConfig, kind: str, seeds: int) -> dict[str, Any]:
    """Return what determines the irreducible losses, as plain values."""
    chosen = {"holdout": config.holdout} if kind == "holdout" else {"folds": config.folds}
    return {
        "kind": kind,
        **chosen,
        "data": config.data.identity(),
        "seed": config.seeds[0],
        "seeds": seeds,
        "model": config.il_target.as_dict(),
        "recipe": asdict(config.il),
    }


def compute_stored(
    config: ExperimentConfig, kind: str, seeds: int, work: Path, on_step: OnStep
) -> ILStore:
    """Compute the irreducible losses of the first seed's data, averaged over `seeds` IL models.

    `work` keeps what is done so far; the store says in its info what it was made from.
    """
    setting = Setting.make(config, config.seeds[0])
    store = average_il(
        [
            compute_il(config, setting, kind, config.seeds[0] + i, work / f"seed-{i}", on_step)
            for i in range(seeds)
        ]
    )
    info = {**store.info, "config": json.dumps(identity(config, kind, seeds))}
    return replace(store, info=info)


def check_config(store: ILStore, wanted: dict[str, Any]) -> None:
    """Compare what a store was made from with what is wanted; a store without it passes.

    Raises:
        ValueError: they differ; the message says in what.
    """
    found = _flat(json.loads(store.info.get("config", "{}")))
    differing = [
        f"{key}: store has {found[key]}, wanted {value}"
        for key, value in _flat(wanted).items()
        # The content of a file counts, not its name.
        if key in found and key != "data.path" and found[key] != value
    ]
    if differing:
        raise ValueError(
            "the store was made from something else (" + "; ".join(differing) + "); recompute it, "
            "or give another file"
        )


def open_store(path: Path) -> ILStore:
    """Open a file, mapped, or a folder of shards, whose values are checked and joined in memory.

    Raises:
        FileNotFoundError, ValueError: see `ILStore.load` and `ILShards.load`.
    """
    if not path.is_dir():
        return ILStore.load(path)
    shards = ILShards.load(path)
    shards.check()
    return shards.join()


def load_stored(path: Path, config: ExperimentConfig, setting: Setting) -> ILStore:
    """Load a store for these data.

    Raises:
        FileNotFoundError, ValueError: see `ILStore.load`; or the table that it was computed from
            had other features.
    """
    store = open_store(path)
    try:
        store.verify(setting.dataset)
        check_config(store, {"data": {"sha256": config.data.identity()["sha256"]}})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return store


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
