"""Learning rates of other targets."""

from experiments import set_options, variants
from experiments.suite import Suite

_LARGE = {**set_options.LARGE_MLP, **set_options.RESNET}
SUITE = Suite(
    title="The learning rate of other targets",
    question="The same as `tune`, for the targets of `one_store`, `large_target`, `batch_norm` and "
    "`web`.",
    methods=[
        entry
        for kind in (
            variants.UNIFORM_ALL,
            variants.UNIFORM_ALL_DECAY,
            variants.RHO_CROSSFIT,
            variants.RHO_CROSSFIT_DECAY,
        )
        for entry in variants.grid(kind, train__lr=[0.0003, 0.001, 0.003, 0.01])
    ],
    baseline="uniform_all_decay-lr-0.001",
    # Other seeds than those of the suites.
    options={
        "seeds": [100, 101, 102],
        "validation": 0.1,
        "train.steps": 1000,
        "train.eval_every": 1000,
    },
    vary={
        "target": {
            **set_options.TARGETS,
            **{name: {**of, "train.large_batch": 160} for name, of in _LARGE.items()},
            **{
                f"{name}, scraped": {
                    **of,
                    **set_options.SCRAPED,
                    "train.steps": 1500,
                    "train.eval_every": 1500,
                }
                for name, of in set_options.THREE.items()
            },
        }
    },
    quick={
        "seeds": [100, 101],
        "target": [
            "OCR letters, MLP",
            "OCR letters, CNN",
            "OCR letters, residual net",
            "Tweets, transformer",
            "OCR letters, MLP of 3 x 768, 40 % noise",
            "Letters, scraped",
            "OCR letters, scraped",
            "Fashion-MNIST, scraped",
            "Fashion-MNIST, residual net, 20 % noise",
        ],
    },
    tune="validation",
)
