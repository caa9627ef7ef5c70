"""Records that a run writes of itself, as lines of JSON with checksums."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rho_train.batch import to
from rho_train.records import to_line
from rho_train.scoring import device_of
from rho_train.trainer.config import RunData
from rho_train.trainer.evaluation import evaluate
from rho_train.trainer.selected_examples import save_selected
from rho_train.training_step import Trained


class MetricsLogger:
    """Metrics of a run; none of what is done here changes the run.

    `count` takes each step, `write` writes what is due after it: `train` every `config.log_every`
    steps, with sums since the last one; `eval` every `config.eval_every` steps; `end`, with the
    files of `save_selected` if there is a History. With `state`, the checkpoint of the run, records
    that were written later are cut off. A loss that is NaN or infinite is a FloatingPointError.
    """

    def __init__(self, run: RunData, state: Mapping[str, Any] | None) -> None:
        self.run, self.times, self.device = run, run.times, device_of(run.model)
        # One table (N, F): all flags of a step are counted at once.
        self._flags = torch.stack([*run.flags.values()], 1) if run.flags else None
        self._sums = self._no_sums()
        size, crc32 = 0, 0
        if state is not None:
            self._sums = to(state["since_log"], self.device)
            self.times.seconds.update(state["part_seconds"])
            size, crc32 = state["metrics_size"], state["metrics_crc32"]
        self._file = MetricsFile(Path(run.folder) / "metrics.jsonl", size, crc32)

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return the state after `step`, with all records on the disk."""
        _finite("training", float(self._sums["loss"]), step)
        file = self._file
        file.flush()
        return {
            "since_log": self._sums,
            "part_seconds": dict(self.times.seconds),
            "metrics_size": file.size,
            "metrics_crc32": file.crc32,
        }

    def count(self, made: Trained, invalid: int) -> None:
        """Add a step and its examples without a valid score; the sums stay on the device."""
        assert made.logits is not None
        fields, sums = made.fields, self._sums
        sums["steps"] += 1
        sums["selected"] += len(fields.ids)
        sums["invalid"] += invalid
        sums["loss"] = sums["loss"] + made.loss
        sums["correct"] = sums["correct"] + (made.logits.argmax(1) == fields.labels).sum()
        if self._flags is not None:
            sums["flagged"] = sums["flagged"] + self._flags[fields.ids].sum(0)

    def write(self, step: int, trained: int) -> None:
        """Write what is due after `step`."""
        config, selector = self.run.config, self.run.selector
        finished = step >= config.steps
        if step % config.log_every == 0 or finished:
            self._log(step)
        if step % config.eval_every == 0 or finished:
            self.evaluate(step, trained)
        if not finished:
            return
        if selector is not None and selector.history is not None:
            save_selected(selector.history, self.run)
        self.times.add("other")
        noisy = self.run.flags.get("noisy")
        ids = self.run.train_ids.to(self.device)
        share = None if noisy is None else float(noisy[ids].double().mean())
        scored = 0 if selector is None else selector.scored
        # An epoch is one pass of large batches, for every method, as the paper counts.
        epochs = step / max(1, len(ids) // config.large_batch)
        counts = {"epochs": epochs, "scored": scored, "trained": trained, "noisy": share}
        times = {"il_seconds": self.run.il_seconds, **self._clock()}
        self._write("end", step=step, **counts, cost=self._cost(step, trained), **times)

    def evaluate(self, step: int, trained: int = 0) -> None:
        """Write accuracy and loss on the evaluation set, and what the steps have cost."""
        self.times.add("other")
        run = self.run
        found = evaluate(run.runner, run.eval_set, bf16=run.config.bf16, forward=run.forward)
        self.times.add("evaluation")
        _finite("evaluation", found.loss, step)
        record = found._asdict()
        if step < self.run.config.steps:
            # By class once a run: with many classes it would be most of the file.
            del record["class_accuracy"]
        spent = {"cost": self._cost(step, trained), "seconds": self.times.step_seconds}
        self._write("eval", step=step, **record, **spent)

    def _cost(self, step: int, trained: int) -> dict[str, float] | None:
        """Return the counted cost by part, None where nobody has counted that of an example."""
        config, selector, costs = self.run.config, self.run.selector, self.run.costs
        if costs is None:
            return None
        last = config.large_batch * config.bn_recalibration_batches
        scored = 0 if selector is None else selector.scored
        return costs.spent(trained, scored, last if step >= config.steps else 0)

    def _log(self, step: int) -> None:
        sums = self._sums
        loss = _finite("training", float(sums["loss"]), step) / sums["steps"]
        counts = {"selected": sums["selected"], "correct": int(sums["correct"]), "noisy": None}
        counts |= dict(zip(self.run.flags, sums["flagged"].tolist(), strict=True))
        counts["invalid"] = sums["invalid"]
        self._write("train", step=step, loss=loss, **counts, **self._clock())
        self._sums = self._no_sums()

    def _write(self, event: str, **values: Any) -> None:
        self._file.write({"event": event, "method": self.run.name, "seed": self.run.seed, **values})

    def _clock(self) -> dict[str, Any]:
        """Return seconds of the steps, and of all parts."""
        parts = {part: round(seconds, 6) for part, seconds in self.times.seconds.items()}
        return {"seconds": self.times.step_seconds, "part_seconds": parts}

    def _no_sums(self) -> dict[str, Any]:
        flagged = torch.zeros(len(self.run.flags), dtype=torch.int64, device=self.device)
        counts = dict.fromkeys(("steps", "selected", "invalid", "correct"), 0)
        return {**counts, "loss": 0.0, "flagged": flagged}


class MetricsFile:
    """Append-only metrics.jsonl of one run, which a kill can shorten by one line at most.

    It is made, or cut back to `size` bytes with the checksum `crc32`, as it was at the last
    checkpoint, because the steps of later records are made again.
    """

    def __init__(self, path: Path, size: int = 0, crc32: int = 0) -> None:
        self.path, self.size, self.crc32 = path, size, crc32
        try:
            path.touch()
            with open(path, "r+b") as file:
                if zlib.crc32(file.read(size)) != crc32:
                    raise ValueError(
                        f"{path} is not what its checkpoint says: it was damaged, cut or edited; "
                        "restore it, or delete the run's folder to start again"
                    )
                file.truncate(size)
        except OSError as error:
            raise self._cannot_write(error) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; it is in the file when this returns."""
        line = to_line(record).encode()
        try:
            with open(self.path, "r+b") as file:
                file.seek(self.size)
                file.write(line)
                file.truncate()  # what an interrupted write left
        except OSError as error:
            # Half a line would make the next record unreadable.
            with suppress(OSError):
                os.truncate(self.path, self.size)
            raise self._cannot_write(error) from error
        self.size, self.crc32 = self.size + len(line), zlib.crc32(line, self.crc32)

    def flush(self) -> None:
        """Make all records so far survive a power cut."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def _cannot_write(self, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"cannot write {self.path}: {error.strerror}; make room or the folder writable, then "
            "run the same command again: it goes on from the last checkpoint",
        )


def _finite(what: str, loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"Trainer: the {what} loss is NaN or infinite at step {step}: the model has diverged; "
            "lower the learning rate. The last checkpoint is unharmed"
        )
    return loss
