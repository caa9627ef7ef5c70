"""The size of the large batch."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="How large a large batch",
    question="Every step trains on 32 examples, selected from a large batch of 64 to 640: 50 % "
    "to 5 % of it. Which size pays?",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        *variants.grid(variants.RHO_CROSSFIT, train__large_batch=[64, 96, 160, 213, 320, 640]),
        *variants.grid(
            variants.RHO_CROSSFIT_DECAY, train__large_batch=[64, 96, 160, 213, 320, 640]
        ),
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.1,
        "train.steps": 1000,
        "train.eval_every": 25,
    },
    vary={"set": set_options.THREE, "noise": {**set_options.CLEAN, **set_options.NOISE_40}},
    quick={
        "methods": [
            variants.UNIFORM_ALL,
            variants.UNIFORM_ALL_DECAY,
            *variants.grid(variants.RHO_CROSSFIT_DECAY, train__large_batch=[64, 96, 160, 320, 640]),
        ],
        "set": ["Letters", "OCR letters"],
        "noise": ["40 % noise"],
    },
    rates=("tune", "{set}, {noise}"),
    columns=["seconds", "noisy"],
    figures=["factors"],
)
