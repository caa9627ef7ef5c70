"""A stand-in for data scraped from the web."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="A stand-in for data scraped from the web",
    question="Half of the examples occur ten times, 40 % of the labels are wrong, four in five "
    "classes are rare. The paper saw a factor of 18 in steps on such data (Clothing-1M).",
    # The copies of an example lie on one side of every split.
    methods=[
        variants.UNIFORM_HALF,
        variants.UNIFORM_HALF_DECAY,
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        variants.ALL_COST_WITH_IL,
        variants.ALL_COST,
        variants.RHO_HOLDOUT,
        variants.RHO_HOLDOUT_DECAY,
        variants.RHO_CROSSFIT,
        variants.RHO_CROSSFIT_DECAY,
        variants.TRAIN_LOSS,
    ],
    baseline="uniform_all_decay",
    options={
        **set_options.SCRAPED,
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.1,
        "train.steps": 1500,
        "train.eval_every": 50,
        "train.large_batch": 96,
    },
    vary={"set": set_options.THREE},
    quick={"set": ["Letters", "OCR letters"]},
    rates=("tune_targets", "{set}, scraped"),
    ours=["rho_crossfit_decay"],
    against=["all_cost_with_il"],
    columns=["noisy", "less_relevant", "redundant"],
)
