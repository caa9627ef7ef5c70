"""Recipes for the tables of the paper, on sets that are not available here."""

from __future__ import annotations

from typing import Any

from experiments import variants
from experiments.suite import Suite


def cifar_like(name: str, epochs: str, options: dict[str, Any]) -> Suite:
    """Return the recipe of CIFAR-10, CIFAR-100 or CINIC-10: 150 epochs, with and without noise.

    The residual net is smaller than a ResNet-18, and augmentation is not part of it.
    """
    return Suite(
        title=f"Recipe: {name}, tables 2 and 3 of the paper",
        question=epochs,
        status=f"It needs the files of {name} and hours on a GPU.",
        methods=[
            variants.UNIFORM_HALF,
            variants.RHO_HOLDOUT,
            variants.TRAIN_LOSS,
            variants.GRAD_NORM,
            variants.IMPORTANCE,
            variants.NEG_IL,
            variants.UNIFORM_HALF_DECAY,
            variants.RHO_HOLDOUT_DECAY,
            variants.HALF_COST_WITH_IL,
            variants.HALF_COST,
            variants.UNIFORM_ALL,
            variants.UNIFORM_ALL_DECAY,
            variants.RHO_CROSSFIT,
        ],
        baseline="uniform_half",
        options={
            "seeds": [0, 1, 2, 3, 4],
            "validation": 0.02,
            "task.model": {"name": "resnet", "widths": [64, 128, 256, 512]},
            "task.il_model": {"name": "cnn"},
            "il.epochs": 100,
            "il.lr": 0.001,
            "il.schedule": "constant",
            "il.weight_decay": 0.01,
            "train.lr": 0.001,
            "train.weight_decay": 0.01,
            **options,
        },
        vary={"noise": {"clean": {}, "10 % noise": {"task.noise": 0.1}}},
        ours=["rho_holdout"],
        against=["half_cost_with_il", "uniform_all_decay"],
        columns=["noisy", "correct"],
        figures=["curves"],
    )
