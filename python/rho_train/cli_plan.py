"""The command `rho-ext plan`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from rho_train.dataset import IndexedDataset
from rho_train.experiment import DataConfig
from rho_train.models import build_model
from rho_train.optim import adamw
from rho_train.planning import RATIOS
from rho_train.planning import plan as measure
from rho_train.scoring import ForwardFunction
from rho_train.trainer import TrainConfig


def plan(
    task: str = "",
    hidden: tuple[int, ...] = (256, 256),
    proxy: tuple[int, ...] = (),
    ratios: tuple[int, ...] = RATIOS,
    il_seconds: float = 0.0,
    seconds: float = 8.0,
    json: bool = False,
    data: DataConfig = DataConfig(),  # noqa: B008 (frozen)
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Measure what a step with selection costs here, and how many steps it must save to pay.

    Args:
        task: package.module:function that returns your (model, dataset) or (model, dataset,
            forward); empty: the MLP of `rho-ext train`.
        hidden: widths of the hidden layers of the MLP.
        proxy: widths of the hidden layers of an MLP that could score in its place; empty: none.
        ratios: sizes of the large batch, in times train.batch.
        il_seconds: what the irreducible losses cost, charged over train.steps.
        seconds: how long to measure, compiling not counted.
        json: print everything as JSON.
        data: what to train on, without a task.
        train: how; large_batch is not used.
    """
    small: nn.Module | None = None
    forward: ForwardFunction | None = None
    if task:
        if proxy:
            raise ValueError("--proxy is an MLP for the data of --data; leave it out with --task")
        model, dataset, forward = _load_task(task)
    else:
        loaded = data.load()
        dataset = loaded.dataset()
        model = build_model("mlp", loaded, hidden, seed=0)
        small = build_model("mlp", loaded, proxy, seed=0) if proxy else None
    found = measure(
        model,
        dataset,
        batch=train.batch,
        ratios=ratios,
        proxy=small,
        forward=forward,
        optimizer=lambda module: adamw(module, train.lr, train.weight_decay),
        bf16=train.bf16,
        workers=train.workers,
        il_seconds=il_seconds,
        steps=train.steps,
        seconds=seconds,
    )
    print(found.to_json() if json else found)


def _load_task(task: str) -> tuple[nn.Module, IndexedDataset, ForwardFunction | None]:
    module_name, _, name = task.partition(":")
    if not module_name or not name:
        raise ValueError(f"--task must be package.module:function, got {task!r}")
    # A console command does not look into the folder that it is called in.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Any = getattr(importlib.import_module(module_name), name, None)
    except ImportError as error:
        raise ValueError(f"--task {task}: {error}") from error
    if not callable(function):
        raise ValueError(f"--task {task}: {module_name} has no function {name!r}")
    made = function()
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        kinds = [type(part).__name__ for part in made] if isinstance(made, tuple) else made
        raise ValueError(
            f"--task {task} must return (model, dataset) or (model, dataset, forward), got {kinds}"
        )
    model, dataset, *forward = made
    if not isinstance(dataset, IndexedDataset):
        dataset = IndexedDataset(dataset)
    return model, dataset, forward[0] if forward else None
