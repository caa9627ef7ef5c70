"""Selection in `lightning.Trainer`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rho_train.integrations import EveryRank, check_framework, weighted_loss
from rho_train.selector import Selector

check_framework("lightning")

from lightning.pytorch import Callback  # noqa: E402


class SelectionCallback(Callback):
    """Give `training_step` of a LightningModule the selected examples of its batches.

    The module stays as it is. Its `forward` returns logits, else give `Selector(forward=...)` or
    `Selector(loss_fn=...)`. Validation, test and prediction are as without. Checkpoints hold the
    Selector's state on every rank. `Selector.metrics()` are logged every `log_every_n_steps` steps.
    Weights of a method enter the loss that `training_step` returns; with `importance` it is called
    for each selected example. A `rho_train.LargeBatchSampler` on several devices needs
    `lightning.Trainer(use_distributed_sampler=False)`.

    Raises:
        TypeError: `selector` is no Selector.
        ValueError: the method gives weights, and the module optimises manually.

    Example:
        >>> import lightning, torch
        >>> class Module(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 2)
        ...     def forward(self, x):
        ...         return self.layer(x)
        ...     def training_step(self, batch, index):
        ...         return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), 0.1)
        >>> rows = [(torch.rand(2), i % 2, 0.5) for i in range(64)]  # x, y and il
        >>> callback = SelectionCallback(Selector(il="il", ratio=0.25))
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = lightning.Trainer(max_epochs=1, callbacks=[callback], **quiet)
        >>> trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=32))
        >>> callback.selector.selected
        16
    """

    def __init__(self, selector: Selector) -> None:
        if not isinstance(selector, Selector):
            kind = type(selector).__name__
            raise TypeError(f"SelectionCallback: selector must be a Selector, got {kind}")
        self.selector, self._ranks = selector, EveryRank(selector)
        self._own: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Select in front of `training_step`, inside of its autocast."""
        step, selector = pl_module.training_step, self.selector

        @functools.wraps(step)
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            small = selector(pl_module, batch)
            if selector.last is None or (weights := selector.last.weights) is None:
                return step(small, *args, **kwargs)
            if not pl_module.automatic_optimization:
                raise ValueError(
                    f"SelectionCallback: method {selector.method!r} gives weights, which cannot "
                    "enter a loss that the module optimises manually; choose another method"
                )
            return weighted_loss(
                pl_module, lambda rows: _loss(step(rows, *args, **kwargs)), small, weights
            )

        self._own = {key: own for key, own in vars(pl_module).items() if key == "training_step"}
        pl_module.training_step = training_step

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the module its own `training_step` back."""
        if self._own is not None:
            del pl_module.training_step
            vars(pl_module).update(self._own)
            self._own = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its own `training_step` back."""
        self.on_fit_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Log the metrics of the Selector."""
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.log_dict(self.selector.metrics())

    def state_dict(self) -> dict[str, Any]:
        """Return the Selector's state on every rank."""
        return self._ranks.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the Selector's state on this rank."""
        self._ranks.load_state_dict(state_dict)


def _loss(output: Any) -> Tensor:
    loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
    return loss
