"""Learning rates, selected alike for all methods."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="The learning rate, selected alike for all",
    question="The same grid and the same number of trials for uniform sampling and for "
    "RHO-LOSS, constant and decayed, on the validation split. Other suites take the best rate "
    "of their set and noise from here.",
    methods=[
        entry
        for kind in (
            variants.UNIFORM_ALL,
            variants.UNIFORM_ALL_DECAY,
            variants.RHO_CROSSFIT,
            variants.RHO_CROSSFIT_DECAY,
        )
        for entry in variants.grid(kind, train__lr=[0.001, 0.003, 0.01, 0.03])
    ],
    baseline="uniform_all_decay-lr-0.001",
    # Other seeds than those of the suites.
    options={
        "seeds": [100, 101, 102, 103, 104],
        "validation": 0.1,
        "train.steps": 1000,
        "train.eval_every": 1000,
    },
    vary={
        "set": set_options.FIVE,
        "noise": {**set_options.CLEAN, **set_options.NOISE_20, **set_options.NOISE_40},
    },
    quick={"seeds": [100, 101, 102], "noise": ["as it is", "40 % noise"]},
    tune="validation",
)
