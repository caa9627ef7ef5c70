"""The quality that an IL model needs."""

from experiments import set_options, variants
from experiments.suite import Suite

_WIDTHS = [
    variants.changed(
        variants.RHO_CROSSFIT,
        f"rho_width-{'x'.join(map(str, widths))}",
        f"RHO-LOSS, all, widths {'x'.join(map(str, widths))}",
        task__il_model={"widths": widths},
    )
    for widths in ([16], [64], [256, 256])
]
SUITE = Suite(
    title="How good must the IL model be",
    question="With a poor IL model RHO-LOSS is worse than uniform sampling. How many epochs, "
    "how wide, how many folds, how large a holdout, before it pays?",
    methods=[
        variants.UNIFORM_ALL,
        variants.UNIFORM_ALL_DECAY,
        *variants.grid(variants.RHO_CROSSFIT, il__epochs=[1, 2, 3, 6, 12, 24]),
        *_WIDTHS,
        *variants.grid(variants.RHO_CROSSFIT, folds=[2, 4, 8]),
        *variants.grid(variants.RHO_HOLDOUT, holdout=[0.1, 0.25, 0.5, 0.75]),
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.1,
        "task.il_model": {},
        "train.steps": 1000,
        "train.eval_every": 50,
    },
    vary={
        "set": set_options.THREE,
        "noise": {
            "20 % noise": {"task.noise": 0.2},
            "40 % noise": {"task.noise": 0.4, "rates": "{set}, 40 % noise"},
        },
    },
    quick={
        "methods": [
            variants.UNIFORM_ALL,
            variants.UNIFORM_ALL_DECAY,
            *variants.grid(variants.RHO_CROSSFIT, il__epochs=[1, 3, 6, 12]),
            *_WIDTHS[:2],
            *variants.grid(variants.RHO_CROSSFIT, folds=[4]),
            *variants.grid(variants.RHO_HOLDOUT, holdout=[0.25, 0.5]),
        ],
        "set": ["Letters", "OCR letters"],
        "noise": ["40 % noise"],
    },
    rates=("tune", "{set}, 20 % noise"),
    columns=["noisy"],
)
