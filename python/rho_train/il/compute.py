"""Irreducible losses by models that do not train on the points that they score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rho_train.checks import check_ids
from rho_train.dataset import IndexedDataset, check_indexed, fingerprint
from rho_train.distributed import rank_and_world
from rho_train.dry_run import dry_run, dry_run_losses
from rho_train.files import make_folder
from rho_train.il.checksums import InputChecksums, check_folder, unaugmented_checksums
from rho_train.il.recipe import ILRecipe
from rho_train.il.score import (
    SCORING_BATCH,
    loss_identity,
    score_examples,
    wait_for,
    weights_sha256,
)
from rho_train.il.store import ILStore
from rho_train.il.train import ILFit, best_path, train_il
from rho_train.progress import OnStep, no_op
from rho_train.rng import generator
from rho_train.scoring import LossFunction

MakeModel = Callable[[int], nn.Module]
"""Builds a fresh model from a seed."""


def holdout_il(
    make_model: MakeModel,
    dataset: IndexedDataset,
    holdout_ids: Tensor,
    recipe: ILRecipe,
    *,
    losses: LossFunction | None = None,
    augmented: IndexedDataset | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILStore:
    """Train on a holdout and score every other point (paper, section 3).

    The irreducible loss of the held-out points themselves stays unknown (NaN): train the target
    on the others.

    Args:
        make_model: builds the model from `recipe.seed`.
        dataset: all points, without augmentation (paper, Appendix B).
        holdout_ids: int64 (m,), the points to train on.
        recipe: how.
        losses: for points that are no classification, see `Selector`.
        augmented: the same points with augmentation, to train on, see `train_il`.
        folder: for checkpoints, see `train_il` and `score_examples`: after a kill the same call goes
            on and gives the same bits; under an initialised process group the ranks share the
            work. Delete it when the store is saved.
        on_step: called with the number of training steps that were made; returns whether to stop.

    Raises:
        TypeError, IndexError, ValueError: the ids, the data or the model do not fit, see `train_il`;
            the holdout holds all points; `dataset` gives other inputs when it is read again;
            `make_model` returns one model for two folds; or the folder belongs to other work.
        OSError: the folder cannot be written.
        Stopped: `on_step` asked for it.

    Example:
        >>> from rho_train import models
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.rand(40, 2), torch.arange(40) % 2))
        >>> make = lambda seed: models.mlp(2, [8], 2, seed=seed)
        >>> store = holdout_il(make, data, torch.arange(20), ILRecipe(epochs=1))
        >>> int(store.known.sum())
        20
    """
    check_indexed("holdout_il", dataset)
    n = len(dataset)
    check_ids("holdout_il", "holdout_ids", holdout_ids, n)
    held_out = torch.zeros(n, dtype=torch.bool)
    held_out[holdout_ids] = True
    targets = (~held_out).nonzero().flatten()
    if len(targets) == 0:
        raise ValueError(
            f"holdout_il: all {n} points are held out; leave some, half is a good start"
        )
    inputs = _inputs("holdout_il", dataset, folder)
    job = (recipe.seed, held_out.nonzero().flatten(), targets)
    il, info = _compute(
        "holdout", make_model, dataset, augmented, [job], recipe, losses, folder, on_step
    )
    return ILStore(il, fingerprint(dataset), info=info, input_checksums=inputs)


def crossfit_il(
    make_model: MakeModel,
    dataset: IndexedDataset,
    folds: int,
    recipe: ILRecipe,
    *,
    losses: LossFunction | None = None,
    groups: Tensor | None = None,
    augmented: IndexedDataset | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILStore:
    """Score every point with a model that never saw it, without a holdout (paper, Appendix A).

    Model f trains on all folds but f and scores fold f; ids are global everywhere, so no point
    can be scored by a model that trained on it. `fold` of the store says which model scored which
    point. Points with the same number in `groups`, int64 (n,), are in one fold: copies of a point
    need that, else a model has seen what it scores. The other arguments are as in `holdout_il`;
    fold f starts from `recipe.seed + f`.

    Raises:
        ValueError: fewer than 2 folds, more folds than points or groups, or groups of another
            shape; otherwise as `holdout_il`.

    Example:
        >>> from rho_train import models
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.rand(40, 2), torch.arange(40) % 2))
        >>> make = lambda seed: models.mlp(2, [8], 2, seed=seed)
        >>> bool(crossfit_il(make, data, 2, ILRecipe(epochs=1)).known.all())
        True
    """
    check_indexed("crossfit_il", dataset)
    n = len(dataset)
    if not 2 <= folds <= n:
        raise ValueError(f"crossfit_il: folds must lie in [2, {n}], got {folds}")
    count, group = _numbered(groups, n)
    if count < folds:
        raise ValueError(f"crossfit_il: {folds} folds need as many groups, got {count}")
    inputs = _inputs("crossfit_il", dataset, folder)
    order = torch.randperm(count, generator=generator(recipe.seed, "cross-fit folds"))
    fold_of = torch.empty(count, dtype=torch.int16)
    fold_of[order] = (torch.arange(count) % folds).to(torch.int16)
    fold = fold_of[group]
    jobs = [
        (recipe.seed + f, (fold != f).nonzero().flatten(), (fold == f).nonzero().flatten())
        for f in range(folds)
    ]
    kind = f"cross-fit, {folds} folds"
    il, info = _compute(kind, make_model, dataset, augmented, jobs, recipe, losses, folder, on_step)
    return ILStore(il, fingerprint(dataset), fold=fold, info=info, input_checksums=inputs)


def pretrained_il(
    model: nn.Module,
    dataset: IndexedDataset,
    *,
    losses: LossFunction | None = None,
    batch_size: int = SCORING_BATCH,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILStore:
    """Score every point with a model that was trained elsewhere.

    It must not have seen these points, or their losses are memorised, not irreducible. A model
    trained for something else is a poor choice (Deng et al. 2023, table 7: zero-shot CLIP is worse
    than a small model trained on a holdout). Arguments and errors are those of `score_examples`, and
    a ValueError when `dataset` gives other inputs when it is read again.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 1])))
        >>> pretrained_il(nn.Linear(2, 2, bias=False), data).il
        tensor([0.6931, 0.6931, 0.6931])
    """
    started = time.perf_counter()
    check_indexed("pretrained_il", dataset)
    ids = torch.arange(len(dataset))
    if losses is None:
        dry_run("pretrained_il", model, dataset, ids[:32], ids)
    else:
        dry_run_losses("pretrained_il", model, dataset, ids[:32], losses)
    inputs = _inputs("pretrained_il", dataset, folder)
    il = score_examples(
        model,
        dataset,
        ids,
        losses=losses,
        batch_size=batch_size,
        folder=folder,
        on_step=on_step,
    )
    info = {
        "kind": "pretrained",
        **_describe(model),
        **loss_identity(losses),
        "weights_sha256": weights_sha256(model),
        "seconds": f"{time.perf_counter() - started:.3f}",
    }
    return ILStore(il, fingerprint(dataset), info=info, input_checksums=inputs)


def _numbered(groups: Tensor | None, n: int) -> tuple[int, Tensor]:
    """Return how many groups there are, and the number from 0 on of that of each point."""
    if groups is None:
        return n, torch.arange(n)
    if groups.shape != (n,):
        raise ValueError(
            f"crossfit_il: groups must have shape ({n},), one number a point, got "
            f"{tuple(groups.shape)}"
        )
    found, group = groups.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return len(found), group


def _compute(
    kind: str,
    make_model: MakeModel,
    dataset: IndexedDataset,
    augmented: IndexedDataset | None,
    jobs: Sequence[tuple[int, Tensor, Tensor]],
    recipe: ILRecipe,
    losses: LossFunction | None,
    folder: str | Path | None,
    on_step: OnStep,
) -> tuple[Tensor, dict[str, str]]:
    """Train a model for each (seed, train_ids, target_ids) and score its target_ids."""
    rank, world = rank_and_world() if folder is not None else (0, 1)
    latest: tuple[int, nn.Module] | None = None

    def fit(index: int, on_step: OnStep) -> tuple[nn.Module, ILFit]:
        nonlocal latest
        seed, train, target = jobs[index]
        model = make_model(seed)
        if latest is not None and latest[0] != index and latest[1] is model:
            raise ValueError(
                "make_model must build a new model for every fold, got the same one twice: it "
                "would score points that it has trained on"
            )
        latest = index, model
        path = _model_folder(folder, index)
        return model, train_il(
            model,
            dataset,
            train,
            target,
            recipe,
            losses=losses,
            augmented=augmented,
            folder=path,
            on_step=on_step,
        )

    if world > 1:
        for index in range(rank, len(jobs), world):
            fit(index, on_step)
    il = torch.full((len(dataset),), torch.nan)
    fits, weights, seconds = [], [], 0.0
    for index, (_, _, target) in enumerate(jobs):
        path = _model_folder(folder, index)
        if world > 1 and path is not None:
            wait_for(best_path(path), on_step)
        # Steps that this rank has reported above are not reported again.
        reported = world > 1 and index % world == rank
        model, result = fit(index, (lambda _: on_step(0)) if reported else on_step)
        started = time.perf_counter()
        il[target] = score_examples(
            model,
            dataset,
            target,
            losses=losses,
            batch_size=recipe.scoring_batch,
            folder=path,
            on_step=on_step,
        )
        seconds += result.seconds + time.perf_counter() - started
        fits.append(result)
        weights.append(weights_sha256(model))
    return il, {
        "kind": kind,
        **_describe(model),
        "weights_sha256": ", ".join(weights),
        "recipe": repr(recipe),
        **loss_identity(losses),
        "holdout_loss": ", ".join(f"{fit.loss:.6f}" for fit in fits),
        "best_epoch": ", ".join(str(fit.epoch) for fit in fits),
        "seconds": f"{seconds:.3f}",
    }


def _inputs(where: str, dataset: IndexedDataset, folder: str | Path | None) -> InputChecksums:
    """Return the input checksums of a data set, and compare them with those in the folder."""
    found = unaugmented_checksums(dataset)
    if folder is not None:
        make_folder(Path(folder), where)
        check_folder(Path(folder), found)
    return found


def _model_folder(folder: str | Path | None, index: int) -> Path | None:
    return None if folder is None else Path(folder) / f"model-{index}"


def _describe(model: nn.Module) -> dict[str, str]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"model": f"{type(model).__name__}, {parameters} parameters"}
