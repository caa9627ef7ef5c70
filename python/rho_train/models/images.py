"""Models of images; pixels stay bytes until they are here."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from rho_train.models.seeded import seeded


class Pixels(nn.Module):
    """Bytes 0 to 255 to float32 -1 to 1, as the paper normalises CIFAR by (.5, .5, .5)."""

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 of any shape to float32 of the same shape."""
        return images.float() / 127.5 - 1.0


def cnn(
    shape: Sequence[int], classes: int, widths: Sequence[int] = (16, 32, 128), *, seed: int
) -> nn.Sequential:
    """Build a convolutional network, images uint8 (n, channels, height, width) to logits (n, C).

    For each width but the last a 3x3 convolution with ReLU and a 2x2 maximum, then a hidden layer
    of the last width. The initial weights depend on `seed` alone.

    Raises:
        ValueError: the images are too small to be halved so often.

    Example:
        >>> import torch
        >>> cnn((1, 28, 28), 10, seed=0)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """
    channels, height, width = shape
    *convolutions, hidden = widths
    pixels = (height >> len(convolutions)) * (width >> len(convolutions))
    if pixels < 1:
        raise ValueError(
            f"cnn: images of {height} x {width} pixels cannot be halved {len(convolutions)} times; "
            "give fewer widths"
        )
    with seeded(seed):
        layers: list[nn.Module] = [Pixels()]
        for width in convolutions:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        layers += [nn.Flatten(), nn.Linear(channels * pixels, hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden, classes))


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
