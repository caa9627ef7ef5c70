"""Models of the irreducible loss: trained on points that the target does not train on."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rho_ext
from rho_train.data import (
    IndexedDataset,
    LargeBatchSampler,
    fingerprint,
    generator,
    loader,
    split,
    to,
)
from rho_train.il.store import ILStore
from rho_train.optim import adamw
from rho_train.progress import OnStep, Stopped, go_on
from rho_train.scoring import logits_of, scoring

MakeModel = Callable[[int], nn.Module]
"""Builds a fresh model from a seed."""

_SCORING_BATCH = 4096
_IGNORED = -100


@dataclass(frozen=True)
class ILRecipe:
    """How an irreducible-loss model is trained.

    Its quality decides whether RHO-LOSS helps: a model that has not converged makes it worse than
    uniform selection, so train for long enough; the best epoch is kept.

    Args:
        epochs: passes over the points that the IL model trains on.
        batch_size: points a step.
        lr: AdamW learning rate, constant.
        weight_decay: of AdamW.
        seed: of initial weights, order and folds.
    """

    epochs: int = 40
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"ILRecipe: {name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"ILRecipe: lr must be positive, got {self.lr}")

    def steps(self, points: int) -> int:
        """Return the training steps for a number of points."""
        return self.epochs * (points // min(self.batch_size, points))


@dataclass(frozen=True)
class ILFit:
    """The lowest mean loss on the target's points, in nats, and the epoch (from 1) that has it."""

    loss: float
    epoch: int


def score_points(model: nn.Module, dataset: IndexedDataset, ids: Tensor) -> Tensor:
    """Return the loss of the model at each of the points, float32 (len(ids),) in nats.

    Eval mode, and whatever transform the data set applies: give it without augmentation
    (paper, Appendix B). Points with the label -100 (ignore_index) have no loss: NaN.

    Raises:
        IndexError: an id or a label is out of range.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, -100])))
        >>> score_points(nn.Linear(2, 1, bias=False), data, torch.tensor([0, 2]))
        tensor([0., nan])
    """
    positions = ids.tolist()
    chunks = [
        positions[begin : begin + _SCORING_BATCH]
        for begin in range(0, len(positions), _SCORING_BATCH)
    ]
    device = next(model.parameters()).device
    losses = [torch.empty(0)]
    for batch in loader(dataset, chunks):
        fields = split(to(batch, device), "score_points")
        with scoring(model) as scorer:
            logits = logits_of(scorer, fields.inputs)
            scored = rho_ext.score(logits, fields.labels, None, method="loss").losses
        losses.append(scored.masked_fill(fields.labels == _IGNORED, torch.nan).cpu())
    return torch.cat(losses)


