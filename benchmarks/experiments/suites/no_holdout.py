"""RHO-LOSS without a holdout, at the learning rate of the paper."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="Without a holdout, at the learning rate of the paper",
    question="Cross-fit IL cost no data. Does RHO-LOSS with them beat uniform sampling of all "
    "data, everything at the paper's learning rate of 0.001?",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        variants.ALL_COST_WITH_IL,
        variants.ALL_COST,
        variants.RHO_CROSSFIT,
        variants.RHO_CROSSFIT_DECAY,
    ],
    baseline="uniform_all_decay",
    options={"seeds": [0, 1, 2, 3, 4], "validation": 0.1},
    vary={
        "set": set_options.FIVE,
        "noise": {**set_options.CLEAN, "10 % noise": {"task.noise": 0.1}},
        "budget": {
            "1,000 steps": {"train.steps": 1000, "train.eval_every": 25},
            "4,000 steps": {"train.steps": 4000, "train.eval_every": 100},
        },
    },
    quick={
        "set": ["Letters", "OCR letters", "Tweets"],
        "noise": ["as it is"],
        "budget": ["1,000 steps"],
    },
    ours=["rho_crossfit_decay"],
    against=["all_cost_with_il", "all_cost"],
    columns=["seconds"],
)
