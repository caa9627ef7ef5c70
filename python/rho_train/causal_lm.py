"""Losses of causal language models, as transformers has them, and selection of their tokens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from rho_train.batch import describe
from rho_train.linear import linear_cross_entropy, linear_score
from rho_train.sequences import mean_losses, sequence_losses
from rho_train.tokens import TokenSelection, check_ratio, select_tokens, token_losses, token_share

# Heads with another step after them, such as a bound of the logits, also one in place.
_NOT_PLAIN: WeakSet[nn.Module] = WeakSet()


def _logits(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Return the logits (B, T, V), or what the head gives in their place."""
    config = getattr(getattr(model, "module", model), "config", None)
    # With a cache sequences that are packed by position ids see each other.
    own = {"use_cache": False} if hasattr(config, "use_cache") else {}
    logits: Tensor = model(**{**own, **inputs}).logits
    return logits


def _at_head(
    model: nn.Module,
    inputs: Mapping[str, Any],
    shape: torch.Size,
    score: Callable[[Tensor, nn.Linear], Tensor],
) -> Tensor | None:
    """Return what `score(hidden, head)` gives in place of the logits of tokens (B, T), or None.

    The head is called as always, so that its hooks and sharded weights are served. If the model
    returns what it was given, nothing comes after it.
    """
    inner = getattr(model, "module", model)  # of DistributedDataParallel
    head = getattr(inner, "get_output_embeddings", lambda: None)()
    # A forward of its own is of whoever has put it there. A compiled model would be compiled again
    # each time.
    if (
        type(head) is not nn.Linear
        or head in _NOT_PLAIN
        or "forward" in vars(head)
        or head.weight.dtype == torch.float64
        or any(hasattr(one, "_orig_mod") for one in (model, inner))
    ):
        return None
    given, plain = list[tuple[Tensor, int]](), list[bool]()

    def forward(hidden: Tensor) -> Tensor:
        # In parts, or of few bits.
        holds_tensors = any(map(is_traceable_wrapper_subclass, (hidden, head.weight)))
        if holds_tensors or hidden.shape[:-1] != shape:
            return F.linear(hidden, head.weight, head.bias)
        found = score(hidden, head)
        with torch.inference_mode(False):  # whose tensors do not count their changes
            found = found.clone()
        given.append((found, found._version))
        return found

    def compare(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        logits = getattr(outputs, "logits", None)
        plain.append(any(logits is one and one._version == version for one, version in given))

    try:
        with inner.register_forward_hook(compare), mock.patch.object(head, "forward", forward):
            logits = _logits(model, inputs)
    except torch.OutOfMemoryError:
        raise  # logits would take more
    except Exception:
        # It may come of losses in the place of logits, but not if there were none yet.
        if not given:
            raise
    else:
        if plain[-1]:
            return logits
    _NOT_PLAIN.add(head)
    return None


def _next(labels: Tensor, end: float) -> Tensor:
    """Return the values (B, T) of the next token, and `end` after the last one."""
    return F.pad(labels[:, 1:], (0, 1), value=end)


@torch.no_grad()
def predicted_losses(model: nn.Module, inputs: Mapping[str, Any], targets: Tensor) -> Tensor:
    """Return the losses (B, T) of the target at each token, without logits where possible."""

    def score(hidden: Tensor, head: nn.Linear) -> Tensor:
        return linear_score(hidden, head.weight, targets, bias=head.bias).losses

    losses = _at_head(model, inputs, targets.shape, score)
    return token_losses(_logits(model, inputs), targets) if losses is None else losses


def lm_losses(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the mean token loss of every sequence (n,), for `Selector(loss_fn=lm_losses)`.

    For causal and encoder-decoder models of transformers; NaN for a sequence without labels.
    Scoring a causal model whose head is a plain `nn.Linear` makes no logits (`linear_score`).
    """
    inputs = {name: value for name, value in batch.items() if name not in ("ids", "labels")}
    labels = batch["labels"]
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return sequence_losses(model(**inputs, labels=labels).logits, labels)
    if torch.is_grad_enabled():
        return sequence_losses(_logits(model, inputs), labels, shift=True)
    targets = _next(labels, -100)
    return mean_losses(predicted_losses(model, inputs, targets), targets)


class TokenSelector:
    """Select the tokens of each batch that are worth training on, for causal language models.

    The score of a token is its loss minus that of a reference model (Rho-1, Lin et al., NeurIPS
    2024), by the pass that trains: `select_tokens`, and without logits `linear_cross_entropy` where
    the head is a plain `nn.Linear` with nothing after it, as in Llama, Qwen, Mistral, GPT-2 and
    GPT-NeoX, and the model is not compiled.

    Args:
        ratio: in (0, 1], the share of the tokens of each batch that have a label and a known
            reference loss; 1 is plain training.
        reference: a causal model with the same tokenizer. It is put into eval mode.
        il: instead of it, the column of its losses, as `add_reference_losses` gives; with neither
            the score is the loss.

    Calling it with a model and a batch, whose labels stand beside their own token, returns a
    `TokenSelection` at the tokens that predict them. `last` is the last one, without its graph. A
    ValueError or TypeError if an argument or the batch is not as described.

    Examples:
        >>> selector = TokenSelector(ratio=0.6, il="il")
        >>> trainer = SelectionTrainer(model, args, train_dataset=data, selector=selector)
        ... # doctest: +SKIP
    """

    def __init__(
        self, *, ratio: float, reference: nn.Module | None = None, il: str | None = None
    ) -> None:
        check_ratio("TokenSelector", ratio)
        for name, value, kind in (("reference", reference, nn.Module), ("il", il, str)):
            if value is not None and not isinstance(value, kind):
                wanted = "a model" if name == "reference" else "the name of a column"
                raise TypeError(f"TokenSelector: {name} must be {wanted}, got {describe(value)}")
        if reference is not None and il is not None:
            raise ValueError("TokenSelector: give a reference or its losses in il, got both")
        self.ratio, self.il = ratio, il
        self.reference = None if reference is None else reference.eval()
        self.last: TokenSelection | None = None

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> TokenSelection:
        """Return the mean loss of the selected tokens of a batch, and which ones these are."""
        targets, il = self._targets(batch)
        without = ("ids", "labels", self.il)
        inputs = {name: value for name, value in batch.items() if name not in without}
        if self.reference is not None:
            il = predicted_losses(self.reference, inputs, targets)
        selections = list[TokenSelection]()

        def score(hidden: Tensor, head: nn.Linear) -> Tensor:
            weight, bias = head.weight, head.bias
            loss, selected = linear_cross_entropy(
                hidden, weight, targets, bias=bias, il=il, ratio=self.ratio
            )
            selections.append(selected)
            return loss.expand(targets.shape)

        loss = _at_head(model, inputs, targets.shape, score)
        if loss is None:
            selected = select_tokens(_logits(model, inputs), targets, il=il, ratio=self.ratio)
        else:
            selected = selections[-1]._replace(loss=loss[0, 0])
        self.last = selected._replace(loss=selected.loss.detach())
        return selected

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the number () of tokens that will be selected of a batch."""
        targets, il = self._targets(batch)
        valid = targets != -100
        return token_share((valid if il is None else valid & (il < torch.inf)).sum(), self.ratio)

    def _targets(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return the labels that the tokens predict, and their losses in the column, (B, T)."""
        labels = batch.get("labels")
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            raise ValueError(
                f"TokenSelector: a batch must have labels (B, T), got {describe(labels)} beside "
                f"{', '.join(batch)}; let the collator make them, as "
                "DataCollatorForLanguageModeling(tokenizer, mlm=False) does"
            )
        il = batch.get(self.il) if self.il else None
        if self.il and (not isinstance(il, Tensor) or il.shape != labels.shape):
            raise ValueError(
                f"TokenSelector: column {self.il!r} must have the shape of labels, "
                f"{tuple(labels.shape)}, got {describe(il)}; it holds a loss for each of input_ids"
            )
        return _next(labels, -100), None if il is None else _next(il, torch.nan)

    def metrics(self) -> dict[str, float]:
        """Return the numbers of the last batch, by names as of `Selector.metrics`.

        Reads the device. A warning if no token of it could be selected.
        """
        if self.last is None:
            return {}
        if not self.last.k:
            warnings.warn(
                "TokenSelector: no token of the last batch has a label and a reference loss that "
                "is a number; look at labels, il and the reference model",
                stacklevel=2,
            )
        selected = {"selected": self.last.k, "small_batch_loss": self.last.loss}
        return {f"selection/{name}": float(value) for name, value in selected.items()}
