"""The accuracy of the worst class."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="The worst class",
    question="Selection follows the loss, not the class. Others saw the worst class fall below "
    "uniform sampling (REDUCR, NeurIPS 2024, on Clothing-1M). Does it here, and do class "
    "quotas or REDUCR help?",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        variants.RHO_CROSSFIT,
        variants.RHO_CROSSFIT_DECAY,
        variants.CLASS_QUOTA,
        variants.REDUCR,
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.1,
        "train.steps": 1000,
        "train.eval_every": 50,
    },
    vary={
        "set": {
            name: set_options.FIVE[name]
            for name in ("Letters", "Fashion-MNIST", "OCR letters", "Tweets")
        },
        "noise": {**set_options.CLEAN, **set_options.NOISE_40},
    },
    quick={"set": ["Letters", "OCR letters"], "noise": ["as it is"]},
    rates=("tune", "{set}, {noise}"),
    columns=["worst_class"],
)
