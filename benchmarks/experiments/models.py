"""Models of the evidence, built by name: those of the package, a residual net, a transformer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.classification import ClassificationData
from rho_train.tasks import cnn, embedding_bag, mlp


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Pixels(nn.Module):
    """Map bytes 0 to 255 to float32 -1 to 1, as the paper normalises CIFAR by (.5, .5, .5)."""

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 of any shape to float32 of the same shape."""
        return images.float() / 127.5 - 1.0


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, half the height and width."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, width, 1, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to (n, width, ceil(h / 2), ceil(w / 2))."""
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.norms[2](self.shortcut(x)))


def resnet(
    shape: Sequence[int], classes: int, widths: Sequence[int] = (16, 32, 64), *, seed: int
) -> nn.Sequential:
    """Build a residual network, images uint8 (n, channels, height, width) to logits (n, C).

    A 3x3 convolution, one residual block that halves the image for each width (He et al. 2016,
    with BatchNorm), the mean over the image, a linear layer. The initial weights depend on `seed`
    alone.

    Example:
        >>> import torch
        >>> resnet((3, 32, 32), 100, seed=0)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 100])
    """
    with seeded(seed):
        stem = nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = [Pixels(), stem, nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for channels, width in zip((widths[0], *widths), widths, strict=False):
            layers.append(ResidualBlock(channels, width))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


class Block(nn.Module):
    """Self-attention and two linear layers, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map (n, length, width) to the same, attending to tokens `real`, bool (n, length)."""
        n, length, width = x.shape
        parts = self.queries_keys_values(self.norms[0](x))
        q, k, v = parts.view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
        x = x + self.mix(mixed.transpose(1, 2).reshape(n, length, width))
        deep: Tensor = self.narrow(F.gelu(self.wide(self.norms[1](x))))
        return x + deep


class Transformer(nn.Module):
    """See `transformer`."""

    def __init__(self, vocabulary: int, length: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(0.1 * torch.randn(length, width))
        # Heads of 16 numbers are as many as a small width can feed.
        self.blocks = nn.ModuleList(Block(width, max(1, width // 16)) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids int64 (n, length) to logits (n, C)."""
        # A text without a word attends to its first padding: attention to nothing is NaN.
        real = (tokens != 0) | (torch.arange(tokens.shape[1], device=tokens.device) == 0)
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, real)
        weights = real.unsqueeze(2) / real.sum(1)[:, None, None]
        logits: Tensor = self.head((self.norm(x) * weights).sum(1))
        return logits


def transformer(
    vocabulary: int, length: int, classes: int, widths: Sequence[int] = (64, 64), *, seed: int
) -> Transformer:
    """Build a transformer encoder, token ids int64 (n, length) to logits (n, C).

    Learnt positions, one block for each of the equal widths (LayerNorm first, no dropout), padding
    masked, the mean over the tokens, a linear layer. The initial weights depend on `seed` alone.

    Raises:
        ValueError: the widths differ, or are no multiple of 16.

    Example:
        >>> transformer(1000, 3, 2, seed=0)(torch.tensor([[5, 7, 0], [9, 0, 0]])).shape
        torch.Size([2, 2])
    """
    if len(set(widths)) != 1 or widths[0] % 16:
        raise ValueError(
            f"transformer: widths must be equal multiples of 16, one a block, got {list(widths)}"
        )
    with seeded(seed):
        return Transformer(vocabulary, length, classes, widths[0], len(widths))


class Model(NamedTuple):
    """The function that builds a model, the kinds of data it reads, and its default widths."""

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
        >>> from experiments.evidence import DataConfig
        >>> build_model("mlp", DataConfig().load(), [32], seed=0)[0]
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


@dataclass(frozen=True)
class ModelConfig:
    """A model by name, see `build_model`; no widths: those that it comes with."""

    name: str = "mlp"
    widths: tuple[int, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_model(self.name)
        object.__setattr__(self, "widths", tuple(self.widths))
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be positive, got {list(self.widths)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def build(self, data: ClassificationData, seed: int) -> nn.Module:
        """Build the model for these data, its initial weights from `seed` alone."""
        return build_model(self.name, data, self.widths, seed=seed, dropout=self.dropout)
