"""Records that a run writes of itself, as lines of JSON with checksums."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from rho_train.batch import to
from rho_train.distributed import all_gather, on_first
from rho_train.files import explained, to_line
from rho_train.trainer.evaluation import evaluate
from rho_train.trainer.selected_examples import save_selected
from rho_train.training_step import Trained

if TYPE_CHECKING:
    from rho_train.trainer.loop import Trainer


class MetricsLogger:
    """Metrics of a run; none of what is done here changes the run.

    `count` takes each step, `write` writes the records that are due after it. With `state`, the
    checkpoint of the run, records that were written later are cut off. A loss that is NaN or
    infinite is a FloatingPointError. Several ranks add up their counts; the first writes. `seconds`
    are those of the steps.
    """

    def __init__(self, run: Trainer, state: Mapping[str, Any] | None) -> None:
        self.run, self.device, self.seconds = run, run.device, 0.0
        # One table (N, F): all flags of a step are counted at once.
        self._flags = torch.stack([*run.flags.values()], 1) if run.flags else None
        self._sums, size, crc32 = self._no_sums(), 0, 0
        if state is not None:
            self._sums, self.seconds = to(state["since_log"], self.device), state["seconds"]
            size, crc32 = state.get("metrics_size", 0), state.get("metrics_crc32", 0)
        self._file = None if run.ranks[0] else MetricsFile(run.work / "metrics.jsonl", size, crc32)

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return the state after `step`, with all records on the disk."""
        _finite("training", float(self._sums["loss"]), step)
        state: dict[str, Any] = {"since_log": self._sums, "seconds": self.seconds}
        if (file := self._file) is not None:
            file.flush()
            state |= {"metrics_size": file.size, "metrics_crc32": file.crc32}
        return state

    def start_clock(self) -> None:
        """Begin a step; time since the last one counts nowhere."""
        self._began = time.perf_counter()

    def count(self, made: Trained, invalid: int, selected: int) -> None:
        """Add a step on the first `selected` examples; the sums stay on the device."""
        assert made.logits is not None
        sums, right = self._sums, made.logits.argmax(1) == made.fields.labels
        sums["steps"] += 1
        sums["selected"] += selected
        sums["invalid"] += invalid
        sums["loss"] = sums["loss"] + made.loss
        sums["correct"] = sums["correct"] + right[:selected].sum()
        if self._flags is not None:
            sums["flagged"] = sums["flagged"] + self._flags[made.fields.ids[:selected]].sum(0)

    def write(self, step: int, trained: int) -> None:
        """End the step, and write what is due after it."""
        config, selector = self.run.config, self.run.selector
        finished = step >= self.run.steps
        log, due = (finished or step % n == 0 for n in (config.log_every, config.eval_every))
        if log or due:
            float(self._sums["loss"])  # waits for the device
        self.seconds += time.perf_counter() - self._began
        if log:
            self._log(step)
        if due:
            scored = getattr(selector or self.run.sampler, "scored", 0)
            trained, scored = map(int, self._over_ranks([trained, scored]))
            self.evaluate(step, trained, scored)
        if not finished:
            return
        if selector is not None and selector.history is not None:
            save_selected(self.run, selector.history)
        noisy = self.run.flags.get("noisy")
        ids = self.run.train_ids.to(self.device)
        share = None if noisy is None else float(noisy[ids].double().mean())
        # An epoch is one pass of large batches, for every method, as the paper counts.
        epochs, costs = step / max(1, len(ids) // config.large_batch), self.run.costs
        counts = {"epochs": epochs, "scored": scored, "trained": trained, "noisy": share}
        spent = {"cost": costs and costs.spent(trained, scored), "il_seconds": self.run.il_seconds}
        self._write("end", step=step, **counts, **spent, seconds=self.seconds)

    def evaluate(self, step: int, trained: int = 0, scored: int = 0) -> None:
        """Write accuracy and loss on the evaluation set, and what the steps have cost."""
        run = self.run
        options: dict[str, Any] = {"bf16": run.config.bf16, "forward": run.forward}
        found = on_first(lambda: evaluate(run.runner, run.eval_set, **options))
        _finite("evaluation", found.loss, step)
        record = found._asdict()
        if step < run.steps:
            # By class once a run: with many classes it would be most of the file.
            del record["class_accuracy"]
        cost = run.costs and run.costs.spent(trained, scored)  # None if nobody has counted it
        self._write("eval", step=step, **record, cost=cost, seconds=self.seconds)

    def _log(self, step: int) -> None:
        names = ("loss", "steps", "selected", "correct", "invalid")
        numbers = self._over_ranks([*(self._sums[name] for name in names), *self._sums["flagged"]])
        loss = _finite("training", numbers[0], step) / numbers[1]
        selected, correct, invalid, *flagged = map(int, numbers[2:])
        counts = {"selected": selected, "correct": correct, "noisy": None}
        counts |= dict(zip(self.run.flags, flagged, strict=True))
        self._write("train", step=step, loss=loss, **counts, invalid=invalid, seconds=self.seconds)
        self._sums = self._no_sums()

    def _over_ranks(self, numbers: Sequence[float | Tensor]) -> list[float]:
        """Return the sums of numbers over all ranks."""
        options: dict[str, Any] = {"dtype": torch.float64, "device": self.device}
        row = torch.stack([torch.as_tensor(n, **options) for n in numbers])
        return all_gather(row).sum(0).tolist()

    def _write(self, event: str, **values: Any) -> None:
        if self._file is not None:
            run = {"method": self.run.name, "seed": self.run.seed}
            self._file.write({"event": event, **run, **values})

    def _no_sums(self) -> dict[str, Any]:
        flagged = torch.zeros(len(self.run.flags), dtype=torch.int64, device=self.device)
        counts = dict.fromkeys(("steps", "selected", "invalid", "correct"), 0)
        return {**counts, "loss": 0.0, "flagged": flagged}


class MetricsFile:
    """Append-only records, cut back to the `size` bytes, with a CRC-32, of the last checkpoint."""

    def __init__(self, path: Path, size: int = 0, crc32: int = 0) -> None:
        self.path, self.size, self.crc32 = path, size, crc32
        with self._opened("a+b") as file:
            file.seek(0)
            if zlib.crc32(file.read(size)) != crc32:
                raise ValueError(
                    f"{path} is not what its checkpoint says: it was damaged, cut or edited; "
                    "restore it, or delete the run's folder to start again"
                )
            file.truncate(size)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; it is in the file when this returns."""
        line = to_line(record).encode()
        with self._opened("r+b") as file:
            file.seek(self.size)
            file.write(line)
            file.truncate()  # what an interrupted write left
        self.size, self.crc32 = self.size + len(line), zlib.crc32(line, self.crc32)

    def flush(self) -> None:
        """Make all records so far survive a power cut."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    @contextmanager
    def _opened(self, mode: str) -> Iterator[IO[bytes]]:
        try:
            with open(self.path, mode) as file:
                yield file
        except OSError as error:
            with suppress(OSError):  # half a line would make the next record unreadable
                os.truncate(self.path, self.size)
            raise explained(error, f"cannot write {self.path}") from error


def _finite(what: str, loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"Trainer: the {what} loss is NaN or infinite at step {step}: the model has diverged; "
            "lower the learning rate. The last checkpoint is unharmed"
        )
    return loss
