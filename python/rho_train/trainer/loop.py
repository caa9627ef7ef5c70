"""The training loop: plain PyTorch, with an optional Selector before the step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from rho_train.async_selector import AsyncSelector
from rho_train.batch import split, to
from rho_train.checkpoint import (
    architecture_digest,
    random_state,
    restore_random_state,
)
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.flags import ExampleFlags
from rho_train.optim import adamw, lr_schedule, subnormals_flushed
from rho_train.progress import OnStep, Stopped, no_op
from rho_train.run_folder import RunFolder
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import device_of
from rho_train.selector import Selector
from rho_train.tasks.image_files import ImageFiles
from rho_train.trainer.checks import check_run
from rho_train.trainer.config import TrainConfig
from rho_train.trainer.metrics_logger import MetricsLogger
from rho_train.trainer.time_breakdown import TimeBreakdown
from rho_train.training_step import training_step

_CHECKPOINT = "checkpoint.pt"
_WAIT = "wait for it, or train in another folder"


class Trainer:
    """Train a model on some points of a data set, and leave metrics and checkpoints in a folder.

    With a Selector every step draws a large batch and trains on what the Selector keeps; without
    one it draws the small batch directly, which is what a user would do otherwise. `fit` seeds
    torch's global generators (dropout draws from them), or restores them when it resumes.

    Args:
        model: trained in place; its parameters say on which device.
        dataset: training data with ids.
        train_ids: int64 (n,), the points to train on.
        test_x, test_y: the test set.
        config: how to train.
        folder: for metrics.jsonl and checkpoint.pt, and at the end, if the Selector keeps a
            History, history.safetensors and chosen.json; a checkpoint there is gone on from.
        name: of the method, in every record.
        seed: of the order of the batches.
        selector: what to keep of a large batch; None: plain training.
        flags: what is known of each of the len(dataset) points, such as `noisy`, to record how
            many of the points that are trained on have each flag.
        il_seconds: what the irreducible losses cost, for the record only.
        classes: names of the classes, for the record only.
        show: what people see of the point with an id, a text or a tensor, for the record only;
            None: what the model gets.

    Raises:
        TypeError: the data set is no IndexedDataset, or the ids are no int64 tensor.
        IndexError: an id lies outside the data set, or the model has no class for a label.
        ValueError: the checkpoint in the folder belongs to another run, the ILStore of the Selector
            to another data set; the Selector keeps another number of points than `config.batch`
            at the first step, plans for another number of steps, needs dropout layers that the
            model does not have, cannot look at the first batch, scores by another loss than the
            cross-entropy that is trained with, or has been used; another process trains in the
            folder; all irreducible losses of `train_ids` are unknown (some: a warning); the test
            set or flags do not fit.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> x, y = torch.randn(64, 2), torch.arange(64) % 2
        >>> data, folder = IndexedDataset(TensorDataset(x, y)), Path(tempfile.mkdtemp())
        >>> config = TrainConfig(steps=3, large_batch=8, batch=4)
        >>> selector = Selector(k=4, method="loss")
        >>> trainer = Trainer(nn.Linear(2, 2), data, torch.arange(64), x, y, config, folder,
        ...     name="loss", selector=selector)
        >>> trainer.fit()
        >>> trainer.step, selector.scored, selector.selected
        (3, 24, 12)
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: IndexedDataset,
        train_ids: Tensor,
        test_x: Tensor | ImageFiles,
        test_y: Tensor,
        config: TrainConfig,
        folder: str | Path,
        *,
        name: str,
        seed: int = 0,
        selector: Selector | None = None,
        flags: ExampleFlags | None = None,
        il_seconds: float = 0.0,
        classes: Sequence[str] = (),
        show: Callable[[int], object] | None = None,
    ) -> None:
        check_run(model, dataset, train_ids, test_x, test_y, config, seed, selector, flags)
        self.device = device_of(model)
        self.model, self.dataset, self.train_ids = model, dataset, train_ids
        self.config, self.seed = config, seed
        self.selector = selector
        self.optimizer = adamw(model, config.lr, config.weight_decay)
        self.schedule = lr_schedule(self.optimizer, config.schedule, config.steps)
        self.runner: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
        self.step = 0
        self.trained = 0
        self.ledger = TimeBreakdown()
        self._ahead = (
            AsyncSelector(selector, model) if selector is not None and config.ahead else None
        )
        self._random_state: dict[str, Any] | None = None
        identity = {
            "config": asdict(config),
            "name": name,
            "seed": seed,
            "data": fingerprint(dataset),
            "train_ids": hashlib.sha256(train_ids.cpu().numpy().tobytes()).hexdigest(),
            "selection": selector and selector.identity(),
            "architecture": architecture_digest(model),
        }
        self.folder = RunFolder(folder, where="Trainer", identity=identity)
        with self.folder.lock(_WAIT):
            # Records beyond the checkpoint are cut off, so nobody may write any meanwhile.
            state = self._resume()
            self.records = MetricsLogger(
                self.runner,
                dataset,
                train_ids,
                test_x.to(self.device) if isinstance(test_x, Tensor) else test_x,
                test_y.to(self.device),
                config,
                self.folder / "",
                self.ledger,
                name=name,
                seed=seed,
                selector=selector,
                flags=ExampleFlags({}) if flags is None else flags.to(self.device),
                il_seconds=il_seconds,
                classes=classes,
                show=show,
                state=state,
            )

    @property
    def checkpoint_path(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / _CHECKPOINT

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.config.steps

    def fit(self, on_step: OnStep = no_op) -> None:
        """Make the remaining steps.

        Args:
            on_step: called with the number of steps that were made; returns whether to stop.

        Raises:
            Stopped: Ctrl-C, SIGTERM or `on_step` asked for it; the checkpoint holds the last whole
                step.
            FloatingPointError: the loss is NaN or infinite.
            ValueError: another process trains in the folder.
        """
        if not self.finished:
            self.folder.on_step = on_step
            with (
                self.folder.lock(_WAIT),
                self.folder.stopping_on_signals(),
                subnormals_flushed(),
            ):
                self._run()

    def _run(self) -> None:
        self.ledger.start()
        config = self.config
        per_step = config.large_batch if self.selector is not None else config.batch
        sampler = LargeBatchSampler(self.train_ids, per_step, seed=self.seed, start=self.step)
        batches = iter(loader(self.dataset, sampler, workers=config.workers, seed=self.seed))
        chosen = self._chosen(islice(batches, config.steps - self.step))
        if self._random_state is None:
            torch.manual_seed(self.seed)
            self.records.evaluate(0)
        else:
            restore_random_state(self._random_state, self.device)
        self.model.train()
        # Workers that a run starts once more when it goes on are not charged to its steps.
        self.ledger.lap("other")
        with closing(chosen):
            while not self.finished:
                self._train_step(chosen)
                if self.finished and config.bn_recalibration_batches:
                    self._recalibrate_batch_norm()
                self.records.write(self.step, self.trained)
                stop = self.folder.step()
                if self.finished or stop or self.step % config.checkpoint_every == 0:
                    self.save()
                if stop and not self.finished:
                    raise Stopped(
                        f"stopped at step {self.step} of {config.steps}; run the same command "
                        "again to go on from there"
                    )
                self.ledger.lap("other")

    def _recalibrate_batch_norm(self) -> None:
        """Take the statistics of BatchNorm anew, over points that nobody chose."""
        config = self.config
        sampler = LargeBatchSampler(self.train_ids, config.large_batch, seed=self.seed)
        batches = islice(
            loader(self.dataset, sampler, seed=self.seed), config.bn_recalibration_batches
        )
        inputs = (split(to(batch, self.device), "Trainer").inputs for batch in batches)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            update_bn(inputs, self.model)
        self.ledger.lap("training")

    def save(self) -> None:
        """Write the checkpoint."""
        self._random_state = random_state(self.device)
        self.ledger.lap("other")
        # The checkpoint must not reach the disk before the records that it counts on.
        records = self.records.state_dict(self.step)
        self.folder.save(
            _CHECKPOINT,
            {
                **records,
                "step": self.step,
                "trained": self.trained,
                "ledger_seconds": self.ledger.state_dict(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "selector": self.selector.state_dict() if self.selector else None,
                "ahead": self._ahead.state_dict() if self._ahead else None,
                "random_state": self._random_state,
            },
        )

    def _resume(self) -> dict[str, Any] | None:
        """Take over and return the checkpoint, if there is one."""
        state = self.folder.load(_CHECKPOINT)
        if state is None:
            return None
        self.step, self.trained = state["step"], state["trained"]
        self.ledger.load_state_dict(state["ledger_seconds"])
        self._random_state = state["random_state"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.selector is not None:
            self.selector.load_state_dict(state["selector"])
        if self._ahead is not None:
            self._ahead.load_state_dict(state["ahead"])
        return state

    def _chosen(self, batches: Iterator[Any]) -> Generator[Any, None, None]:
        """Give the points that each step trains on."""
        loaded, selector = self._loaded(batches), self.selector
        if self._ahead is not None:
            return self._ahead(loaded)
        return loaded if selector is None else (selector(self.runner, batch) for batch in loaded)

    def _loaded(self, batches: Iterator[Any]) -> Generator[Any, None, None]:
        for batch in batches:
            moved = to(batch, self.device)
            self.ledger.lap("loading")
            yield moved
            if self._ahead is not None:
                # The first batch is scored before the second one is loaded.
                self.ledger.lap("selecting")

    def _train_step(self, chosen: Iterator[Any]) -> None:
        selector, weights, invalid = self.selector, None, 0
        if selector is None:
            batch = next(chosen)
        else:
            before, scoring = selector.invalid, selector.score_seconds
            batch = next(chosen)
            invalid = selector.invalid - before
            self.ledger.lap("selecting", scoring=selector.score_seconds - scoring)
            assert selector.last is not None
            weights = selector.last.weights
        made = training_step(
            self.runner,
            batch,
            self.optimizer,
            self.schedule,
            where="Trainer",
            weights=weights,
            bf16=self.config.bf16,
        )
        assert made.logits is not None
        self.step += 1
        self.trained += len(made.fields.ids)
        self.records.count(made.fields.ids, made.fields.labels, made.logits, made.loss, invalid)
        self.ledger.lap("training")
