"""Recipes of IL models."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="Recipes of IL models",
    question="Which learning rate, constant or decaying to zero, and how many epochs give the "
    "lowest loss on examples that the model did not train on? `sets.py` has a recipe near the "
    "lowest for each set.",
    methods=variants.grid(
        variants.RHO_CROSSFIT,
        il__schedule=["constant", "cosine"],
        il__epochs=[3, 6, 12, 24],
        il__lr=[0.001, 0.003, 0.01],
    ),
    baseline="rho_crossfit-schedule-constant-epochs-3-lr-0.001",
    # Other seeds than those of the suites. The target does not matter.
    options={
        "seeds": [100, 101, 102, 103, 104],
        "validation": 0.1,
        "train.steps": 1,
        "train.eval_every": 1,
    },
    vary={"set": set_options.FIVE, "noise": {**set_options.CLEAN, **set_options.NOISE_20}},
    quick={
        "seeds": [100],
        "set": ["Letters", "OCR letters", "Tweets"],
        "noise": ["20 % noise"],
    },
    tune="il_loss",
)
