"""Which model an experiment trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rho_train.models import build_model
from rho_train.models.registry import check_model
from rho_train.tasks.classification import ClassificationData


@dataclass(frozen=True)
class ModelConfig:
    """A model by name, see `rho_train.models.build_model`.

    Args:
        name: mlp, cnn, resnet, embedding_bag or transformer.
        widths: of its layers; none: those that the model comes with.
        dropout: rate after each hidden layer of an MLP, in [0, 1).
    """

    name: str = "mlp"
    widths: tuple[int, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_model(self.name)
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be positive, got {list(self.widths)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def build(self, data: ClassificationData, seed: int) -> nn.Module:
        """Build the model for these data, its initial weights from `seed` alone.

        Raises:
            ValueError: it does not read such data.
        """
        return build_model(self.name, data, self.widths, seed=seed, dropout=self.dropout)

    def as_dict(self) -> dict[str, Any]:
        """Return what it is as plain values."""
        return {"name": self.name, "widths": list(self.widths), "dropout": self.dropout}

    def size(self, data: ClassificationData) -> dict[str, int]:
        """Return the number of `parameters` and the `flops` of a forward pass of one example.

        torch counts matrix products and convolutions, a multiplication and an addition as two.

        Example:
            >>> from rho_train.tasks.letters import load_letters
            >>> ModelConfig(widths=(8,)).size(load_letters())
            {'parameters': 370, 'flops': 672}
        """
        model, inputs = self.build(data, 0).eval(), data.train_x[:1]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(inputs)
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "flops": counter.get_total_flops(),
        }
