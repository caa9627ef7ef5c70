"""A large target, and the options of its scoring, in minutes."""

from experiments import set_options, variants
from experiments.suite import Suite

_SIZES = variants.grid(
    variants.changed(variants.RHO_CROSSFIT_DECAY, "rho", "RHO-LOSS, decayed"),
    train__large_batch=[64, 96, 160, 320],
)
SUITE = Suite(
    title="Minutes",
    question="The target costs many times the IL model. How much sooner does it reach the end "
    "of uniform sampling, in seconds, with large batches of 64 to 320 examples for a small "
    "batch of 32, and with each option of the scoring?",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        variants.changed(
            variants.RHO_CROSSFIT, "constant", "RHO-LOSS, 160", train__large_batch=160
        ),
        *_SIZES,
        variants.changed(
            variants.RHO_CROSSFIT_DECAY,
            "bf16",
            "RHO-LOSS, decayed, 160, scored in bfloat16",
            train__large_batch=160,
            scoring__bf16=True,
        ),
        variants.changed(
            variants.RHO_CROSSFIT_DECAY,
            "refresh",
            "RHO-LOSS, decayed, 160, a third scored again",
            train__large_batch=160,
            scoring__refresh=0.33,
        ),
        *(
            variants.same_minutes(
                variants.UNIFORM_ALL_DECAY, name, _SIZES[2], variants.UNIFORM_ALL_DECAY, note, il
            )
            for name, note, il in (
                ("all_minutes_with_il", "minutes of 160, IL cost included", True),
                ("all_minutes", "minutes of 160, precomputed IL", False),
            )
        ),
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.05,
        "train.steps": 1000,
        "train.eval_every": 25,
    },
    vary={"target": {**set_options.LARGE_MLP, **set_options.RESNET}},
    quick={"target": list(set_options.LARGE_MLP)},
    rates=("tune_targets", "{target}"),
    ours=["rho-large_batch-160"],
    against=["all_minutes_with_il", "all_minutes"],
    columns=["seconds"],
    figures=["minutes"],
    curves=[
        "uniform_all",
        "uniform_all_decay",
        "constant",
        "rho-large_batch-96",
        "rho-large_batch-160",
        "rho-large_batch-320",
        "all_minutes_with_il",
    ],
)
