"""A model trained beside the target: online IL, or a proxy scorer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rho_train.identity import module_digest
from rho_train.methods.context import ScoringContext
from rho_train.rng import generator
from rho_train.scoring import check_module, device_of, seeded
from rho_train.training_step import adamw, check_adamw, training_step


class OnlineModel:
    """A model that takes one AdamW step on every small batch.

    As `Selector(il=OnlineModel(il_model))` its loss on the large batch is the irreducible loss: an
    approximation of the conditioning on D_t in eq. 2 of the paper (compared with the fixed one in
    Table 4). As `Selector(scorer=OnlineModel(proxy))` it scores in place of the target (Table 1).
    Its BatchNorm statistics change in its own steps alone. It is trained in place, on the device of
    the batches; the paper's rate is a hundredth of the target's.

    Examples:
        >>> import torch
        >>> from rho_train import Batch, Selector
        >>> online = OnlineModel(nn.Linear(2, 2))
        >>> before = online.model.weight.clone()
        >>> batch = Batch(torch.eye(2), torch.tensor([0, 1]), torch.tensor([5, 6]))
        >>> small = Selector(il=online, k=1)(nn.Linear(2, 2), batch)
        >>> bool((online.model.weight != before).any())
        True
    """

    def __init__(self, model: nn.Module, *, lr: float = 1e-5, weight_decay: float = 0.01) -> None:
        check_module("OnlineModel", model)
        check_adamw("OnlineModel", lr, weight_decay)
        self.model = model.train()
        self.optimizer = adamw(model, lr, weight_decay)
        self._identity = {"start": module_digest(model), "lr": lr, "weight_decay": weight_decay}

    def train_step(self, batch: object, weights: Tensor | None, context: ScoringContext) -> None:
        """Take one step on a small batch; dropout draws from the seed and the step."""
        seed = generator(context.seed, "online model", context.step).initial_seed()
        with seeded(device_of(self.model), seed):
            training_step(
                self.model,
                batch,
                self.optimizer,
                where="OnlineModel",
                weights=weights,
                forward=context.forward,
                loss_fn=context.loss_fn,
                label_smoothing=context.label_smoothing,
            )

    def identity(self) -> dict[str, Any]:
        """Return what the model was at the start and how it is trained."""
        return self._identity

    def state_dict(self) -> dict[str, Any]:
        """Return the model and its optimizer, for a checkpoint."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the model and the optimizer of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
