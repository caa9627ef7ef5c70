"""RHO-LOSS without a holdout, every method at the learning rate that suits it."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="Without a holdout, each at its best learning rate",
    question="The README quotes this suite. Every method has the learning rate that `tune` "
    "selected for its kind on this set and noise, on other seeds. The large batch has 96 "
    "examples for a small batch of 32.",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        variants.ALL_COST_WITH_IL,
        variants.ALL_COST,
        variants.FILTER_60_DECAY,
        variants.FILTER_90_DECAY,
        variants.FILTER_60_COST,
        variants.FILTER_90_COST,
        variants.RHO_CROSSFIT,
        variants.RHO_CROSSFIT_DECAY,
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.1,
        "train.steps": 1000,
        "train.eval_every": 25,
        "train.large_batch": 96,
    },
    vary={
        "set": set_options.FIVE,
        "noise": {**set_options.CLEAN, **set_options.NOISE_20, **set_options.NOISE_40},
    },
    quick={"noise": ["as it is", "40 % noise"]},
    rates=("tune", "{set}, {noise}"),
    ours=["rho_crossfit_decay"],
    against=[
        "all_cost_with_il",
        "all_cost",
        "filter_60_cost",
        "filter_90_cost",
    ],
    columns=["seconds"],
    figures=["curves"],
    curves=[
        "uniform_all",
        "uniform_all_decay",
        "rho_crossfit",
        "rho_crossfit_decay",
        "all_cost_with_il",
    ],
)
