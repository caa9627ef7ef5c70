"""Irreducible losses by models that do not train on the examples that they score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rho_train.checks import MakeModel, build_model, check_ids
from rho_train.checksums import check_plain
from rho_train.dataset import IndexedDataset, check_indexed, fingerprint
from rho_train.distributed import agree, on_all, rank_and_world
from rho_train.dry_run import dry_run
from rho_train.identity import digest, module_digest
from rho_train.il.score import SCORING_BATCH, names_of, score_examples, warn_near_chance
from rho_train.il.store import ILStore
from rho_train.il.train import ILRecipe, train_il
from rho_train.progress import OnStep, no_op
from rho_train.rng import generator
from rho_train.run_folder import RunFolder
from rho_train.scoring import ForwardFunction, LossFunction
from rho_train.training_step import MakeOptimizer


def holdout_il(
    make_model: MakeModel,
    dataset: IndexedDataset,
    holdout: Tensor | IndexedDataset,
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    optimizer: MakeOptimizer | None = None,
    augmented: IndexedDataset | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILStore:
    """Train on a holdout and score every other example (paper, section 3).

    Held-out examples of `dataset` stay unknown (NaN): train the target on the others. A data set of
    its own, such as a small curated one, steers: RHO-LOSS leaves what is unlike it, as that has a
    high IL. Every example gets IL then, so `dataset` must not have those of the holdout; the model
    trains on four fifths of the holdout and ends as it was best on the others.

    Args:
        make_model: builds the model from `recipe.seed`.
        dataset: all examples, without augmentation (paper, Appendix B).
        holdout: the examples to train on: int64 (m,), ids of `dataset`, or a data set of its own
            with labels of the same classes.
        recipe: epochs, batch size, AdamW; `ILRecipe.finetune()` for a pretrained model.
        forward: called as `forward(model, batch)`, returns logits (n, C); None: the model's call.
        loss_fn: for examples that are no classification, see `Selector`; they need no labels.
        optimizer: makes the optimizer of a model, whose rates follow the schedule of the recipe;
            None: AdamW with `lr` and `weight_decay` of the recipe.
        augmented: `dataset`, or the holdout of its own, with augmentation, to train on.
        folder: for checkpoints: after a kill the same call resumes and gives the same bits; under
            an initialised process group the ranks share the work. Delete it afterwards.
        on_step: called with the number of steps that were made, 0 while examples are scored;
            returns whether to stop.

    Raises:
        TypeError, IndexError, ValueError: ids, labels, model or factory do not fit the data set,
            `dataset` augments, `augmented` has others, or the folder has other or damaged work.
        FloatingPointError: the loss on the target's examples was never finite.
        OSError: the folder cannot be written.
        Stopped: `on_step` asked for it; without a folder the work is lost.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.rand(40, 2), torch.arange(40) % 2))
        >>> make = lambda seed: nn.Linear(2, 2)
        >>> store = holdout_il(make, data, torch.arange(20), ILRecipe(epochs=1))
        >>> int(store.known.sum())
        20
    """
    check_indexed("holdout_il", dataset)
    n, kind, more = len(dataset), "holdout", dict[str, Any]()
    fold = torch.zeros(n, dtype=torch.int16, device="cpu")
    if isinstance(holdout, Dataset):
        check_indexed("holdout_il", holdout)
        if len(holdout) < 2:
            raise ValueError(
                f"holdout_il: holdout has {len(holdout)} examples; give two at least, one to train "
                "on and one to find the best epoch by"
            )
        kind, more["curated"] = f"curated, {len(holdout)} examples", holdout
    else:
        check_ids("holdout_il", "holdout", holdout, n)
        fold[holdout] = -1
        if not (fold == 0).any():
            raise ValueError(f"holdout_il: all {n} examples are held out; leave some, such as half")
    more |= {"forward": forward, "loss_fn": loss_fn, "optimizer": optimizer}
    more |= {"augmented": augmented, "folder": folder, "on_step": on_step}
    return _by_folds("holdout_il", kind, make_model, dataset, fold, recipe, **more)


def crossfit_il(
    make_model: MakeModel,
    dataset: IndexedDataset,
    folds: int = 2,
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    optimizer: MakeOptimizer | None = None,
    groups: Tensor | None = None,
    augmented: IndexedDataset | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILStore:
    """Score every example with a model that never saw it, without a holdout (paper, Appendix A).

    Model f starts from `recipe.seed + f`, trains on all folds but f and scores fold f, the examples
    with `fold` f in the store. Examples with the same number in `groups`, int64 (n,), are in one
    fold, as copies of an example must be. Other arguments and errors are as in `holdout_il`.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.rand(40, 2), torch.arange(40) % 2))
        >>> make = lambda seed: nn.Linear(2, 2)
        >>> bool(crossfit_il(make, data, 2, ILRecipe(epochs=1)).known.all())
        True
    """
    check_indexed("crossfit_il", dataset)
    n = len(dataset)
    if not 2 <= folds <= n:
        raise ValueError(f"crossfit_il: folds must lie in [2, {n}], got {folds}")
    groups = torch.arange(n, dtype=torch.int64, device="cpu") if groups is None else groups.cpu()
    if groups.shape != (n,):
        raise ValueError(f"crossfit_il: groups must have shape ({n},), got {tuple(groups.shape)}")
    found, group = groups.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    count = len(found)
    if count < folds:
        raise ValueError(f"crossfit_il: {folds} folds need as many groups, got {count}")
    private = generator(recipe.seed, "cross-fit folds")
    order = torch.randperm(count, generator=private, dtype=torch.int64, device="cpu")
    fold_of = torch.empty(count, dtype=torch.int16, device="cpu")
    fold_of[order] = (torch.arange(count, device="cpu") % folds).to(torch.int16)
    kind, fold = f"cross-fit, {folds} folds", fold_of[group]
    more: dict[str, Any] = {"forward": forward, "loss_fn": loss_fn, "optimizer": optimizer}
    more |= {"augmented": augmented, "folder": folder, "on_step": on_step}
    return _by_folds("crossfit_il", kind, make_model, dataset, fold, recipe, **more)


def pretrained_il(
    model: nn.Module,
    dataset: IndexedDataset,
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    batch_size: int = SCORING_BATCH,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILStore:
    """Score every example with a model that was trained elsewhere.

    It must not have seen these examples, or their losses are memorised. A model trained for
    something else is a poor choice: zero-shot CLIP is worse than a small model trained on a holdout
    (Deng et al. 2023, table 7). Arguments and errors are those of `score_examples`, and a
    ValueError if `dataset` augments.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> data = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 1])))
        >>> pretrained_il(nn.Linear(2, 2, bias=False), data).il
        tensor([0.6931, 0.6931, 0.6931])
    """
    started = time.perf_counter()
    check_indexed("pretrained_il", dataset)
    ids = torch.arange(len(dataset), dtype=torch.int64, device="cpu")
    functions: dict[str, Any] = {"forward": forward, "loss_fn": loss_fn}
    dry_run("pretrained_il", model, dataset, ids[:32], ids, **functions)
    RunFolder(folder, where="pretrained_il")
    inputs = check_plain(dataset)
    options: dict[str, Any] = {"batch_size": batch_size, "folder": folder, "on_step": on_step}
    predicted = torch.empty_like(ids, dtype=torch.int32)
    il = score_examples(model, dataset, ids, predicted=predicted, **functions, **options)
    if loss_fn is None:
        warn_near_chance("pretrained_il", il, dataset.labels)
    info = _info("pretrained", model, time.perf_counter() - started, names_of(dataset, **functions))
    classes = predicted if loss_fn is None else None
    return ILStore.of(dataset, il, info=info, input_checksums=inputs, predicted=classes)


def _by_folds(
    where: str,
    kind: str,
    make_model: MakeModel,
    dataset: IndexedDataset,
    fold: Tensor,
    recipe: ILRecipe,
    folder: str | Path | None,
    curated: IndexedDataset | None = None,
    **options: Any,
) -> ILStore:
    """Train model f on all examples but those of fold f, and score these; fold -1 has no model.

    With a curated data set the only model trains on four fifths of that. `options` are those of
    `train_il`.
    """
    functions: dict[str, Any] = {name: options[name] for name in ("forward", "loss_fn")}
    others, work = dataset if curated is None else curated, RunFolder(folder, where=where)
    if folder is not None:
        shared = {"data": fingerprint(dataset), "holdout": fingerprint(others)}
        agree(where, {**shared, "folds": digest(fold), "recipe": repr(recipe)})
    inputs = check_plain(dataset)
    if curated is not None:
        check_plain(curated)
    rank, world = (0, 1) if folder is None else rank_and_world()
    folds, models = range(int(fold.max()) + 1), list[nn.Module]()
    names = names_of(dataset, **functions, optimizer=options["optimizer"])

    def shares(f: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ids to train on, to evaluate on and to score."""
        target = (fold == f).nonzero().flatten()
        if curated is None:
            return (fold != f).nonzero().flatten(), target, target
        private = generator(recipe.seed, "curated")
        order = torch.randperm(len(curated), generator=private, dtype=torch.int64, device="cpu")
        fifth = max(1, len(order) // 5)
        return order[fifth:], order[:fifth], target

    def scored(f: int) -> tuple[Tensor, Tensor, dict[str, str]]:
        model = build_model(where, make_model, recipe.seed + f)
        if any(model is other for other in models):
            raise ValueError("make_model must build a new model for every fold, got one twice")
        models[:] = [model]
        ids, evaluated, target = shares(f)
        path = None if folder is None else work / f"model-{f}"
        if curated is not None:
            dry_run(where, model, dataset, target[:32], target, **functions)
        fit = train_il(model, others, ids, evaluated, recipe, folder=path, **options)
        started = time.perf_counter()
        classes = torch.empty_like(target, dtype=torch.int32)
        scoring = {"batch_size": recipe.scoring_batch, "on_step": options["on_step"], **functions}
        # Ranks share the folds, and so no pieces of them.
        scoring["folder"] = path if world == 1 else None
        il = score_examples(model, dataset, target, predicted=classes, **scoring)
        info = _info(kind, model, fit.seconds + time.perf_counter() - started, names)
        best = {"holdout_loss": f"{fit.loss:.6f}", "best_epoch": f"{fit.epoch:g}"}
        return il, classes, info | {"recipe": repr(recipe), **best}

    def share() -> list[tuple[Tensor, Tensor, dict[str, str]]]:
        return [scored(f) for f in folds[rank::world]]

    parts = on_all(share) if world > 1 else [share()]
    found = [parts[f % world][f // world] for f in folds]
    il = torch.full((len(dataset),), torch.nan, dtype=torch.float32, device="cpu")
    predicted = torch.full_like(fold, -1, dtype=torch.int32)
    for f, (losses, classes, _) in enumerate(found):
        il[fold == f], predicted[fold == f] = losses, classes
        if f % world != rank:
            options["on_step"](recipe.steps(len(shares(f)[0])))
    infos = [info for _, _, info in found]
    each = ("weights_sha256", "holdout_loss", "best_epoch")
    joined = {key: ", ".join(info[key] for info in infos) for key in each}
    seconds = sum(float(info["seconds"]) for info in infos)
    if functions["loss_fn"] is None and curated is None:
        warn_near_chance(where, il, dataset.labels)
    return ILStore.of(
        dataset,
        il,
        info=infos[0] | joined | {"seconds": f"{seconds:.3f}"},
        input_checksums=inputs,
        fold=fold if len(folds) > 1 else None,
        predicted=predicted if functions["loss_fn"] is None else None,
    )


def _info(
    kind: str, model: nn.Module, seconds: float, names: dict[str, str | None]
) -> dict[str, str]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    made = {
        "kind": kind,
        "model": f"{type(model).__name__}, {parameters} parameters",
        "weights_sha256": module_digest(model),
        "seconds": f"{seconds:.3f}",
    }
    return made | {key: name for key, name in names.items() if name is not None}
