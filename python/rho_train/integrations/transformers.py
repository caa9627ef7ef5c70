"""Selection in `transformers.Trainer` and its subclasses, such as SFTTrainer of TRL."""

from __future__ import annotations

import copy
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from rho_train.agreement import AgreementSampler
from rho_train.causal_lm import TokenSelector
from rho_train.causal_lm import lm_losses as lm_losses
from rho_train.distributed import rank_and_world
from rho_train.integrations import check_framework, check_selector, factor_of
from rho_train.integrations.agreement import Passes
from rho_train.integrations.crossfit import add_il as add_il
from rho_train.integrations.reference_losses import (
    add_reference_losses as add_reference_losses,
)
from rho_train.integrations.reference_losses import at_tokens, is_of_another
from rho_train.run_folder import load_checkpoint, save_checkpoint
from rho_train.scoring import device_of
from rho_train.selector import Selector
from rho_train.tokens import TokenSelection

check_framework("transformers")

from transformers import DataCollatorWithFlattening, Trainer  # noqa: E402

_WEIGHTS = "selection_weights"


class SelectionMixin(Trainer if TYPE_CHECKING else object):  # type: ignore[misc]
    """Train any subclass of `transformers.Trainer` on the selected examples of its batches.

    `class SelectedSFT(SelectionMixin, SFTTrainer)` takes the arguments of SFTTrainer and
    `selector`, without which it is SFTTrainer. The large batch has `per_device_train_batch_size`
    examples, and the loss is the Trainer's own mean over the selected ones, or weighted if the
    method gives weights. Evaluation and prediction are as without. Columns `ids` and of
    `Selector(il="il")` reach the Selector and not the collator or the model. Checkpoints hold the
    Selector's state of every rank. Raises a TypeError or ValueError for what cannot be trained.

    `agreement=True` trains a classifier without a Selector, on the batches of an
    `AgreementSampler`: no more columns, batches of their usual size, and as many steps in an epoch
    as without. `label_smoothing_factor=0.3` goes well with it.

    With a `TokenSelector` a step trains on tokens: the loss is the sum over the selected tokens of
    all accumulated batches (and ranks, with `average_tokens_across_devices`) by their number.
    """

    data_collator: Any
    sampler: AgreementSampler | None
    _signature_columns: Any

    def __init__(
        self,
        *args: Any,
        selector: Selector | TokenSelector | None = None,
        agreement: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.selector, self._carried = selector, list[str]()
        self.agreement, self.sampler = agreement, None
        self._first: dict[str, Any] | None = None
        if agreement and (selector is not None or not hasattr(self.train_dataset, "__len__")):
            raise ValueError(
                "SelectionTrainer: agreement takes a training set with a length, and no selector"
            )
        if selector is None:
            return
        if isinstance(selector, TokenSelector):
            self._carried = [selector.il] if selector.il else []
            reference, device = selector.reference, self.args.device
            # One of 8 bits refuses to be moved, and one on several devices may not fit on this.
            if reference is not None and device_of(reference) != device:
                reference.to(device)
        else:
            check_selector("SelectionTrainer", selector)
            il = selector.il
            self._carried = ["ids"] * selector.needs_ids + ([il] if isinstance(il, str) else [])
        for problem in _problems(self, selector):
            raise ValueError(f"SelectionTrainer: {problem}")
        # Smaller batches after want of memory, and trials of hyperparameters, begin with it.
        anew = self.args.auto_find_batch_size or self.model_init is not None
        if isinstance(selector, Selector) and anew:
            self._first = copy.deepcopy(selector.state_dict())

    def get_train_dataloader(self) -> Any:
        """Return the loader of the Trainer, with ids and IL in its batches."""
        if self.agreement:
            self._passes = Passes(self, super().get_train_dataloader())
            self.sampler = self._passes.sampler
            return self._passes.loader()
        if isinstance(self.selector, Selector) and self._first is not None:
            self.selector.load_state_dict(copy.deepcopy(self._first))
        self._set_signature_columns_if_needed()
        per_token = isinstance(self.selector, TokenSelector)
        own: dict[str, Any] = {
            "data_collator": _Collator(self.data_collator, self._carried, per_token),
            "_signature_columns": [*self._signature_columns, *self._carried],
        }
        with mock.patch.multiple(self, **own):
            return super().get_train_dataloader()

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Return the selected examples of the next batches, and the number of their items."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.selector is None or not batches:
            return batches, items
        if isinstance(self.selector, TokenSelector):
            k = torch.stack([self.selector.count(batch) for batch in batches]).sum().to(device)
            return batches, self.accelerator.gather(k).sum() if self._over_ranks else k
        self.model_wrapped.train()  # which the Trainer does before each step
        small = []
        for batch in batches:
            small.append(self.selector(self.model_wrapped, self._prepare_inputs(batch)))
            small[-1].pop("ids", None)
            if self.selector.last and self.selector.last.weights is not None:
                small[-1][_WEIGHTS] = self.selector.last.weights
        # A weighted loss is a mean over each batch, not over the items of all.
        weighted = any(_WEIGHTS in batch for batch in small)
        return small, None if weighted else self._get_num_items_in_batch(small, device)

    @property
    def _over_ranks(self) -> bool:
        return bool(self.args.average_tokens_across_devices) and self.args.world_size > 1

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of the Trainer, weighted if the method of selection gives weights."""
        if isinstance(self.selector, TokenSelector) and model.training:
            return self._token_loss(self.selector(model, inputs), *args, **kwargs)
        weights, loss_of = inputs.pop(_WEIGHTS, None), super().compute_loss
        if self.sampler is not None and model.training:
            ids, labels = inputs.pop("ids"), inputs["labels"]
            loss, outputs = loss_of(model, inputs, *args, **{**kwargs, "return_outputs": True})
            self.sampler.update(ids, outputs.logits, labels)
            return loss
        if weights is None:
            return loss_of(model, inputs, *args, **kwargs)
        loss = factor_of(weights) * loss_of(model, inputs)
        # Some losses the Trainer takes for means over all accumulated batches.
        scaled = self.compute_loss_func or getattr(self, "loss_is_scaled_for_ga", False)
        return loss / self.current_gradient_accumulation_steps if scaled else loss

    def _token_loss(
        self,
        selected: TokenSelection,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return the share of a batch in the mean loss of the selected tokens of a step."""
        loss = selected.loss
        if num_items_in_batch is not None:
            loss = loss * (selected.k / num_items_in_batch.clamp(min=1))
            # DistributedDataParallel takes the mean over the ranks, and the Trainer divides losses
            # of models that do not count items.
            loss = loss * (self.accelerator.num_processes if self._over_ranks else 1)
            if not self.model_accepts_loss_kwargs:
                loss = loss * self.current_gradient_accumulation_steps
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the Trainer predicts of a batch without its ids and IL."""
        for name in self._carried:
            inputs.pop(name, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what the Trainer does, with a training loss also the metrics of the Selector."""
        if (drawing := self.selector or self.sampler) and "loss" in logs:
            logs.update(drawing.metrics())
        super().log(logs, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if (stateful := self._stateful) is not None:
            save_checkpoint(_state_path(output_dir), {"selector": stateful.state_dict()})

    @property
    def _stateful(self) -> Selector | AgreementSampler | None:
        return self.selector if isinstance(self.selector, Selector) else self.sampler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        # With the random state it would be too late: the Trainer takes one batch before that.
        if (stateful := self._stateful) is None or not checkpoint:
            return
        if (path := _state_path(checkpoint)).exists():
            stateful.load_state_dict(load_checkpoint(path, {})["selector"])
        else:
            warnings.warn(
                f"SelectionTrainer: {checkpoint} has no {path.name}, so the "
                f"{type(stateful).__name__} starts anew: it was saved without one, or by another "
                "number of processes",
                stacklevel=2,
            )
        if self.sampler is not None and not self.args.ignore_data_skip:
            self._passes.done = self.state.global_step % self._passes.epoch


class SelectionTrainer(SelectionMixin, Trainer):
    """`transformers.Trainer` with `selector=`; see `SelectionMixin`.

    Examples:
        >>> selector = Selector(il="il", ratio=0.25)
        >>> trainer = SelectionTrainer(model, args, train_dataset=data, selector=selector)
        ... # doctest: +SKIP
    """


@dataclass(frozen=True)
class _Collator:
    """Adds columns to a batch that the collator inside does not get."""

    collate: Callable[[Any], Any]
    names: Sequence[str]
    per_token: bool

    def __call__(self, rows: Sequence[Any]) -> Any:
        names = self.names if isinstance(rows[0], Mapping) else ()
        columns = {name: [row[name] for row in rows] for name in names if name in rows[0]}
        if columns:
            rows = [{key: row[key] for key in row if key not in columns} for row in rows]
        batch = self.collate(rows)
        for name, values in columns.items():
            if self.per_token:
                batch[name] = at_tokens(name, values, batch)
            else:
                batch[name] = torch.from_numpy(_numbers(name, values))
        return batch


def _numbers(name: str, values: Any) -> np.ndarray[Any, Any]:
    """Return ids as int64 (n,), irreducible losses as float32 (n,) with NaN for None."""
    whole = name == "ids"
    try:
        found = np.asarray(values)
        if found.ndim == 1 and found.dtype.kind in ("iu" if whole else "iufO"):
            return found.astype("i8" if whole else "f4")
    except (TypeError, ValueError):
        pass  # of different lengths, or texts among them
    wanted = "integers, the positions in the data set" if whole else "numbers, as add_il gives"
    got = reprlib.repr(np.array(values[:3], dtype=object).tolist())
    raise ValueError(f"SelectionTrainer: column {name!r} must hold {wanted}, got {got}")


def _problems(trainer: Any, selector: Selector | TokenSelector) -> Iterator[str]:
    """Yield what would fail or go wrong at a later step."""
    data, args, collator = trainer.train_dataset, trainer.args, trainer.data_collator
    columns: Any = getattr(data, "column_names", None)
    for name in trainer._carried if columns else ():
        if name not in columns:
            yield (
                f"the training set has no column {name!r}, got {', '.join(columns)}; add il by "
                "add_il, of tokens by add_reference_losses, ids by dataset.add_column('ids', "
                "range(len(dataset))), all after packing"
            )
    if isinstance(selector, TokenSelector):
        yield from _token_problems(trainer, selector)
        return
    size, sized, ranks = args.train_batch_size, hasattr(data, "__len__"), args.world_size
    if isinstance(collator, DataCollatorWithFlattening) or getattr(collator, "padding_free", False):
        yield (
            f"the collator {type(collator).__name__} makes one row of a batch, from which no "
            "example can be taken; leave padding_free and packing off"
        )
    for name in trainer._carried if columns and sized else ():
        values = _numbers(name, data.with_format("numpy")[name][:])
        if bad := int((~np.isfinite(values)).sum()):
            yield f"column {name!r} has no finite IL in {bad} rows; drop them by dataset.filter"
    if sized and not args.dataloader_drop_last:
        size = size if ranks > 1 else len(data) % size or size
        if ranks > 1 and not trainer.accelerator.even_batches:
            yield (
                "ranks with more batches than others would wait for them forever; leave "
                "even_batches on in accelerator_config, or set dataloader_drop_last"
            )
    if selector.steps:
        yield f"the Selector has made {selector.steps} selections already; give a new one"
    if (k := selector.k or 1) > size:
        yield (
            f"k = {k} is larger than a batch of {size}; raise per_device_train_batch_size, the "
            "large batch, or leave the rows of a short last one out, train.select(range(...))"
        )


def _token_problems(trainer: Any, selector: TokenSelector) -> Iterator[str]:
    """Yield why a TokenSelector cannot train."""
    model, causal = trainer.model, (None, "ForCausalLM", "ForConditionalGeneration")
    config = getattr(model, "config", None)
    encoder = getattr(config, "is_encoder_decoder", False)
    if encoder or getattr(model, "loss_type", None) not in causal:
        yield f"a TokenSelector is for causal language models, got {type(model).__name__}"
    own_loss = trainer.label_smoother or trainer.compute_loss_func
    if own_loss is not None or getattr(trainer.args, "loss_type", "nll") == "dft":
        yield (
            "a TokenSelector gives the loss; leave label_smoothing_factor at 0, loss_type at nll "
            "and compute_loss_func off"
        )
    if trainer.args.n_gpu > 1:
        yield f"a TokenSelector takes one GPU a process, got {trainer.args.n_gpu}; use torchrun"
    if getattr(config, "output_router_logits", False):
        yield (
            "a TokenSelector adds no losses of routers; set output_router_logits of the model's "
            "config to False, of an SFTConfig router_aux_loss_coef to 0"
        )
    tokenizers = (trainer.processing_class, getattr(trainer.data_collator, "tokenizer", None))
    if selector.il and any(
        is_of_another(one, trainer.train_dataset, selector.il) for one in tokenizers
    ):
        yield (
            f"column {selector.il!r} holds losses of the tokens of another tokenizer than that of "
            "the Trainer or its collator; compute it again by add_reference_losses"
        )
    if selector.reference is model:
        yield "the reference model must be another one than the model that is trained"
    reference = getattr(selector.reference, "config", config)
    own, other = (getattr(one, "vocab_size", None) for one in (config, reference))
    if own != other:
        yield (
            f"the reference must have the vocabulary of the model, {own} tokens, got {other}; "
            "if one of them is padded, store its losses by add_reference_losses"
        )


def _state_path(folder: str) -> Path:
    rank, world = rank_and_world()
    return Path(folder) / f"selector-{rank}-of-{world}.pt"
