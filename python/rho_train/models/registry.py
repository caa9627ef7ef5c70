"""Models by name, built to fit a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from rho_train.models.images import Pixels, cnn, resnet
from rho_train.models.mlp import mlp
from rho_train.models.text import embedding_bag, transformer
from rho_train.tasks.classification import ClassificationData


class Model(NamedTuple):
    """How a model is built, what it reads, and its widths if none are given."""

    build: Callable[[ClassificationData, Sequence[int], int, float], nn.Module]
    reads: tuple[str, ...]
    widths: tuple[int, ...]


def build_model(
    name: str,
    data: ClassificationData,
    widths: Sequence[int] = (),
    *,
    seed: int,
    dropout: float = 0.0,
) -> nn.Module:
    """Build the model `name` for the inputs and classes of `data`.

    Args:
        name: mlp (features, or images as rows of pixels), cnn or resnet (images), embedding_bag or
            transformer (text).
        data: what it is for; only shapes and counts are looked at.
        widths: of the layers, see the function of that name; none: those of `MODELS`.
        seed: of the initial weights, which depend on nothing else.
        dropout: rate after each hidden layer of the mlp; the other models have none.

    Raises:
        ValueError: no such model, a model that does not read such data, widths below 1, or dropout
            in a model that has none.

    Example:
        >>> from rho_train.tasks.letters import load_letters
        >>> build_model("mlp", load_letters(), [32], seed=0)[0]
        Linear(in_features=16, out_features=32, bias=True)
    """
    check_model(name)
    model = MODELS[name]
    if data.kind not in model.reads:
        fitting = ", ".join(other for other in MODELS if data.kind in MODELS[other].reads)
        raise ValueError(
            f"build_model: {name} reads {' and '.join(model.reads)}, {data.name} is {data.kind}; "
            f"choose {fitting}"
        )
    if any(width < 1 for width in widths):
        raise ValueError(f"build_model: widths must be positive, got {list(widths)}")
    if dropout > 0.0 and name != "mlp":
        raise ValueError(f"build_model: {name} has no dropout, got {dropout}; choose mlp, or 0")
    return model.build(data, widths or model.widths, seed, dropout)


def check_model(name: str) -> None:
    """Refuse a name that no model has.

    Raises:
        ValueError: there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")


def _mlp(data: ClassificationData, widths: Sequence[int], seed: int, dropout: float) -> nn.Module:
    layers = mlp(math.prod(data.shape), widths, data.num_classes, seed=seed, dropout=dropout)
    return layers if data.kind == "features" else nn.Sequential(Pixels(), nn.Flatten(), *layers)


MODELS: dict[str, Model] = {
    "mlp": Model(_mlp, ("features", "image"), (256, 256)),
    "cnn": Model(
        lambda data, widths, seed, _: cnn(data.shape, data.num_classes, widths, seed=seed),
        ("image",),
        (16, 32, 128),
    ),
    "resnet": Model(
        lambda data, widths, seed, _: resnet(data.shape, data.num_classes, widths, seed=seed),
        ("image",),
        (16, 32, 64),
    ),
    "embedding_bag": Model(
        lambda data, widths, seed, _: embedding_bag(
            len(data.words), data.num_classes, widths, seed=seed
        ),
        ("text",),
        (64,),
    ),
    "transformer": Model(
        lambda data, widths, seed, _: transformer(
            len(data.words), data.shape[0], data.num_classes, widths, seed=seed
        ),
        ("text",),
        (64, 64),
    ),
}