def fit_il(
    model: nn.Module,
    dataset: IndexedDataset,
    train_ids: Tensor,
    target_ids: Tensor,
    recipe: ILRecipe,
    *,
    on_step: OnStep = go_on,
) -> ILFit:
    """Train a model on some points and keep the epoch with the lowest mean loss on the others.

    The paper selects the checkpoint by loss, not accuracy, and on the points that the target will
    train on (section 4 and Appendix B), never on the test set. Dropout draws from the recipe's
    seed; the global generators are left as they were.

    Args:
        model: trained in place; it ends with the weights of the best epoch.
        dataset: holds all points.
        train_ids: int64 (m,), the points that the model trains on.
        target_ids: int64 (n,), the points whose irreducible loss is wanted.
        recipe: epochs, batch size, AdamW.
        on_step: called with the number of steps that were made; returns whether to stop.

    Returns:
        The lowest mean loss on `target_ids`, and its epoch.

    Raises:
        ValueError: the two sets share a point: its loss would not be irreducible but memorised.
        FloatingPointError: the loss on the target's points was never finite.
        Stopped: `on_step` asked for it; the model is not usable.
    """
    shared = train_ids[torch.isin(train_ids, target_ids)]
    if len(shared):
        raise ValueError(
            f"fit_il: {len(shared)} points are in train_ids and in target_ids, the first has id "
            f"{int(shared[0])}; the IL model must not train on a point that it scores"
        )
    batch_size = min(recipe.batch_size, len(train_ids))
    sampler = LargeBatchSampler(train_ids, batch_size, seed=recipe.seed)
    batches = iter(loader(dataset, sampler, seed=recipe.seed))
    device = next(model.parameters()).device
    optimizer = adamw(model, recipe.lr, recipe.weight_decay)
    best, best_state = ILFit(float("inf"), 0), None
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        for epoch in range(1, recipe.epochs + 1):
            for batch in islice(batches, sampler.batches_per_epoch):
                fields = split(to(batch, device), "fit_il")
                loss = F.cross_entropy(logits_of(model, fields.inputs), fields.labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if on_step(1):
                    raise Stopped("the training of the IL model was stopped")
            target_loss = float(score_points(model, dataset, target_ids).nanmean())
            if target_loss < best.loss:
                best, best_state = ILFit(target_loss, epoch), copy.deepcopy(model.state_dict())
    if best_state is None:
        raise FloatingPointError(
            "fit_il: the loss on the target's points was NaN or infinite after every epoch; "
            "lower ILRecipe.lr"
        )
    model.load_state_dict(best_state)
    return best


def holdout_il(
    make_model: MakeModel,
    dataset: IndexedDataset,
    holdout_ids: Tensor,
    recipe: ILRecipe,
    *,
    on_step: OnStep = go_on,
) -> ILStore:
    """Train on a holdout and score every other point (paper, section 3).

    The irreducible loss of the held-out points themselves stays unknown (NaN): train the target
    on the others.

    Raises:
        ValueError: the holdout is empty, holds all points, or has ids out of range.

    Example:
        >>> from rho_train import models
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.rand(40, 2), torch.arange(40) % 2))
        >>> make = lambda seed: models.mlp(2, [8], 2, seed=seed)
        >>> store = holdout_il(make, data, torch.arange(20), ILRecipe(epochs=1))
        >>> int(store.known.sum())
        20
    """
    started = time.perf_counter()
    n = len(dataset)
    held_out = torch.zeros(n, dtype=torch.bool)
    if len(holdout_ids) and not 0 <= int(holdout_ids.min()) <= int(holdout_ids.max()) < n:
        raise ValueError(f"holdout_il: holdout_ids must lie in [0, {n}), the points of dataset")
    held_out[holdout_ids] = True
    targets = (~held_out).nonzero().flatten()
    if len(targets) in (0, n):
        raise ValueError(
            f"holdout_il: {n - len(targets)} of {n} points are held out; hold out some and leave "
            "some, half is a good start"
        )
    model = make_model(recipe.seed)
    fit = fit_il(model, dataset, held_out.nonzero().flatten(), targets, recipe, on_step=on_step)
    il = torch.full((n,), torch.nan)
    il[targets] = score_points(model, dataset, targets)
    return ILStore(il, fingerprint(dataset), info=_info("holdout", [model], [fit], recipe, started))


def crossfit_il(
    make_model: MakeModel,
    dataset: IndexedDataset,
    folds: int,
    recipe: ILRecipe,
    *,
    on_step: OnStep = go_on,
) -> ILStore:
    """Score every point with a model that never saw it, without a holdout (paper, Appendix A).

    Model f trains on all folds but f and scores fold f; ids are global everywhere, so no point
    can be scored by a model that trained on it. `fold` of the store says which model scored which
    point.

    Raises:
        ValueError: fewer than 2 folds, or more folds than points.

    Example:
        >>> from rho_train import models
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.rand(40, 2), torch.arange(40) % 2))
        >>> make = lambda seed: models.mlp(2, [8], 2, seed=seed)
        >>> bool(crossfit_il(make, data, 2, ILRecipe(epochs=1)).known.all())
        True
    """
    started = time.perf_counter()
    n = len(dataset)
    if not 2 <= folds <= n:
        raise ValueError(f"crossfit_il: folds must lie in [2, {n}], got {folds}")
    order = torch.randperm(n, generator=generator(recipe.seed, "cross-fit folds"))
    fold = torch.empty(n, dtype=torch.int16)
    fold[order] = (torch.arange(n) % folds).to(torch.int16)
    il = torch.full((n,), torch.nan)
    models, fits = [], []
    for f in range(folds):
        model = make_model(recipe.seed + f)
        left_out = (fold == f).nonzero().flatten()
        rest = (fold != f).nonzero().flatten()
        fits.append(fit_il(model, dataset, rest, left_out, recipe, on_step=on_step))
        il[left_out] = score_points(model, dataset, left_out)
        models.append(model)
    info = _info(f"cross-fit, {folds} folds", models, fits, recipe, started)
    return ILStore(il, fingerprint(dataset), fold=fold, info=info)


def _info(
    kind: str, models: list[nn.Module], fits: list[ILFit], recipe: ILRecipe, started: float
) -> dict[str, str]:
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return {
        "kind": kind,
        "model": f"{type(models[0]).__name__}, {sum(p.numel() for p in models[0].parameters())} "
        "parameters",
        "weights_sha256": digest.hexdigest(),
        "recipe": repr(recipe),
        "holdout_loss": ", ".join(f"{fit.loss:.6f}" for fit in fits),
        "best_epoch": ", ".join(str(fit.epoch) for fit in fits),
        "seconds": f"{time.perf_counter() - started:.3f}",
    }
