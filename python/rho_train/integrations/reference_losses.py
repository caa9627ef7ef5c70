"""Losses of tokens by a reference model, as a column of a data set and in batches."""

from __future__ import annotations

import hashlib
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rho_train.causal_lm import predicted_losses
from rho_train.identity import module_digest


def _fingerprint(tokenizer: Any) -> str:
    """Return a hash of the tokens of a tokenizer but those that were added; empty for another."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    if not hasattr(tokenizer, "get_vocab"):
        return ""
    tokens = [(i, token) for token, i in tokenizer.get_vocab().items() if i < tokenizer.vocab_size]
    return hashlib.sha256(repr(sorted(tokens)).encode()).hexdigest()[:16]


def _note(column: str, tokenizer: str) -> str:
    """Return what the description of a data set says of the tokenizer of a column."""
    return f"\n{column}: losses of tokens by tokenizer {tokenizer}"


def is_of_another(tokenizer: Any, dataset: Any, column: str) -> bool:
    """Return True if the losses of a column are known to be those of another tokenizer."""
    text = getattr(getattr(dataset, "info", None), "description", None) or ""
    own = _fingerprint(tokenizer)
    return bool(own) and _note(column, "") in text.replace(_note(column, own), "")


def add_reference_losses(
    dataset: Any,
    model: nn.Module,
    collate: Callable[[Any], Any],
    *,
    column: str = "il",
    batch_size: int = 8,
    tokenizer: Any = None,
) -> Any:
    """Return a `datasets.Dataset` with the losses of its tokens by a reference model.

    For `TokenSelector(il="il")`. If the data set is on disk, the library keeps the column in a
    memory-mapped file beside it, and reads that if called again with the same rows, weights and
    collator: of each part, for `dataset.shard`.

    Args:
        dataset: with `input_ids`, as long as in training.
        model: a causal language model of transformers with the same tokenizer, on its device; it is
            put into eval mode.
        collate: the collator of the training, such as DataCollatorForLanguageModeling;
            it must pickle.
        column: its name; a list of float16 for each row, NaN where a token has no label.
        batch_size: rows in memory at a time.
        tokenizer: that of the model, to refuse another one in the collator and, as the data set
            remembers it, in a Trainer and its collator; None: that of the collator.

    A TypeError or ValueError if an argument is not as described.
    """
    names = getattr(dataset, "column_names", None)
    if not names or not hasattr(dataset, "_fingerprint"):
        raise TypeError(
            "add_reference_losses: dataset must be a datasets.Dataset, got "
            f"{type(dataset).__name__}; give parts of a DatasetDict one by one, and for a stream "
            "TokenSelector(reference=model)"
        )
    if column in names or "input_ids" not in names:
        raise ValueError(
            f"add_reference_losses: wanted input_ids and a new column, got {column!r} beside the "
            f"columns {', '.join(names)}; remove_columns, or give column="
        )
    both = {_fingerprint(one) for one in (tokenizer, getattr(collate, "tokenizer", None))} - {""}
    if len(both) > 1:
        raise ValueError(
            "add_reference_losses: tokenizer, that of the model, and the collator's have different "
            "tokens; choose a reference that shares the tokenizer of the data"
        )
    from datasets import Features, Value
    from datasets.fingerprint import Hasher

    device = next(model.parameters()).device
    # The collator of TRL cuts packed rows at seq_lengths.
    known = ("labels", "seq_lengths", *inspect.signature(model.forward).parameters)
    kept = [name for name in names if name in known]
    model.eval()

    def score(*columns: Any) -> dict[str, Any]:
        rows = [dict(zip(kept, row, strict=True)) for row in zip(*columns, strict=True)]
        lengths, batch = [len(row["input_ids"]) for row in rows], collate(rows)
        inputs = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in batch.items()}
        targets = F.pad(inputs.pop("labels")[:, 1:], (0, 1), value=-100)
        losses = predicted_losses(model, inputs, targets).masked_fill(targets == -100, torch.nan)
        own = F.pad(losses[:, :-1], (1, 0), value=torch.nan).half().cpu()
        flat = own[_places("add_reference_losses", batch, lengths)].numpy()
        return {column: np.split(flat, np.cumsum(lengths)[:-1])}

    found = dataset.map(
        score,
        batched=True,
        batch_size=batch_size,
        input_columns=kept,
        features=Features({**dataset.features, column: [Value("float16")]}),
        new_fingerprint=Hasher.hash(
            (dataset._fingerprint, column, kept, collate, module_digest(model))
        ),
    )
    # Losses that were in the column before are gone.
    old = re.sub(re.escape(_note(column, "")) + r"\w*", "", found.info.description or "")
    found.info.description = old + "".join(_note(column, one) for one in both)
    return found


def at_tokens(name: str, values: Sequence[Any], batch: Mapping[str, Any]) -> Tensor:
    """Return numbers of each token of examples as in their batch (B, T), NaN at padding."""
    where = f"SelectionTrainer: column {name!r}"
    try:
        flat = np.concatenate([np.asarray(row, dtype="f4") for row in values])
    except (TypeError, ValueError):
        raise ValueError(
            f"{where} must hold a list of numbers for each example, as add_reference_losses gives, "
            f"got {reprlib.repr(values[0])}"
        ) from None
    places = _places(where, batch, [len(row) for row in values])
    il = torch.full(places.shape, torch.nan, dtype=torch.float32, device="cpu")
    il[places] = torch.from_numpy(flat)
    return il


def _places(where: str, batch: Mapping[str, Any], lengths: list[int]) -> Tensor:
    """Return the mask (B, T) of the tokens of examples in a batch, padded or in one row.

    Without an attention mask padding is taken to follow the tokens.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    in_rows, wanted = len(ids) == len(lengths), torch.tensor(lengths, device="cpu")
    if mask is None or mask.shape != ids.shape:
        before_end = torch.arange(ids.shape[1], device="cpu") < wanted[:, None]
        mask = before_end if in_rows else torch.ones_like(ids)
    if in_rows:  # Rows may have been padded before.
        mask = mask.bool() | (wanted == ids.shape[1])[:, None]
    found = mask.sum(1).tolist()
    if (found if in_rows else [sum(found)]) != (lengths if in_rows else [sum(lengths)]):
        raise ValueError(
            f"{where}: examples of {reprlib.repr(lengths)} tokens do not fit their batch "
            f"{tuple(ids.shape)} with {reprlib.repr(found)} tokens; truncate and pack before"
        )
    return mask.bool()
