"""A filter by IL, used once."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="A filter in place of a selection, and before it",
    question="IL can also be used once: train on the examples with the lowest IL, sampled "
    "uniformly. Then no step costs more. Does a selection at every step do better at "
    "equal cost, or after the filter?",
    methods=[
        variants.UNIFORM_ALL_DECAY,
        variants.FILTER_60_COST,
        variants.FILTER_75_COST,
        variants.FILTER_90_COST,
        variants.RHO_CROSSFIT_DECAY,
        variants.RHO_60_DECAY,
        variants.RHO_75_DECAY,
        variants.RHO_90_DECAY,
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
    quick={
        "set": ["Letters", "Fashion-MNIST", "OCR letters", "Tweets"],
        "noise": ["as it is", "40 % noise"],
    },
    rates=("tune", "{set}, {noise}"),
    ours=["rho_90_decay"],
    against=["rho_crossfit_decay", "filter_60_cost", "filter_90_cost"],
    columns=["noisy"],
)
