"""Selection in `lightning.Trainer`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rho_train.agreement import AgreementSampler
from rho_train.batch import describe, split
from rho_train.distributed import on_all
from rho_train.integrations import EveryRank, check_framework, check_selector, factor_of
from rho_train.selector import Selector

check_framework("lightning")

from lightning.pytorch import Callback  # noqa: E402


class SelectionCallback(Callback):
    """Give `training_step` of a LightningModule the selected examples of its batches.

    With an `AgreementSampler`, the `batch_sampler` of the loader, it gets whole batches, and the
    sampler the logits that it computes by `self(inputs)`. The fit ends after `sampler.steps`.

    The module stays as it is. Its `forward` returns logits, else give `Selector(forward=...)` or
    `Selector(loss_fn=...)`. Validation, test and prediction are as without. Checkpoints hold the
    Selector's state on every rank. `Selector.metrics()` are logged every `log_every_n_steps` steps.
    A weight that a method gives all examples enters the loss that `training_step` returns. A
    `rho_train.LargeBatchSampler` on several devices needs
    `lightning.Trainer(use_distributed_sampler=False)`. `fit` raises a ValueError for ranks with
    uneven batches, and for weights where the module optimises manually or returns no loss.

    Examples:
        >>> callback = SelectionCallback(Selector(method="loss", ratio=0.25))
        >>> trainer = lightning.Trainer(callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, selector: Selector | AgreementSampler) -> None:
        if not isinstance(selector, AgreementSampler):
            check_selector("SelectionCallback", selector)
        self.selector, self._ranks = selector, EveryRank(selector)
        self._own: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Select in front of `training_step`, inside of its autocast."""
        step = pl_module.training_step
        own = self._agree if isinstance(self.selector, AgreementSampler) else self._select
        wrapped = functools.update_wrapper(functools.partial(own, pl_module, step), step)
        self._own = {key: own for key, own in vars(pl_module).items() if key == "training_step"}
        pl_module.training_step = wrapped

    def _select(self, pl_module: Any, step: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the step on the selected examples."""
        selector: Any = self.selector
        small = selector(pl_module, batch)
        output = step(small, *args, **kwargs)
        if (weights := selector.last.weights) is None:
            return output
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or not pl_module.automatic_optimization:
            raise ValueError(
                f"SelectionCallback: method {selector.method!r} gives weights, so training_step "
                f"must return a loss or a dict with 'loss', got {describe(output)}, and not "
                "optimise by itself; change it, or choose another method"
            )
        loss = factor_of(weights) * loss
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    def _agree(self, pl_module: Any, step: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the step, and give the sampler the logits that it has computed."""
        sampler: Any = self.selector
        logits = list[Any]()
        hook = pl_module.register_forward_hook(lambda module, inputs, out: logits.append(out))
        try:
            output = step(batch, *args, **kwargs)
        finally:
            hook.remove()
        if len(logits) != 1:
            raise ValueError(
                "SelectionCallback: training_step must call self(inputs) once, for the logits of "
                f"its batch, and calls it {len(logits)} times"
            )
        fields = split(batch, "SelectionCallback")
        sampler.update(fields.ids, logits[0], fields.labels)
        return output

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse uneven batches on all ranks."""
        counts = on_all(lambda: trainer.num_training_batches)
        if len(set(counts)) > 1:
            raise ValueError(
                f"SelectionCallback: the ranks have {', '.join(map(str, counts))} batches, and "
                "those with more would wait for the others forever; give each as many (drop_last)"
            )

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
        """Log the metrics of the Selector, and end a pass of an AgreementSampler."""
        if isinstance(sampler := self.selector, AgreementSampler):
            with trainer.precision_plugin.forward_context():
                sampler.rescore(pl_module, trainer.train_dataloader)
            trainer.should_stop |= sampler.step >= sampler.steps
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self.log_dict(self.selector.metrics())

    def state_dict(self) -> dict[str, Any]:
        """Return the Selector's state on every rank."""
        return self._ranks.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the Selector's state on this rank."""
        self._ranks.load_state_dict(state_dict)
