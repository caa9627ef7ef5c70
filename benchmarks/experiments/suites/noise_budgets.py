"""Every method on every set, clean and noisy, at three budgets."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="Every method, on each set, clean and noisy, at three budgets",
    question="Which method of selection ends highest? How much of its lead is left against a "
    "decayed learning rate that is given the same cost?",
    methods=[
        variants.UNIFORM_HALF,
        variants.UNIFORM_ALL,
        variants.UNIFORM_HALF_DECAY,
        variants.UNIFORM_ALL_DECAY,
        variants.HALF_COST_WITH_IL,
        variants.HALF_COST,
        variants.ALL_COST_WITH_IL,
        variants.ALL_COST,
        variants.RHO_HOLDOUT,
        variants.RHO_HOLDOUT_DECAY,
        variants.RHO_CROSSFIT,
        variants.RHO_CROSSFIT_DECAY,
        variants.TRAIN_LOSS,
        variants.GRAD_NORM,
        variants.ENTROPY,
        variants.IMPORTANCE,
        variants.BOLTZMANN,
        variants.SELECTIVE_BACKPROP,
        variants.NEG_IL,
        variants.CLASS_QUOTA,
        variants.REDUCR,
    ],
    baseline="uniform_all_decay",
    options={"seeds": [0, 1, 2, 3, 4], "validation": 0.1},
    vary={
        "set": set_options.FIVE,
        "noise": {
            **set_options.CLEAN,
            "10 % noise": {"task.noise": 0.1, "rates": "{set}, 20 % noise"},
            **set_options.NOISE_20,
            **set_options.NOISE_40,
        },
        "budget": {
            "300 steps": {"train.steps": 300, "train.eval_every": 15},
            "1,000 steps": {"train.steps": 1000, "train.eval_every": 25},
            "5,000 steps": {"train.steps": 5000, "train.eval_every": 125},
        },
    },
    quick={
        "set": ["OCR letters"],
        "noise": ["as it is", "40 % noise"],
        "budget": ["300 steps", "1,000 steps"],
    },
    rates=("tune", "{set}, {noise}"),
    ours=["rho_crossfit_decay"],
    against=["all_cost_with_il", "all_cost", "uniform_half"],
    columns=["noisy"],
)
