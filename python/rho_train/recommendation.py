"""One recommendation for a task: which way to train pays there, and why."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from rho_train.agreement import AgreementSampler
from rho_train.batch import to
from rho_train.checksums import read_checksums
from rho_train.dataset import IndexedDataset
from rho_train.dry_run import unchanged
from rho_train.rng import generator
from rho_train.sampler import loader
from rho_train.scoring import ForwardFunction, device_of
from rho_train.training_step import adamw, training_step

# Thresholds, and where they were measured.
_DUPLICATES = 0.05
# `estimate_wrong` says 0.06 to 0.18 of right labels, 0.24 to 0.34 where 20 % are drawn anew, and
# 0.39 to 0.52 where 40 % are, on Letters, OCR letters and Fashion-MNIST: results/estimate/runs.csv.
# Of a model that has not learnt yet it says 0.83. With 20 % no method is ahead on all three sets.
_WRONG, _MANY, _UNLEARNT = 0.21, 0.36, 0.6
# Where 40 % are wrong GCE is level or ahead of agreement with 4, level or behind with 8.
_PASSES = 6
# With 40 % wrong labels a filter with smoothing has within 4 passes what GCE has after 4.7 (OCR
# letters), 5.5 (Letters) or 5.9 (Fashion-MNIST), and the best IL costs 10.3. With 20 % it is ahead
# of GCE on Letters alone. With more passes agreement is ahead of both: results/rivals/runs.csv.
_MODELS = 10

_SHORT = 3  # passes of the training that estimates
_LEAST, _MOST = 1000, 5000  # examples of it


def recommend(
    *, wrong: float | None, models: int = 1, passes: float = 10.0, duplicates: float = 0.0
) -> str:
    """Return what to do, as options of `rho-ext train` where it has them, and why.

    Args:
        wrong: share of the labels that look wrong, in [0, 1]; None: unknown.
        models: that will be trained on the data; they share one computation of IL.
        passes: over the data, that a run makes.
        duplicates: share of the examples whose inputs occurred before.

    Examples:
        >>> print(recommend(wrong=0.02))
        Recommended: rho-ext train, with the same task and --method uniform --train.schedule cos...
        Why: 2 % of the labels look wrong, too few for selection to pay
    """
    train, decayed = "rho-ext train, with the same task and --method", "--train.schedule cosine"
    smoothed = f"{decayed} --train.label_smoothing 0.3"
    plain = f"{train} uniform {smoothed}"
    look = f"{100 * (wrong or 0.0):.0f} % of the labels look wrong"
    if duplicates >= _DUPLICATES:
        what = "leave out what rho_train.find_duplicates finds, then plan again"
        why = f"{100 * duplicates:.0f} % of the examples repeat the inputs of others"
    elif wrong is None:
        what = plain
        why = "a short training did not tell wrong labels; give more --seconds or --train.lr"
    elif wrong < _WRONG:
        what, why = plain, f"{look}, too few for selection to pay"
    elif passes > _PASSES and wrong < _MANY:
        what, why = plain, f"{look}; of so many no way to train is sure to gain more"
    elif passes > _PASSES:
        what = f"{train} agreement {smoothed}"
        why = f"{look}, and {passes:.0f} passes are enough to leave them out, if they are wrong at "
        why += "random; look at the worst class, too"
    elif models >= _MODELS and wrong >= _MANY:
        what = "rho-ext il compute once, then store.lowest(share of right labels) and smoothing 0.3"
        why = f"{look}, and {models} models of {passes:.1f} passes earn the IL back"
    else:
        what = f"{train} uniform {decayed} --train.gce 0.3"
        why = f"{look}, and {passes:.1f} passes are few: a robust loss needs no time to find them"
    return f"Recommended: {what}\nWhy: {why}"


def estimate_wrong(
    model: nn.Module,
    dataset: IndexedDataset,
    *,
    batch: int,
    lr: float,
    steps: int,
    forward: ForwardFunction | None = None,
) -> float | None:
    """Return the share of the labels that a short training by agreement contradicts.

    A copy of the model makes three passes over up to 5,000 random examples; None if it has no steps
    for 1,000, diverges, or contradicts most. What is hard to learn in three passes counts too.
    """
    n = min(len(dataset), _MOST, steps * batch // _SHORT)
    if n < _LEAST:
        return None
    device, batch = device_of(model), min(batch, n)
    order = torch.randperm(len(dataset), generator=generator(0, "estimate"), device="cpu")
    sampler = AgreementSampler(order[:n], batch, steps=_SHORT * n // batch)
    with unchanged(model):
        target = copy.deepcopy(model).train()
        optimizer, batches = adamw(target, lr, 0.01), loader(dataset, sampler)
        while sampler.step < sampler.steps:
            for found in batches:
                options: dict[str, Any] = {"label_smoothing": 0.3, "forward": forward}
                made = training_step(target, to(found, device), optimizer, where="plan", **options)
                assert made.logits is not None
                sampler.update(made.fields.ids, made.logits, made.fields.labels)
            sampler.rescore(target, batches, forward=forward)
    sampler._margins.absorb(1)
    share = int(sampler._margins.contradicted().sum()) / n
    return share if share <= _UNLEARNT and made.loss.isfinite() else None


def share_of_duplicates(dataset: IndexedDataset) -> float:
    """Return about the share of the examples whose inputs occurred before, by 5,000 of them."""
    order = torch.randperm(len(dataset), generator=generator(0, "estimate"), device="cpu")
    found = [one.sha256 for one in read_checksums(dataset, order[:_MOST].tolist())]
    # Both copies of an example are seldom among some of all.
    return min(1.0, (1.0 - len({*found}) / len(found)) * len(dataset) / len(found))
