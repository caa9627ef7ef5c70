"""Training of one IL model by a recipe: it ends as it was best, and a kill costs seconds."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.batch import to
from rho_train.checks import check_counts, check_ids
from rho_train.checksums import input_checksums
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.dry_run import dry_run
from rho_train.identity import architecture_digest, digest, digest_of, module_digest
from rho_train.il.score import SCORING_BATCH, names_of, score_examples
from rho_train.progress import OnStep, Stopped, no_op
from rho_train.run_folder import RunFolder, random_state, restore_random_state
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import ForwardFunction, LossFunction, device_of
from rho_train.training_step import (
    LRSchedule,
    MakeOptimizer,
    adamw,
    check_adamw,
    lr_schedule,
    subnormals_flushed,
    training_step,
)

_TRAINING = "training.pt"
# A checkpoint is due after this time, and later if writing one takes more than 1/20 of it.
_CHECKPOINT_SECONDS = 10.0


@dataclass(frozen=True)
class ILRecipe:
    """The training settings of an irreducible-loss model.

    With a model that has not converged RHO-LOSS is worse than uniform selection. The best epoch is
    used, so too many cost time only; with a rate that decays, fewer do as well. The defaults are
    for small models that start from nothing; see `finetune` for pretrained ones.

    Args:
        epochs: passes over the examples that the IL model trains on.
        batch_size: examples a step.
        lr: highest learning rate of AdamW.
        schedule: `constant`, or a decay to zero over all steps: `linear`, or half a `cosine`.
        weight_decay: of AdamW.
        warmup: share of the steps in which the rate rises from zero, before it decays.
        evals_per_epoch: evaluations on the examples to score, of which the best one is used.
        bf16: train under bfloat16 autocast; examples are scored without.
        seed: of initial weights, order and folds.
        scoring_batch: examples that are scored at once; fewer take less memory.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 3e-3
    schedule: LRSchedule = "cosine"
    weight_decay: float = 0.1
    warmup: float = 0.0
    evals_per_epoch: int = 1
    bf16: bool = False
    seed: int = 0
    scoring_batch: int = SCORING_BATCH

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "batch_size", "evals_per_epoch", "scoring_batch")
        check_adamw("ILRecipe", self.lr, self.weight_decay, self.schedule)
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"ILRecipe: warmup must lie in [0, 1), got {self.warmup}")

    @classmethod
    def finetune(cls, **changes: Any) -> ILRecipe:
        """Return what fine-tuning of a pretrained encoder uses, with some `changes`.

        Examples:
            >>> ILRecipe.finetune(epochs=2).lr
            3e-05
        """
        usual: dict[str, Any] = {"epochs": 3, "batch_size": 32, "lr": 3e-5, "schedule": "linear"}
        usual |= {"weight_decay": 0.01, "warmup": 0.1, "evals_per_epoch": 4, "scoring_batch": 256}
        return cls(**{**usual, **changes})

    def steps(self, examples: int) -> int:
        """Return the training steps for a number of examples."""
        return self.epochs * (examples // min(self.batch_size, examples))


@dataclass
class ILFit:
    """The lowest mean loss in nats, after how many epochs, and seconds over all interruptions.

    The rest is the state of the training, beside those of its model, optimizer and schedule.
    """

    loss: float = math.inf
    epoch: float = 0.0
    seconds: float = 0.0
    step: int = 0
    evaluated: int = 0
    best_state: dict[str, Any] | None = None
    random_state: dict[str, Any] | None = None


def train_il(
    model: nn.Module,
    dataset: IndexedDataset,
    train_ids: Tensor,
    target_ids: Tensor,
    recipe: ILRecipe,
    *,
    forward: ForwardFunction | None = None,
    loss_fn: LossFunction | None = None,
    optimizer: MakeOptimizer | None = None,
    augmented: IndexedDataset | None = None,
    folder: str | Path | None = None,
    on_step: OnStep = no_op,
) -> ILFit:
    """Train a model on some examples and end with the lowest mean loss on others.

    The paper selects the checkpoint by loss, not accuracy, and on the examples that the target will
    train on (section 4 and Appendix B), never on the test set. The global generators are restored.
    The model ends with the weights of the best evaluation on `target_ids`, int64 (n,); `train_ids`,
    int64 (m,), must share none with them. Other arguments and errors are as in `holdout_il`.
    """
    for name, ids in (("train_ids", train_ids), ("target_ids", target_ids)):
        check_ids("train_il", name, ids, len(dataset))
    shared = train_ids[torch.isin(train_ids, target_ids)]
    if len(shared):
        raise ValueError(
            f"train_il: {len(shared)} examples are in train_ids and in target_ids, the first has "
            f"id {int(shared[0])}; the IL model must not train on an example that it scores"
        )
    data = dataset if augmented is None else augmented
    if data is not dataset and fingerprint(data) != fingerprint(dataset):
        raise ValueError(
            "train_il: augmented must have the examples and labels of dataset in the same order"
        )
    first = target_ids[: recipe.batch_size]
    functions: dict[str, Any] = {"forward": forward, "loss_fn": loss_fn}
    scoring = {"batch_size": recipe.scoring_batch, "on_step": on_step, **functions}
    dry_run("train_il", model, dataset, first, target_ids, train_ids, **functions)
    identity: dict[str, Any] = {}
    if folder is not None:
        identity = {
            # How many examples are scored at once changes rounding alone, and may be less after a
            # kill for lack of memory.
            "recipe": asdict(replace(recipe, scoring_batch=SCORING_BATCH)),
            "data": fingerprint(dataset),
            "inputs": digest_of(input_checksums(dataset)),
            "augmentation": data is not dataset,
            "train_ids_sha256": digest(train_ids),
            "target_ids_sha256": digest(target_ids),
            "architecture": architecture_digest(model),
            "initial_weights_sha256": module_digest(model),
            **names_of(dataset, **functions, optimizer=optimizer),
        }
    work = RunFolder(folder, where="train_il", identity=identity)
    device, steps = device_of(model), recipe.steps(len(train_ids))
    # The steps before evaluations, of which an epoch of few steps has fewer.
    evaluations = recipe.epochs * recipe.evals_per_epoch
    ends = sorted({steps * i // evaluations for i in range(1, evaluations + 1)} - {0})
    made = optimizer(model) if optimizer else adamw(model, recipe.lr, recipe.weight_decay)
    schedule = lr_schedule(made, recipe.schedule, steps, recipe.warmup)
    parts: list[Any] = [model, made, schedule]
    fit = ILFit()
    if (state := work.load(_TRAINING)) is not None:
        fit = ILFit(**{name: state[name] for name in vars(fit)})
        for part, saved in zip(parts, state["parts"], strict=False):
            part.load_state_dict(saved)
        on_step(fit.step)
    started = time.perf_counter() - fit.seconds
    due = time.perf_counter() + _CHECKPOINT_SECONDS

    def save() -> None:
        nonlocal due
        began = time.perf_counter()
        fit.seconds, fit.random_state = began - started, random_state(device)
        # A finished training needs its best weights alone.
        states = [part.state_dict() for part in parts if fit.evaluated < len(ends)]
        work.save(_TRAINING, {**vars(fit), "parts": states})
        now = time.perf_counter()
        due = now + max(_CHECKPOINT_SECONDS, 20 * (now - began))

    def run() -> None:
        batch_size = min(recipe.batch_size, len(train_ids))
        sampler = LargeBatchSampler(train_ids, batch_size, seed=recipe.seed, start=fit.step)
        batches = iter(loader(data, sampler, seed=recipe.seed))
        if fit.random_state is None:
            torch.manual_seed(recipe.seed)
        else:
            restore_random_state(fit.random_state, device)
        model.train()
        options = {"where": "train_il", "bf16": recipe.bf16 or None, **functions}
        while fit.evaluated < len(ends):
            end = ends[fit.evaluated]
            for batch in islice(batches, end - fit.step):
                training_step(model, to(batch, device), made, schedule, **options)
                fit.step += 1
                if on_step(1):
                    raise Stopped("the training of the IL model was stopped")
                if time.perf_counter() >= due:
                    save()
            loss = float(score_examples(model, dataset, target_ids, **scoring).nanmean())
            # Weights of NaN stay so: no epoch that would follow could be the best.
            fit.evaluated = len(ends) if math.isnan(loss) else fit.evaluated + 1
            if loss < fit.loss:
                fit.loss, fit.epoch = loss, end / sampler.batches_per_epoch
                fit.best_state = copy.deepcopy(model.state_dict())

    if fit.evaluated < len(ends):
        # All devices: a model may be on several.
        everywhere = torch.random.fork_rng(range(torch.cuda.device_count()))
        with everywhere, subnormals_flushed():
            try:
                run()
            except Stopped:
                save()
                raise
            save()
    if fit.best_state is None:
        raise FloatingPointError(
            "train_il: the loss on the target's examples was never finite; lower ILRecipe.lr, or, "
            "if loss_fn returns NaN for examples without a loss, leave NaN out before the "
            "arithmetic, whose gradients are NaN too (torch.where on the inputs, and once more on "
            "the losses)"
        )
    model.load_state_dict(fit.best_state)
    return replace(fit, best_state=None)
