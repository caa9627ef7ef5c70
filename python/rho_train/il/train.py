"""The training of one IL model: the best epoch is kept, a kill costs seconds."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rho_train.batch import split, to
from rho_train.checkpoint import (
    architecture_digest,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from rho_train.checks import check_ids, check_labels
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.dry_run import dry_run, dry_run_losses
from rho_train.files import make_folder
from rho_train.il.recipe import ILRecipe
from rho_train.il.score import (
    SCORING_BATCH,
    ids_sha256,
    loss_identity,
    score_examples,
    weights_sha256,
)
from rho_train.optim import adamw, lr_schedule, subnormals_flushed
from rho_train.progress import OnStep, Stopped, no_op
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import LossFunction, device_of, logits_of, losses_of

# A checkpoint is due after this time, and later if writing one takes more than 1/20 of it.
_CHECKPOINT_SECONDS = 10.0
_STOPPED = "the training of the IL model was stopped"


@dataclass(frozen=True)
class ILFit:
    """The lowest mean loss on the target's points, in nats, the epoch (from 1) that has it, and
    the seconds that it took, over all interruptions."""

    loss: float
    epoch: int
    seconds: float = field(default=0.0, compare=False)


def train_il(
    model: nn.Module,
    dataset: IndexedDataset,
    train_ids: Tensor,
    target_ids: Tensor,
    recipe: ILRecipe,
    *,
    losses: LossFunction | None = None,
    augmented: IndexedDataset | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
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
        losses: for points that are no classification, see `Selector`; the model trains on the mean
            over the points of a batch that have a loss.
        augmented: the same points with augmentation, to train on (paper, Appendix B); they are
            scored without, from `dataset`. Transforms that draw from torch's generator are
            repeated exactly after a kill.
        folder: for checkpoints; calling it again after a kill goes on from the last one and ends
            with the same bits. None: nothing is kept.
        on_step: called with the number of steps that were made, 0 while points are scored;
            returns whether to stop.

    Returns:
        The lowest mean loss on `target_ids`, its epoch, and the seconds.

    Raises:
        TypeError: the ids are no int64 tensors.
        IndexError: an id lies outside the data set, or the model has no class for a label.
        ValueError: the two sets share a point: its loss would not be irreducible but memorised;
            one is empty, repeats an id or has no labels; the batches are not as `split` wants them;
            `augmented` has other points than `dataset`; or the folder holds the training of
            another model, recipe or data set, or with a loss of another name.
        FloatingPointError: the loss on the target's points was never finite.
        OSError: the folder cannot be written.
        Stopped: `on_step` asked for it; without a folder the work is lost.
    """
    check_ids("train_il", "train_ids", train_ids, len(dataset))
    check_ids("train_il", "target_ids", target_ids, len(dataset))
    shared = train_ids[torch.isin(train_ids, target_ids)]
    if len(shared):
        raise ValueError(
            f"train_il: {len(shared)} points are in train_ids and in target_ids, the first has id "
            f"{int(shared[0])}; the IL model must not train on a point that it scores"
        )
    if augmented is not None and fingerprint(augmented) != fingerprint(dataset):
        raise ValueError(
            "train_il: augmented must have the points of dataset in the same order, got other labels "
            "or another count; wrap the same data with the transforms"
        )
    first = target_ids[: recipe.batch_size]
    if losses is None:
        _, classes = dry_run("train_il", model, dataset, first, target_ids)
        check_labels("train_il", dataset.labels[train_ids], train_ids, classes)
    else:
        dry_run_losses("train_il", model, dataset, first, losses)
    shown = dataset if augmented is None else augmented
    fit = _Fit(model, dataset, shown, train_ids, target_ids, recipe, losses, folder, on_step)
    if not fit.finished:
        # All devices, as the checkpoint has them all.
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices=devices), subnormals_flushed():
            fit.run()
    if fit.best_state is None:
        raise FloatingPointError(
            "train_il: the loss on the target's points was NaN or infinite after every epoch; "
            "lower ILRecipe.lr"
        )
    model.load_state_dict(fit.best_state)
    return ILFit(fit.best.loss, fit.best.epoch, fit.seconds)


def best_path(folder: Path) -> Path:
    """Return where a finished training leaves the weights of its best epoch."""
    return folder / "best.pt"


