"""Models of text as token ids, 0 where a text is over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rho_train.models.mlp import mlp
from rho_train.models.seeded import seeded


def embedding_bag(
    vocabulary: int, classes: int, widths: Sequence[int] = (64,), *, seed: int
) -> nn.Sequential:
    """Build a bag of embeddings, token ids int64 (n, length) to logits (n, C).

    The mean of the embeddings of a text, of the first width, padding left out, then hidden layers
    of the other widths. The initial weights depend on `seed` alone.

    Example:
        >>> embedding_bag(1000, 3, seed=0)(torch.tensor([[5, 7, 0], [9, 0, 0]])).shape
        torch.Size([2, 3])
    """
    with seeded(seed):
        bag = nn.EmbeddingBag(vocabulary, widths[0], mode="mean", padding_idx=0)
        return nn.Sequential(bag, *mlp(widths[0], widths[1:], classes, seed=seed + 1))


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
