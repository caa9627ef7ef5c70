"""BatchNorm statistics of selected examples."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="BatchNorm",
    question="BatchNorm takes its statistics from the examples that are trained on. Selected "
    "ones are not like those that will come. Does it help to recompute the statistics at the "
    "end over large batches, or to score in training mode as the paper does? Recalibrated runs "
    "called update_bn on 20 large batches after the last step, which `run` no longer does.",
    methods=[
        variants.UNIFORM_ALL_DECAY,
        *(
            entry
            for name, label, options in (
                ("selected", "", {}),
                ("train_mode", ", scored in training mode", {"scoring__train_mode": True}),
            )
            for entry in variants.grid(
                variants.changed(
                    variants.RHO_CROSSFIT_DECAY, name, f"RHO-LOSS, decayed{label}", **options
                ),
                train__large_batch=[160, 320],
            )
        ),
    ],
    baseline="uniform_all_decay",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.05,
        "train.steps": 1000,
        "train.eval_every": 50,
    },
    vary={
        "target": {
            **set_options.RESNET,
            "OCR letters, residual net": set_options.TARGETS["OCR letters, residual net"],
        }
    },
    quick={"target": list(set_options.RESNET)},
    rates=("tune_targets", "{target}"),
)
