"""Evaluations of a model in training, which do not change the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rho_train.batch import split, to
from rho_train.dataset import IndexedDataset
from rho_train.scoring import ForwardFunction, device_of, output_of, scoring_mode

# Limits of one batch: examples, and numbers in their inputs, of which convolutions make many.
_EVAL_ROWS = 4096
_EVAL_NUMBERS = 1 << 18


class Evaluation(NamedTuple):
    """Accuracy in [0, 1] and mean cross-entropy in nats on an evaluation set, and the accuracy by
    class, None for a class without an example."""

    accuracy: float
    loss: float
    class_accuracy: list[float | None]


def evaluate(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    bf16: bool | None = None,
    forward: ForwardFunction | None = None,
) -> Evaluation:
    """Evaluate a classifier on its device, in eval mode, on a map-style set of pairs or dicts."""
    data = eval_data(dataset)
    device, n, rows = device_of(model), len(data), _batch_rows(data)
    found, wanted, loss, classes = [], [], 0.0, 0
    with scoring_mode(model, bf16=bf16) as scorer:
        for begin in range(0, n, rows):
            examples = data.__getitems__(range(begin, min(begin + rows, n)))
            batch = to(data.collate(examples), device)
            fields = split(batch, "evaluate")
            logits = output_of("evaluate", scorer, batch, fields, forward, None).float()
            loss += float(F.cross_entropy(logits, fields.labels.long(), reduction="sum"))
            found.append(logits.argmax(1))
            wanted.append(fields.labels)
            classes = logits.shape[1]
    labels = torch.cat(wanted)
    right = torch.cat(found) == labels
    counts = labels[labels >= 0].bincount(minlength=classes).tolist()
    hits = labels[right].bincount(minlength=classes).tolist()
    by_class = [hit / count if count else None for hit, count in zip(hits, counts, strict=True)]
    return Evaluation(float(right.double().mean()), loss / n, by_class)


def eval_data(dataset: Dataset[Any], device: torch.device | None = None) -> IndexedDataset:
    """Wrap an evaluation set; tensors that are read as they are move to the device once."""
    data = dataset if isinstance(dataset, IndexedDataset) else IndexedDataset(dataset)
    inner = data.dataset
    plain = type(inner) is TensorDataset and data.collate_fn is None
    if device is None or not plain or len(inner.tensors) != 2:
        return data
    return IndexedDataset(TensorDataset(*(tensor.to(device) for tensor in inner.tensors)))


def _batch_rows(data: IndexedDataset) -> int:
    inputs = split(data.collate(data.__getitems__([0])), "evaluate").inputs
    tensors = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    numbers = max((t.numel() for t in tensors if isinstance(t, Tensor)), default=1)
    return max(1, min(_EVAL_ROWS, _EVAL_NUMBERS // max(1, numbers)))
