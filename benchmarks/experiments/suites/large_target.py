"""A large target, and the options of its scoring."""

from experiments import set_options, variants
from experiments.suite import Suite

_SIZES = variants.grid(
    variants.changed(variants.RHO_CROSSFIT_DECAY, "rho", "RHO-LOSS, decayed"),
    train__large_batch=[64, 96, 160, 320],
)
SUITE = Suite(
    title="A large target",
    question="The target costs many times the IL model. How much cheaper does it reach "
    "the best of uniform sampling with large batches of 64 to 320 examples for a small "
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
            variants.equal_cost(variants.UNIFORM_ALL_DECAY, name, _SIZES[2], note, il)
            for name, note, il in (
                ("all_cost_with_il", "cost of 160, IL included", True),
                ("all_cost", "cost of 160, precomputed IL", False),
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
    against=["all_cost_with_il", "all_cost"],
    columns=["seconds"],
    figures=["cost"],
    curves=[
        "uniform_all",
        "uniform_all_decay",
        "constant",
        "rho-large_batch-96",
        "rho-large_batch-160",
        "rho-large_batch-320",
        "all_cost_with_il",
    ],
)
