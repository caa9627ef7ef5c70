"""What a run writes of itself: records of its steps, evaluations, looks, and what it chose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rho_train.dataset import IndexedDataset
from rho_train.flags import ExampleFlags
from rho_train.sampler import LargeBatchSampler
from rho_train.selector import Selector
from rho_train.tasks.image_files import ImageFiles
from rho_train.trainer.config import TrainConfig
from rho_train.trainer.evaluation import evaluate, sample
from rho_train.trainer.metrics import MetricsFile
from rho_train.trainer.overlap import Overlap
from rho_train.trainer.selected_examples import chosen_record, save_chosen, save_history
from rho_train.trainer.time_breakdown import TimeBreakdown


class MetricsLogger:
    """The records of a run in its folder; none of what is done here changes the run.

    `count` takes each step, `write` writes what is due after it: `train` every
    `config.log_every` steps with sums over the steps since the last one, `epoch` at the end of each
    pass of large batches, `eval` every `config.eval_every` steps, `sample` after a tenth, half and
    all of the steps, `end`. At the end, if the Selector keeps a History, history.safetensors and
    chosen.json are written too.

    Args:
        model: evaluated on the test set, and at looks on training points.
        dataset, train_ids: the training points.
        test_x, test_y: the test set, on the model's device.
        config: how often to write.
        folder: it exists; for metrics.jsonl, history.safetensors and chosen.json.
        ledger: of the run; evaluations and looks are laps of it, and records show it.
        name, seed: of the run, in every record.
        selector: None: plain training.
        flags: of the data set's points, on the model's device.
        il_seconds: what the irreducible losses cost.
        classes: names of the classes.
        show: what people see of the point with an id; None: what the model gets.
        state: the checkpoint of the run, with what `state_dict` returned; records that were
            written later are cut off.

    Raises:
        OSError: the folder cannot be written.
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
        ledger: TimeBreakdown,
        *,
        name: str,
        seed: int,
        selector: Selector | None,
        flags: ExampleFlags,
        il_seconds: float,
        classes: Sequence[str],
        show: Callable[[int], object] | None,
        state: Mapping[str, Any] | None,
    ) -> None:
        self.model, self.dataset, self.train_ids = model, dataset, train_ids
        self.test_x, self.test_y = test_x, test_y
        self.config, self.folder, self.ledger, self.seed = config, folder, ledger, seed
        self.selector, self.flags, self.il_seconds = selector, flags, il_seconds
        self.classes, self.show = classes, show
        # An epoch is one pass of large batches, for every method, as the paper counts.
        self._epoch_steps = max(1, len(train_ids) // config.large_batch)
        self._overlap = None if selector is None else Overlap(len(dataset), test_y.device)
        self._since_log = self._counts([0] * len(flags.names))
        if state is not None:
            self._since_log = self._counts(**state["since_log"])
            if self._overlap is not None:
                self._overlap.load_state_dict(state["overlap"])
        size = 0 if state is None else state["metrics_size"]
        self._metrics = MetricsFile(folder / "metrics.jsonl", size, {"method": name, "seed": seed})

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint after `step` keeps of the records, which are on the disk then.

        Raises:
            FloatingPointError: the loss since the last record is NaN or infinite.
        """
        self._metrics.flush()
        return {
            "overlap": self._overlap.state_dict() if self._overlap else None,
            "since_log": self._read_counts(step),
            "metrics_size": self._metrics.size(),
        }

    def count(
        self, ids: Tensor, labels: Tensor, logits: Tensor, loss: Tensor, invalid: int
    ) -> None:
        """Add a step on the points `ids` (k,), with labels (k,), logits (k, C) and their loss ().

        Sums stay on the device; reading one here would wait for the step to finish.
        """
        counts = self._since_log
        counts.steps += 1
        counts.selected += len(ids)
        counts.invalid += invalid
        counts.loss = counts.loss + loss
        counts.correct = counts.correct + (logits.argmax(1) == labels).sum()
        if self.flags.names:
            counts.flagged = counts.flagged + self.flags.counts(ids)
        if self._overlap is not None:
            self._overlap.add(ids)

    def write(self, step: int, trained: int) -> None:
        """Write what is due after `step`; none of it is on the clock of the steps.

        Raises:
            FloatingPointError: a loss that is due is NaN or infinite.
            OSError: a file cannot be written.
        """
        config, finished = self.config, step >= self.config.steps
        if step % config.log_every == 0 or finished:
            self._log(step)
        if self._overlap is not None and step % self._epoch_steps == 0:
            chosen, again = self._overlap.turn()
            epoch = step // self._epoch_steps
            self._metrics.write("epoch", step=step, epoch=epoch, chosen=chosen, again=again)
        if step % config.eval_every == 0 or finished:
            self.evaluate(step)
        if step in (config.steps // 10, config.steps // 2, config.steps):
            self._look(step)
        if finished:
            self._save_chosen()
            self.ledger.lap("other")
            noisy = self.flags.get("noisy")
            self._metrics.write(
                "end",
                step=step,
                epochs=step / self._epoch_steps,
                batch=config.batch,
                large_batch=config.large_batch,
                noisy=None if noisy is None else self._share(noisy),
                il_seconds=self.il_seconds,
                scored=self.selector.scored if self.selector is not None else 0,
                trained=trained,
                **self._clock(),
            )

    def evaluate(self, step: int) -> None:
        """Write the accuracy and the loss on the test set.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
            OSError: the record cannot be written.
        """
        self.ledger.lap("other")
        found = evaluate(self.model, self.test_x, self.test_y, bf16=self.config.bf16)
        self.ledger.lap("evaluation")
        # By class once a run: with many classes it would be most of the file.
        finished = step >= self.config.steps
        self._metrics.write(
            "eval",
            step=step,
            accuracy=found.accuracy,
            loss=_finite("evaluation", found.loss, step),
            seconds=self.ledger.charged,
            **({"class_accuracy": found.class_accuracy} if finished else {}),
        )

    def _look(self, step: int) -> None:
        if self.selector is None:
            return
        self.ledger.lap("other")
        sampler = LargeBatchSampler(self.train_ids, self.config.large_batch, seed=self.seed)
        noisy = self.flags.get("noisy")
        record = sample(self.model, self.selector, self.dataset, sampler, noisy)
        self.ledger.lap("evaluation")
        self._metrics.write("sample", step=step, **record)

    def _save_chosen(self) -> None:
        if self.selector is None or self.selector.history is None:
            return
        history = self.selector.history
        save_history(history, self.dataset, self.folder / "history.safetensors")
        record = chosen_record(
            history,
            self.dataset,
            self.train_ids,
            il=self.selector.il_of(self.train_ids.to(self.test_y.device)),
            noisy=self.flags.get("noisy"),
            classes=self.classes,
            show=self.show,
        )
        save_chosen(record, self.folder / "chosen.json")

    def _log(self, step: int) -> None:
        counts = self._read_counts(step)
        self._metrics.write(
            "train",
            step=step,
            loss=counts["loss"] / counts["steps"],
            selected=counts["selected"],
            correct=counts["correct"],
            **{"noisy": None, **dict(zip(self.flags.names, counts["flagged"], strict=True))},
            invalid=counts["invalid"],
            **self._clock(),
        )
        self._since_log = self._counts([0] * len(self.flags.names))

    def _share(self, flag: Tensor) -> float:
        """The share of the points to train on that have a flag, bool (len(dataset),)."""
        return float(flag[self.train_ids.to(flag.device)].double().mean())

    def _clock(self) -> dict[str, Any]:
        """What records say of the time: seconds of the steps, and of all parts."""
        parts = {part: round(seconds, 6) for part, seconds in self.ledger.seconds.items()}
        return {"seconds": self.ledger.charged, "ledger_seconds": parts}

    def _read_counts(self, step: int) -> dict[str, Any]:
        """Read the sums from the device; a diverged model stops here, before it is saved."""
        counts = self._since_log
        loss = _finite("training", float(counts.loss), step)
        return {
            "steps": counts.steps,
            "selected": counts.selected,
            "invalid": counts.invalid,
            "loss": loss,
            "correct": int(counts.correct),
            "flagged": counts.flagged.tolist(),
        }

    def _counts(self, flagged: list[int], **counts: Any) -> _Counts:
        flags = torch.tensor(flagged, dtype=torch.int64, device=self.test_y.device)
        return _Counts(flags, **counts)


@dataclass
class _Counts:
    """Sums over the steps since the last training record."""

    flagged: Tensor
    steps: int = 0
    selected: int = 0
    invalid: int = 0
    loss: Tensor | float = 0.0
    correct: Tensor | int = 0


def _finite(what: str, loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"Trainer: the {what} loss is NaN or infinite at step {step}: the model has "
            "diverged; lower the learning rate. The last checkpoint is unharmed"
        )
    return loss
