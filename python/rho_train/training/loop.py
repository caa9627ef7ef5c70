"""The training loop: plain PyTorch, with an optional Selector before the step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rho_train.data import (
    ImageFiles,
    IndexedDataset,
    LargeBatchSampler,
    PointFlags,
    fingerprint,
    loader,
    split,
    to,
)
from rho_train.files import make_folder, remove_unfinished
from rho_train.optim import adamw, lr_schedule
from rho_train.progress import OnStep, Stopped, go_on, stop_signals
from rho_train.scoring import logits_of
from rho_train.selection import Selector
from rho_train.training.checkpoint import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from rho_train.training.checks import check_run
from rho_train.training.chosen import chosen_record, save_chosen, save_history
from rho_train.training.config import TrainConfig
from rho_train.training.ledger import Ledger
from rho_train.training.looks import evaluate, sample
from rho_train.training.metrics import MetricsFile
from rho_train.training.overlap import Overlap


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
            model does not have, cannot look at the first batch, or has been used; all irreducible
            losses of `train_ids` are unknown (some: a warning); the test set or flags do not fit.
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
        folder: Path,
        *,
        name: str,
        seed: int = 0,
        selector: Selector | None = None,
        flags: PointFlags | None = None,
        il_seconds: float = 0.0,
        classes: Sequence[str] = (),
        show: Callable[[int], object] | None = None,
    ) -> None:
        check_run(model, dataset, train_ids, test_x, test_y, config, seed, selector, flags)
        self.device = next(model.parameters()).device
        self.model, self.dataset, self.train_ids = model, dataset, train_ids
        self.test_x = test_x.to(self.device) if isinstance(test_x, Tensor) else test_x
        self.test_y = test_y.to(self.device)
        self.config, self.folder, self.seed = config, folder, seed
        self.selector, self.il_seconds = selector, il_seconds
        self.classes, self.show = classes, show
        self.flags = PointFlags({}) if flags is None else flags.to(self.device)
        self.optimizer = adamw(model, config.lr, config.weight_decay)
        self.schedule = lr_schedule(self.optimizer, config.schedule, config.steps)
        self.runner: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
        self.step = 0
        self.trained = 0
        self.ledger = Ledger()
        # An epoch is one pass of large batches, for every method, as the paper counts.
        self._epoch_steps = max(1, len(train_ids) // config.large_batch)
        self._overlap = None if selector is None else Overlap(len(dataset), self.device)
        self._since_log = self._counts([0] * len(self.flags.names))
        self._random_state: dict[str, Any] | None = None
        self._identity = {
            "config": asdict(config),
            "name": name,
            "seed": seed,
            "data": fingerprint(dataset),
            "train_ids": hashlib.sha256(train_ids.cpu().numpy().tobytes()).hexdigest(),
            "selection": selector and selector.identity(),
        }
        make_folder(folder, "Trainer")
        remove_unfinished(folder)
        size = self._resume()
        self.metrics = MetricsFile(folder / "metrics.jsonl", size, {"method": name, "seed": seed})

    @property
    def checkpoint_path(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.config.steps

    def fit(self, on_step: OnStep = go_on) -> None:
        """Make the remaining steps.

        Args:
            on_step: called with the number of steps that were made; returns whether to stop.

        Raises:
            Stopped: Ctrl-C, SIGTERM or `on_step` asked for it; the checkpoint holds the last whole
                step.
            FloatingPointError: the loss is NaN or infinite.
        """
        if self.finished:
            return
        self.ledger.start()
        config = self.config
        per_step = config.large_batch if self.selector is not None else config.batch
        sampler = LargeBatchSampler(self.train_ids, per_step, seed=self.seed, start=self.step)
        batches = iter(loader(self.dataset, sampler, workers=config.workers, seed=self.seed))
        if self._random_state is None:
            torch.manual_seed(self.seed)
            self._evaluate()
        else:
            restore_random_state(self._random_state)
        self.model.train()
        with stop_signals() as signalled:
            while not self.finished:
                batch = to(next(batches), self.device)
                self.ledger.lap("loading")
                self._train_step(batch)
                self._records()
                stop = on_step(1) or signalled.is_set()
                if self.finished or stop or self.step % config.checkpoint_every == 0:
                    self.save()
                if stop and not self.finished:
                    raise Stopped(
                        f"stopped at step {self.step} of {config.steps}; run the same command "
                        "again to go on from there"
                    )
                self.ledger.lap("other")

    def save(self) -> None:
        """Write the checkpoint."""
        self._random_state = random_state()
        self.ledger.lap("other")
        # The checkpoint must not reach the disk before the records that it counts on.
        self.metrics.flush()
        save_checkpoint(
            self.checkpoint_path,
            {
                **self._identity,
                "step": self.step,
                "trained": self.trained,
                "ledger_seconds": self.ledger.state_dict(),
                "overlap": self._overlap.state_dict() if self._overlap else None,
                "since_log": self._read_counts(),
                "metrics_size": self.metrics.size(),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "selector": self.selector.state_dict() if self.selector else None,
                "random_state": self._random_state,
            },
        )

    def _resume(self) -> int:
        """Take over the checkpoint, if there is one, and return the length of the metrics."""
        if not self.checkpoint_path.exists():
            return 0
        state = load_checkpoint(self.checkpoint_path, self._identity)
        self.step, self.trained = state["step"], state["trained"]
        self.ledger.load_state_dict(state["ledger_seconds"])
        if self._overlap is not None:
            self._overlap.load_state_dict(state["overlap"])
        self._random_state = state["random_state"]
        self._since_log = self._counts(**state["since_log"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.selector is not None:
            self.selector.load_state_dict(state["selector"])
        return int(state["metrics_size"])

    def _train_step(self, batch: Any) -> None:
        counts, weights = self._since_log, None
        if self.selector is not None:
            before, scoring = self.selector.invalid, self.selector.score_seconds
            batch = self.selector(self.runner, batch)
            counts.invalid += self.selector.invalid - before
            self.ledger.lap("selecting", scoring=self.selector.score_seconds - scoring)
            assert self.selector.last is not None
            weights = self.selector.last.weights
        fields = split(batch, "Trainer")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            logits = logits_of(self.runner, fields.inputs)
            if weights is None:
                loss = F.cross_entropy(logits.float(), fields.labels)
            else:
                losses = F.cross_entropy(logits.float(), fields.labels, reduction="none")
                loss = (weights * losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        # Sums stay on the device; reading one here would wait for the step to finish.
        counts.steps += 1
        counts.selected += len(fields.ids)
        self.trained += len(fields.ids)
        counts.loss = counts.loss + loss.detach()
        counts.correct = counts.correct + (logits.detach().argmax(1) == fields.labels).sum()
        if self.flags.names:
            counts.flagged = counts.flagged + self.flags.counts(fields.ids)
        if self._overlap is not None:
            self._overlap.add(fields.ids)
        self.ledger.lap("training")

    def _records(self) -> None:
        """Write what is due after a step; none of it is on the clock of the steps."""
        config = self.config
        if self.step % config.log_every == 0 or self.finished:
            self._log()
        if self._overlap is not None and self.step % self._epoch_steps == 0:
            chosen, again = self._overlap.turn()
            epoch = self.step // self._epoch_steps
            self.metrics.write("epoch", step=self.step, epoch=epoch, chosen=chosen, again=again)
        if self.step % config.eval_every == 0 or self.finished:
            self._evaluate()
        looks = (config.steps // 10, config.steps // 2, config.steps)
        if self.selector is not None and self.step in looks:
            self.ledger.lap("other")
            sampler = LargeBatchSampler(self.train_ids, config.large_batch, seed=self.seed)
            noisy = self.flags.get("noisy")
            record = sample(self.runner, self.selector, self.dataset, sampler, noisy)
            self.ledger.lap("evaluation")
            self.metrics.write("sample", step=self.step, **record)
        if self.finished:
            self._save_chosen()
            self.ledger.lap("other")
            self.metrics.write(
                "end",
                step=self.step,
                epochs=self.step / self._epoch_steps,
                il_seconds=self.il_seconds,
                scored=self.selector.scored if self.selector is not None else 0,
                trained=self.trained,
                **self._clock(),
            )

    def _save_chosen(self) -> None:
        if self.selector is None or self.selector.history is None:
            return
        history = self.selector.history
        save_history(history, self.dataset, self.folder / "history.safetensors")
        record = chosen_record(
            history,
            self.dataset,
            self.train_ids,
            il=self.selector.irreducible.of(self.train_ids.to(self.device)),
            noisy=self.flags.get("noisy"),
            classes=self.classes,
            show=self.show,
        )
        save_chosen(record, self.folder / "chosen.json")

    def _log(self) -> None:
        counts = self._read_counts()
        self.metrics.write(
            "train",
            step=self.step,
            loss=counts["loss"] / counts["steps"],
            selected=counts["selected"],
            correct=counts["correct"],
            **{"noisy": None, **dict(zip(self.flags.names, counts["flagged"], strict=True))},
            invalid=counts["invalid"],
            **self._clock(),
        )
        self._since_log = self._counts([0] * len(self.flags.names))

    def _clock(self) -> dict[str, Any]:
        """What records say of the time: seconds of the steps, and of all parts."""
        parts = {part: round(seconds, 6) for part, seconds in self.ledger.seconds.items()}
        return {"seconds": self.ledger.charged, "ledger_seconds": parts}

    def _read_counts(self) -> dict[str, Any]:
        """Read the sums from the device; a diverged model stops here, before it is saved."""
        counts = self._since_log
        loss = self._finite("training", float(counts.loss))
        return {
            "steps": counts.steps,
            "selected": counts.selected,
            "invalid": counts.invalid,
            "loss": loss,
            "correct": int(counts.correct),
            "flagged": counts.flagged.tolist(),
        }

    def _counts(self, flagged: list[int], **counts: Any) -> _Counts:
        return _Counts(torch.tensor(flagged, dtype=torch.int64, device=self.device), **counts)

    def _finite(self, what: str, loss: float) -> float:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"Trainer: the {what} loss is NaN or infinite at step {self.step}: the model has "
                "diverged; lower the learning rate. The last checkpoint is unharmed"
            )
        return loss

    def _evaluate(self) -> None:
        self.ledger.lap("other")
        found = evaluate(self.runner, self.test_x, self.test_y, bf16=self.config.bf16)
        self.ledger.lap("evaluation")
        self.metrics.write(
            "eval",
            step=self.step,
            accuracy=found.accuracy,
            loss=self._finite("test", found.loss),
            seconds=self.ledger.charged,
            # Once a run: with many classes it would be most of the file.
            **({"class_accuracy": found.class_accuracy} if self.finished else {}),
        )


@dataclass
class _Counts:
    """Sums over the steps since the last training record."""

    flagged: Tensor
    steps: int = 0
    selected: int = 0
    invalid: int = 0
    loss: Tensor | float = 0.0
    correct: Tensor | int = 0
