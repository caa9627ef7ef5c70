"""Losses of sequences of tokens, for language models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import rho_ext
from rho_train.batch import describe


def sequence_losses(
    logits: Tensor, labels: Tensor, *, shift: bool = False, ignore_index: int = -100
) -> Tensor:
    """Return the mean loss of the tokens of every sequence, in nats.

    `loss_i = 1 / |T_i| sum_{t in T_i} CE(logits_it, labels_it)`, with T_i the tokens of sequence i
    whose label is not `ignore_index`. It is NaN where there is none: a `Selector` that scores never
    selects such a sequence. As a mean it does not prefer long sequences. Without gradients, as in a
    Selector, no tensor of the size of the logits is made (`rho_ext.score`).

    Args:
        logits: (n, T, C) floating point.
        labels: (n, T) int64 or int32.
        shift: the logits at t predict the label at t + 1, as in causal models of Hugging Face.
        ignore_index: label of tokens that do not count, such as padding.

    Returns:
        float32 (n,), differentiable.

    Raises:
        ValueError, IndexError: the shapes do not fit; a label is out of range (on the CPU).

    Examples:
        >>> logits = torch.zeros(2, 3, 5)
        >>> sequence_losses(logits, torch.tensor([[1, 4, -100], [-100, -100, -100]]))
        tensor([1.6094,    nan])
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            "sequence_losses: logits must have shape (n, T, C) and labels (n, T), got "
            f"{describe(logits)} and {describe(labels)}"
        )
    if shift:
        # The last token predicts nothing. With a gradient, shorter logits would be a copy.
        labels = F.pad(labels[:, 1:], (0, 1), value=ignore_index)
    if torch.is_grad_enabled() and logits.requires_grad:
        rows, flat = logits.flatten(0, 1).float(), labels.flatten().long()
        losses = F.cross_entropy(rows, flat, reduction="none", ignore_index=ignore_index)
    else:
        losses = rho_ext.score(
            logits, labels, None, method="loss", ignore_index=ignore_index
        ).losses
    return mean_losses(losses.view(labels.shape), labels, ignore_index)


def mean_losses(losses: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Return the mean loss (n,) of the tokens (n, T) that have a label, NaN where none has."""
    counted = labels != ignore_index
    # 0 / 0 where there is no token; the mask keeps the NaN from the gradient.
    return losses.masked_fill(~counted, 0.0).sum(1) / counted.sum(1)
