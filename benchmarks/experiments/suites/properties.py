"""Properties of the examples that are selected (Figure 3 of the paper)."""

from experiments import set_options, variants
from experiments.suite import Suite

SUITE = Suite(
    title="Properties of the examples that are selected",
    question="Figure 3 of the paper: of the examples that a method trains on, how many carry a "
    "wrong label, were classified correctly already, belong to less relevant classes, or are "
    "copies?",
    status="It takes 3 minutes on two cores: `run properties --quick`.",
    methods=[
        variants.UNIFORM_HALF,
        variants.RHO_HOLDOUT,
        variants.changed(
            variants.RHO_HOLDOUT,
            "rho_small_il",
            "RHO-LOSS, half, small IL model",
            task__il_model={"widths": [64]},
        ),
        variants.GRAD_NORM,
        variants.TRAIN_LOSS,
    ],
    baseline="uniform_half",
    options={
        "seeds": [0, 1, 2, 3, 4],
        "validation": 0.1,
        "train.steps": 1500,
        "train.eval_every": 50,
    },
    vary={
        "set": set_options.THREE,
        "what": {
            "10 % noise": {"task.noise": 0.1},
            # As in CIFAR-100-Relevance: of four in five classes only 6 % of the examples are left.
            "less relevant classes": {"task.relevance": 0.06},
            "copies": {"task.redundancy": 0.5},
        },
    },
    quick={"set": ["Letters"]},
    columns=["noisy", "correct", "less_relevant", "redundant"],
    figures=["shares"],
)
