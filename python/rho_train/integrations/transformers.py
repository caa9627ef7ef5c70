"""Selection in `transformers.Trainer` and its subclasses, such as SFTTrainer of TRL."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rho_train.checkpoint import load_checkpoint, save_checkpoint
from rho_train.distributed import rank_and_world
from rho_train.integrations import check_framework, weighted_loss
from rho_train.rng import generator
from rho_train.scoring import LossFunction
from rho_train.selector import Selector
from rho_train.sequences import sequence_losses

check_framework("transformers")

from transformers import Trainer  # noqa: E402

_WEIGHTS, _ROW = "selection_weights", "rho_train_row"


class SelectionMixin(Trainer if TYPE_CHECKING else object):  # type: ignore[misc]
    """Train any subclass of `transformers.Trainer` on the selected examples of its batches.

    `class SelectedSFT(SelectionMixin, SFTTrainer)` takes the arguments of SFTTrainer and
    `selector`, without which it is SFTTrainer. The large batch has `per_device_train_batch_size`
    examples. It becomes small before the Trainer counts its items, so the loss is the Trainer's own
    mean over the selected examples. Evaluation and prediction are as without.

    The columns `ids` and of `Selector(il="il")` reach the Selector, whatever the collator and
    `remove_unused_columns` do, and not the model. Every rank saves the Selector's state with the
    checkpoints. `Selector.metrics()` are logged with the loss. Weights of a method enter the loss;
    those of `importance` need a forward pass of each selected example.

    Raises:
        TypeError: `selector` is no Selector.
        ValueError: the training set lacks ids or IL; the collator makes one row of a batch; a batch
            has fewer than k examples.
    """

    def __init__(self, *args: Any, selector: Selector | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (selector is None or isinstance(selector, Selector)):
            kind = type(selector).__name__
            raise TypeError(f"SelectionTrainer: selector must be a Selector, got {kind}")
        self.selector = selector
        il = selector.il if selector else None
        self._carried = ["ids", il] if isinstance(il, str) else ["ids"]
        if selector:
            _check(self, selector)

    def get_train_dataloader(self) -> Any:
        """Return the loader of the Trainer, with ids and IL in its batches."""
        with _carrying(self, self._carried if self.selector else []):
            return super().get_train_dataloader()

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Return the selected examples of the next batches, and the number of their items."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.selector is None:
            return batches, items
        small = []
        for batch in batches:
            small.append(self.selector(self.model_wrapped, self._prepare_inputs(batch)))
            small[-1].pop("ids", None)
            if self.selector.last and self.selector.last.weights is not None:
                small[-1][_WEIGHTS] = self.selector.last.weights
        # A weighted loss is a mean over each batch, not over the items of all.
        weighted = any(_WEIGHTS in batch for batch in small)
        return small, None if weighted else self._get_num_items_in_batch(small, device)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of the Trainer, weighted if the method of selection gives weights."""
        weights, loss_of = inputs.pop(_WEIGHTS, None), super().compute_loss
        if weights is None:
            return loss_of(model, inputs, *args, **kwargs)
        loss = weighted_loss(model, lambda rows: loss_of(model, rows), inputs, weights)
        # Some losses the Trainer takes for means over all accumulated batches.
        scaled = self.compute_loss_func or getattr(self, "loss_is_scaled_for_ga", False)
        return loss / self.current_gradient_accumulation_steps if scaled else loss

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the Trainer predicts of a batch without its ids and IL."""
        for name in self._carried if self.selector else []:
            inputs.pop(name, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what the Trainer does, with a training loss also the metrics of the Selector."""
        if self.selector and "loss" in logs:
            logs.update(self.selector.metrics())
        super().log(logs, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.selector:
            save_checkpoint(_state_path(output_dir), {"selector": self.selector.state_dict()})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        # With the random state it would be too late: the Trainer takes one batch before that.
        if self.selector and checkpoint:
            path = _state_path(checkpoint)
            if path.exists():
                self.selector.load_state_dict(load_checkpoint(path, {})["selector"])
            else:
                warnings.warn(
                    f"SelectionTrainer: {checkpoint} has no {path.name}, so the Selector starts "
                    "anew: it was saved without one, or by another number of processes",
                    stacklevel=2,
                )


class SelectionTrainer(SelectionMixin, Trainer):
    """`transformers.Trainer` with `selector=`; see `SelectionMixin`.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
        >>> sizes = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = BertForSequenceClassification(BertConfig(**sizes))
        >>> rows = [{"input_ids": [i % 9], "labels": i % 2, "il": 0.5} for i in range(64)]
        >>> args = TrainingArguments("out", per_device_train_batch_size=32, num_train_epochs=1)
        >>> selector = Selector(il="il", ratio=0.25)
        >>> trainer = SelectionTrainer(model, args, train_dataset=rows, selector=selector)
        >>> _ = trainer.train()
        {'train_runtime': ...}
        >>> selector.selected
        16
    """


def lm_losses(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the mean token loss of every sequence (n,), for `Selector(loss_fn=lm_losses)`.

    For causal and encoder-decoder models of transformers; NaN for a sequence without labels.
    """
    inputs = {name: value for name, value in batch.items() if name not in ("ids", "labels")}
    causal = not getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    logits = model(**inputs) if causal else model(**inputs, labels=batch["labels"])
    return sequence_losses(logits.logits, batch["labels"], shift=causal)


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
        column: name of the column, float32.
        seed: of the folds.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"add_il: dataset must be a datasets.Dataset, got {type(dataset).__name__}; "
            "rho_train.crossfit_il takes data of PyTorch, a stream must bring its IL"
        )
    n, models = len(dataset), list[nn.Module]()
    if column in dataset.column_names or not 2 <= folds <= n:
        raise ValueError(
            f"add_il: wanted a new column and 2 to {n} folds, got {column!r} beside the columns "
            f"{', '.join(dataset.column_names)} and {folds} folds; remove_columns, or give column="
        )
    order = torch.randperm(n, generator=generator(seed, "cross-fit folds"), device="cpu")
    numbered = dataset.add_column(_ROW, np.arange(n))
    il = torch.full((n,), torch.nan, dtype=torch.float32, device="cpu")
    for fold in range(folds):
        scored = set(order[fold::folds].tolist())
        part = dataset.select([row for row in range(n) if row not in scored])
        trainer = make_trainer(part)
        data = getattr(trainer, "train_dataset", None)
        if data is None or (isinstance(data, Sized) and len(data) > len(part)):
            raise ValueError(
                "add_il: make_trainer must return a Trainer of the data that it is given, else the "
                "model sees the examples that it scores; pass them on as train_dataset"
            )
        if any(trainer.model is model for model in models):
            raise ValueError("add_il: make_trainer must make a new model each time, got one twice")
        models.append(trainer.model)
        # The user's own run must not resume from these checkpoints.
        trainer.args = copy.copy(trainer.args)
        trainer.args.output_dir = str(Path(trainer.args.output_dir, f"il-{fold}"))
        trainer.train()
        _score(trainer, numbered.select(sorted(scored)), il, loss_fn)
    if missing := int(il.isnan().sum()):
        warnings.warn(
            f"add_il: {missing} of {n} examples have no IL (NaN): they have no labels, or the "
            "Trainer leaves them out; drop them by dataset.filter before you train",
            stacklevel=2,
        )
    return dataset.add_column(column, il.numpy())


def _score(trainer: Any, dataset: Any, il: Tensor, loss_fn: LossFunction | None) -> None:
    """Write the losses of numbered examples to `il`, by the evaluation of a Trainer."""
    scorer = Selector(method="loss", ratio=1.0, loss_fn=loss_fn)

    def prediction_step(model: nn.Module, inputs: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        inputs = trainer._prepare_inputs(inputs)
        rows = inputs.pop(_ROW)
        losses = scorer.preview(model, inputs).losses
        rows, losses = trainer.accelerator.gather((rows, losses))
        il[rows.cpu()] = losses.cpu()
        return losses.mean(), None, None

    trainer.prediction_step = prediction_step
    with _carrying(trainer, [_ROW]):
        trainer.evaluate(dataset)


class _Collator:
    """Adds columns to a batch that the collator inside does not get."""

    def __init__(self, collate: Callable[[Any], Any], names: Sequence[str]) -> None:
        self.collate, self.names = collate, names

    def __call__(self, examples: Sequence[Any]) -> Any:
        found = [name for name in self.names if name in examples[0]]
        batch = self.collate(
            [{key: row[key] for key in row if key not in found} for row in examples]
        )
        for name in found:
            values = np.asarray([row[name] for row in examples])
            batch[name] = torch.as_tensor(values.astype("f4" if values.dtype.kind == "f" else "i8"))
        return batch


@contextmanager
def _carrying(trainer: Any, names: Sequence[str]) -> Iterator[None]:
    """Let columns reach the batches of the loaders that a Trainer makes meanwhile."""
    collator, columns = trainer.data_collator, trainer._signature_columns
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns = [*trainer._signature_columns, *names]
    if names:
        trainer.data_collator = _Collator(collator, names)
    try:
        yield
    finally:
        trainer.data_collator, trainer._signature_columns = collator, columns


def _check(trainer: Any, selector: Selector) -> None:
    """Refuse what would fail or go wrong at a later step."""
    data, il, k = trainer.train_dataset, selector.il, selector.k or 1
    columns: list[str] = getattr(data, "column_names", None) or []
    wanted = (["ids"] if selector.needs_ids else []) + ([il] if isinstance(il, str) else [])
    lost = [name for name in wanted if columns and name not in columns]
    size, rest = trainer.args.train_batch_size, 0
    if hasattr(data, "__len__") and trainer.args.world_size == 1:
        rest = 0 if trainer.args.dataloader_drop_last else len(data) % size
    problem = None
    if getattr(trainer.data_collator, "padding_free", False):
        problem = (
            "the collator makes one row of a batch, from which no example can be taken; leave "
            "padding_free and packing off"
        )
    elif lost:
        problem = (
            f"the training set has no column {lost[0]!r}, got {', '.join(columns)}; add il by "
            "add_il, ids by dataset.add_column('ids', range(len(dataset))), both after packing"
        )
    elif k > size or 0 < rest < k:
        problem = (
            f"k = {k} is larger than a batch of {size if k > size else rest}; raise "
            "per_device_train_batch_size, the large batch, or set dataloader_drop_last=True"
        )
    elif columns and isinstance(il, str) and hasattr(data, "__len__"):
        values = np.asarray(data.with_format("numpy")[il][:], dtype=np.float64)
        if bad := int((~np.isfinite(values)).sum()):
            problem = f"column {il!r} has no finite IL in {bad} rows; drop them by dataset.filter"
    if problem:
        raise ValueError(f"SelectionTrainer: {problem}")


def _state_path(folder: str) -> Path:
    rank, world = rank_and_world()
    return Path(folder) / f"selector-{rank}-of-{world}.pt"
