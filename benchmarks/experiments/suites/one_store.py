"""One small IL model for several targets."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="One small IL model for several targets",
    question="Do the IL of one small model serve targets of other kinds, so that their cost is "
    "paid once?",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        variants.RHO_CROSSFIT,
        variants.RHO_CROSSFIT_DECAY,
        variants.ALL_COST_WITH_IL,
        variants.ALL_COST,
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.05,
        "train.steps": 1000,
        "train.eval_every": 25,
        "train.large_batch": 96,
    },
    vary={"target": set_options.TARGETS},
    quick={
        "target": [
            "OCR letters, MLP",
            "OCR letters, CNN",
            "OCR letters, residual net",
            "Tweets, transformer",
        ]
    },
    rates=("tune_targets", "{target}"),
    ours=["rho_crossfit_decay"],
    against=["all_cost_with_il", "all_cost"],
    columns=["seconds"],
)
