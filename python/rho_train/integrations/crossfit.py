"""Irreducible losses as a column of a data set, by a Trainer of transformers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from rho_train.rng import generator
from rho_train.scoring import LossFunction
from rho_train.selector import Selector


def add_il(
    dataset: Any,
    make_trainer: Callable[[Any], Any],
    folds: int = 2,
    *,
    loss_fn: LossFunction | None = None,
    column: str = "il",
    seed: int = 0,
) -> Any:
    """Return a `datasets.Dataset` with a column of irreducible losses, by your own Trainer.

    Cross-fitting (Mindermann et al., ICML 2022, Appendix A): trainer f trains on all folds but f,
    and scores fold f. What it saves goes to `il-f` in its output directory.

    Args:
        dataset: without that column.
        make_trainer: called with the training set of a fold, returns a Trainer of a new model with
            your arguments and collator, as `lambda part: Trainer(make_model(), args, ...)`.
        folds: number of models.
        loss_fn: as in `Selector`, such as `lm_losses`; None: the cross-entropy of the labels.
        column: its name, float32; NaN with a warning for examples without labels.
        seed: of the folds.
    """
    if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"add_il: dataset must be a datasets.Dataset, got {type(dataset).__name__}; "
            "rho_train.crossfit_il takes data of PyTorch, a stream must bring its IL"
        )
    n, trained = len(dataset), dict[object, tuple[nn.Module, Any]]()
    if column in dataset.column_names or not 2 <= folds <= n:
        raise ValueError(
            f"add_il: wanted a new column and 2 to {n} folds, got {column!r} beside the columns "
            f"{', '.join(dataset.column_names)} and {folds} folds; remove_columns, or give column="
        )
    order = torch.randperm(n, generator=generator(seed, "cross-fit folds"), device="cpu")
    fold_of = order.argsort() % folds
    il = torch.full((n,), torch.nan, dtype=torch.float32, device="cpu")
    for fold in range(folds):
        part = dataset.select((fold_of != fold).nonzero().flatten().tolist())
        scored = (fold_of == fold).nonzero().flatten()
        trainer = make_trainer(part)
        if any(trainer.model is model for model, _ in trained.values()):
            raise ValueError("add_il: make_trainer must make a new model each time, got one twice")
        data = getattr(trainer, "train_dataset", None)
        larger = isinstance(data, Sized) and len(data) > len(part)
        rows = getattr(data, "_fingerprint", None) or id(data)
        if data is None or larger or rows in trained:
            raise ValueError(
                "add_il: make_trainer must return a Trainer of the data that it is given; pass it "
                "on as train_dataset, else the model sees the examples that it scores"
            )
        trained[rows] = trainer.model, data
        # The user's own run must not resume from these checkpoints.
        trainer.args = copy.copy(trainer.args)
        trainer.args.output_dir = str(Path(trainer.args.output_dir, f"il-{fold}"))
        if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            # What cannot be scored fails before the training, whose random numbers stay.
            with torch.random.fork_rng(devices=[]):
                _losses(trainer, dataset.select(scored[:8].tolist()), loss_fn)
        trainer.train()
        il[scored] = _losses(trainer, dataset.select(scored.tolist()), loss_fn)
    if missing := int(il.isnan().sum()):
        warnings.warn(
            f"add_il: {missing} of {n} examples have no IL, as without labels; dataset.filter them",
            stacklevel=2,
        )
    return dataset.add_column(column, il.numpy())


def _losses(trainer: Any, dataset: Any, loss_fn: LossFunction | None) -> Tensor:
    """Return the losses of a data set in its order (n,), by the loaders of a Trainer."""
    scorer, losses = Selector(method="loss", ratio=1.0, loss_fn=loss_fn), list[Tensor]()
    with (
        mock.patch.object(trainer.args, "dataloader_drop_last", False),
        mock.patch.object(trainer, "_get_eval_sampler", return_value=None),
    ):
        loader = trainer.get_test_dataloader(dataset)
    for batch in loader:
        with trainer.compute_loss_context_manager():
            found = scorer.preview(trainer.model_wrapped, trainer._prepare_inputs(batch)).losses
        losses.append(trainer.accelerator.gather_for_metrics(found).cpu())
    return torch.cat(losses)
