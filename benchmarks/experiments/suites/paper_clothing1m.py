"""Clothing-1M, table 2 of the paper."""

from experiments import variants
from experiments.suite import Suite

SUITE = Suite(
    title="Recipe: Clothing-1M, table 2 of the paper",
    question="Epochs to 60 % and 69 %. The paper has 2 and 30 for uniform sampling, 1 and 2 for "
    "RHO-LOSS; 18 times fewer steps over five architectures.",
    status="It needs the files of Clothing-1M and days on a GPU.",
    methods=[
        variants.UNIFORM_HALF,
        variants.RHO_HOLDOUT,
        variants.TRAIN_LOSS,
        variants.UNIFORM_HALF_DECAY,
        variants.RHO_HOLDOUT_DECAY,
        variants.HALF_COST_WITH_IL,
        variants.HALF_COST,
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
    ],
    baseline="uniform_half",
    # The paper has a pretrained ResNet-50 and a ResNet-18 for the IL; here both start from scratch.
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.01,
        "holdout": 0.1,
        "task.name": "clothing1m",
        "task.size": 224,
        "task.model": {"name": "resnet", "widths": [64, 128, 256, 512]},
        "task.il_model": {"name": "resnet", "widths": [16, 32, 64]},
        "il.epochs": 10,
        "il.lr": 0.001,
        "il.schedule": "constant",
        "il.weight_decay": 0.01,
        "train.steps": 99570,
        "train.large_batch": 320,
        "train.batch": 32,
        "train.lr": 0.001,
        "train.weight_decay": 0.01,
        "train.eval_every": 664,
        "train.workers": 12,
    },
    ours=["rho_holdout"],
    against=["half_cost_with_il"],
    columns=["correct"],
    figures=["curves"],
)
