"""What one run left behind: its records, checked, and what it chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rho_train.report.checked_json import CheckedJson
from rho_train.report.chosen import Selected, read_chosen

PARTS = ("loading", "scoring", "selecting", "training", "other", "evaluation")


@dataclass(frozen=True)
class Train:
    """Counts of selected points since the previous record; None where unknown."""

    step: int
    selected: int
    noisy: int | None
    correct: int
    less_relevant: int | None
    redundant: int | None
    unsure: int | None


@dataclass(frozen=True)
class Eval:
    """Accuracy on the points that are watched, in [0, 1], at the last record also by class, None
    where none of them has the class."""

    step: int
    accuracy: float
    seconds: float
    class_accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class Test:
    """Accuracy on the test set after the last step, in [0, 1], also by class, None where no test
    point has the class."""

    accuracy: float
    class_accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class Epoch:
    """The distinct points chosen in a pass of large batches, and how many of them were chosen in
    the pass before; None for the first one."""

    number: int
    chosen: int
    again: int | None


@dataclass(frozen=True)
class Sample:
    """Large batches looked at point by point; `il` and `noisy` are None where unknown."""

    step: int
    loss: tuple[float, ...]
    il: tuple[float, ...] | None
    selected: tuple[bool, ...]
    noisy: tuple[bool, ...] | None


@dataclass(frozen=True)
class Totals:
    """The ledger of a run: seconds by part, see `PARTS`, and counts; epochs are passes of large
    batches."""

    parts: Mapping[str, float]
    epochs: float
    scored: int
    trained: int


@dataclass(frozen=True)
class Run:
    """A finished run of one method with one seed; times in seconds.

    `kept` is the share k / n_B of a large batch that is trained on, `noisy` that of the points to
    choose from with a wrong label. These, `test`, `totals` and `chosen` are None, and `epochs`
    empty, where a run did not write them or nobody knows.
    """

    method: str
    seed: int
    steps: int
    train: tuple[Train, ...]
    evals: tuple[Eval, ...]
    test: Test | None
    epochs: tuple[Epoch, ...]
    samples: tuple[Sample, ...]
    seconds: float
    il_seconds: float
    kept: float | None
    noisy: float | None
    totals: Totals | None
    chosen: Selected | None


def read_records(file: Path) -> list[CheckedJson]:
    """The records of a `metrics.jsonl`; a kill leaves a last line without its newline, cut
    anywhere: it is never read."""
    lines = file.read_bytes().split(b"\n")[:-1]
    fix = "move the folder of this run away and run it again"
    return [
        CheckedJson.parse(line, f"{file}, line {number}", fix)
        for number, line in enumerate(lines, 1)
    ]


def read_run(
    method: str,
    seed: int,
    records: Sequence[CheckedJson],
    steps: int,
    folder: Path,
    *,
    validated: bool,
) -> Run | str:
    """The run that some records and the other files in its folder tell of, or why it is not
    finished; `validated`: its evaluations are of a validation split, not of the test set.

    Raises:
        ValueError: a record is not as described, or belongs to another run.
    """
    train: list[Train] = []
    evals: list[Eval] = []
    epochs: list[Epoch] = []
    samples: list[Sample] = []
    last, chosen = 0, folder / "chosen.json"
    for position, record in enumerate(records):
        event, step = record.text("event"), record.count("step")
        if (record.text("method"), record.integer("seed")) != (method, seed):
            raise record.error(f"the file began with method {method!r}, seed {seed}; this differs")
        if step < last:
            raise record.error(f"step {step} comes after step {last}")
        last = step
        if event == "train":
            train.append(_train(record))
        elif event == "eval":
            evals.append(_eval(record))
        elif event == "epoch":
            epochs.append(_epoch(record))
        elif event == "sample":
            samples.append(_sample(record))
        elif event == "end":
            if position < len(records) - 1:
                raise record.error("records follow the end record")
            if not evals:
                raise record.error("the run has no eval record")
            if step != steps:
                return f"ended at step {step:,} of {steps:,}"
            return Run(
                method=method,
                seed=seed,
                steps=step,
                train=tuple(train),
                evals=tuple(evals),
                test=_test(folder / "test.json", None if validated else evals[-1]),
                epochs=tuple(epochs),
                samples=tuple(samples),
                seconds=record.number("seconds"),
                il_seconds=record.number("il_seconds"),
                kept=_kept(record),
                noisy=None if record.missing("noisy") else record.number("noisy", 1.0),
                totals=None if record.missing("ledger_seconds") else _totals(record),
                chosen=read_chosen(chosen) if chosen.exists() else None,
            )
        else:
            raise record.error(f"event must be train, eval, epoch, sample or end, got {event!r}")
    return f"unfinished, last record at step {last:,} of {steps:,}"


def _train(record: CheckedJson) -> Train:
    selected = record.count("selected")

    def known(key: str) -> int | None:
        return None if record.missing(key) else record.count(key, selected)

    return Train(
        record.count("step"),
        selected,
        known("noisy"),
        record.count("correct", selected),
        known("less_relevant"),
        known("redundant"),
        known("unsure"),
    )


def _eval(record: CheckedJson) -> Eval:
    return Eval(
        record.count("step"),
        record.number("accuracy", 1.0),
        record.number("seconds"),
        () if record.missing("class_accuracy") else record.shares("class_accuracy"),
    )


def _test(file: Path, last: Eval | None) -> Test | None:
    """What was read of the test set; runs of old wrote no file but had it watched all along."""
    if file.exists():
        fix = "delete the file and run the same command again"
        record = CheckedJson.parse(file.read_bytes(), f"{file}", fix)
        return Test(record.number("accuracy", 1.0), record.shares("class_accuracy"))
    return None if last is None else Test(last.accuracy, last.class_accuracy)


def _epoch(record: CheckedJson) -> Epoch:
    chosen = record.count("chosen")
    again = None if record.missing("again") else record.count("again", chosen)
    return Epoch(record.count("epoch"), chosen, again)


def _sample(record: CheckedJson) -> Sample:
    sample = Sample(
        step=record.count("step"),
        loss=record.losses("loss"),
        il=None if record.missing("il") else record.losses("il"),
        selected=record.flags("selected"),
        noisy=None if record.missing("noisy") else record.flags("noisy"),
    )
    columns = [sample.loss, sample.selected, sample.il, sample.noisy]
    if len({len(column) for column in columns if column is not None}) > 1:
        raise record.error("loss, il, selected and noisy must have the same length")
    return sample


def _kept(record: CheckedJson) -> float | None:
    if record.missing("batch") or record.missing("large_batch"):
        return None
    return record.count("batch") / max(1, record.count("large_batch"))


def _totals(record: CheckedJson) -> Totals:
    ledger = record.inner("ledger_seconds")
    return Totals(
        parts={part: ledger.number(part) for part in PARTS},
        epochs=record.number("epochs"),
        scored=record.count("scored"),
        trained=record.count("trained"),
    )