class _Fit:
    """The state of a training, in memory and in its folder."""

    def __init__(
        self,
        model: nn.Module,
        dataset: IndexedDataset,
        augmented: IndexedDataset,
        train_ids: Tensor,
        target_ids: Tensor,
        recipe: ILRecipe,
        losses: LossFunction | None,
        folder: str | Path | None,
        on_step: OnStep,
    ) -> None:
        self.model, self.dataset, self.augmented, self.recipe = model, dataset, augmented, recipe
        self.train_ids, self.target_ids, self.losses = train_ids, target_ids, losses
        self.folder, self.on_step = None if folder is None else Path(folder), on_step
        self.device = device_of(model)
        self.optimizer = adamw(model, recipe.lr, recipe.weight_decay)
        self.schedule = lr_schedule(self.optimizer, recipe.schedule, recipe.steps(len(train_ids)))
        self.step, self.epoch = 0, 0
        self.best = ILFit(float("inf"), 0)
        self.best_state: dict[str, Any] | None = None
        self.seconds = 0.0
        self.random_state: dict[str, Any] | None = None
        self.identity: dict[str, Any] = {}
        if self.folder is not None:
            self.identity = {
                # How many points are scored at once changes rounding alone, and may be less after
                # a kill for lack of memory.
                "recipe": asdict(replace(recipe, scoring_batch=SCORING_BATCH)),
                "data": fingerprint(dataset),
                "augmentation": augmented is not dataset,
                "train_ids_sha256": ids_sha256(train_ids),
                "target_ids_sha256": ids_sha256(target_ids),
                "architecture": architecture_digest(model),
                "initial_weights_sha256": weights_sha256(model),
                **loss_identity(losses),
            }
            make_folder(self.folder, "train_il")
            self._resume(self.folder)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.recipe.epochs

    def run(self) -> None:
        self.started = time.perf_counter() - self.seconds
        self.due = time.perf_counter() + _CHECKPOINT_SECONDS
        batch_size = min(self.recipe.batch_size, len(self.train_ids))
        sampler = LargeBatchSampler(
            self.train_ids, batch_size, seed=self.recipe.seed, start=self.step
        )
        batches = iter(loader(self.augmented, sampler, seed=self.recipe.seed))
        if self.random_state is None:
            torch.manual_seed(self.recipe.seed)
        else:
            restore_random_state(self.random_state, self.device)
        self.model.train()
        try:
            while not self.finished:
                end = (self.epoch + 1) * sampler.batches_per_epoch
                for batch in islice(batches, end - self.step):
                    self._train_step(batch)
                self._evaluate()
        except Stopped:
            self._save()
            raise
        self._finish()

    def _train_step(self, batch: Any) -> None:
        batch = to(batch, self.device)
        fields = split(batch, "train_il")
        if self.losses is None:
            loss = F.cross_entropy(logits_of(self.model, fields.inputs), fields.labels)
        else:
            own = losses_of("train_il", self.model, batch, self.losses, len(fields.ids))
            loss = own.nanmean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.on_step(1):
            raise Stopped(_STOPPED)
        if time.perf_counter() >= self.due:
            self._save()

    def _evaluate(self) -> None:
        losses = score_examples(
            self.model,
            self.dataset,
            self.target_ids,
            losses=self.losses,
            batch_size=self.recipe.scoring_batch,
            on_step=self.on_step,
        )
        self.epoch += 1
        loss = float(losses.nanmean())
        if loss < self.best.loss:
            self.best = ILFit(loss, self.epoch)
            self.best_state = copy.deepcopy(self.model.state_dict())

    def _save(self) -> None:
        if self.folder is None:
            return
        began = time.perf_counter()
        state = {
            "step": self.step,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random_state": random_state(self.device),
        }
        save_checkpoint(self.folder / "training.pt", self._outcome() | state)
        now = time.perf_counter()
        self.due = now + max(_CHECKPOINT_SECONDS, 20 * (now - began))

    def _finish(self) -> None:
        self.seconds = time.perf_counter() - self.started
        if self.folder is not None and self.best_state is not None:
            save_checkpoint(best_path(self.folder), self._outcome())
            (self.folder / "training.pt").unlink(missing_ok=True)

    def _outcome(self) -> dict[str, Any]:
        self.seconds = time.perf_counter() - self.started
        return {
            **self.identity,
            "seconds": self.seconds,
            "best_loss": self.best.loss,
            "best_epoch": self.best.epoch,
            "best_state": self.best_state,
        }

    def _resume(self, folder: Path) -> None:
        done, path = best_path(folder).exists(), folder / "training.pt"
        if not done and not path.exists():
            return
        state = load_checkpoint(best_path(folder) if done else path, self.identity)
        self.seconds = state["seconds"]
        self.best = ILFit(state["best_loss"], state["best_epoch"])
        self.best_state = state["best_state"]
        if done:
            self.epoch = self.recipe.epochs
            self.on_step(self.recipe.steps(len(self.train_ids)))
            return
        self.step, self.epoch = state["step"], state["epoch"]
        self.on_step(self.step)
        self.random_state = state["random_state"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
