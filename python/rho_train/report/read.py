"""Reading an experiment folder: `experiment.json` and the metrics of its runs, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rho_train.report.checked_json import CheckedJson

MAX_METHODS = 8


@dataclass(frozen=True)
class Method:
    """A way of choosing the points to train on: `name` in the records, `label` for people."""

    name: str
    label: str


@dataclass(frozen=True)
class Train:
    """Counts of selected points since the previous record; `noisy` is None where unknown."""

    step: int
    selected: int
    noisy: int | None
    correct: int


@dataclass(frozen=True)
class Eval:
    """Accuracy on the test set, in [0, 1]."""

    step: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Sample:
    """Large batches looked at point by point; `il` and `noisy` are None where unknown."""

    step: int
    loss: tuple[float, ...]
    il: tuple[float, ...] | None
    selected: tuple[bool, ...]
    noisy: tuple[bool, ...] | None


@dataclass(frozen=True)
class Run:
    """A finished run of one method with one seed; times in seconds."""

    method: str
    seed: int
    train: tuple[Train, ...]
    evals: tuple[Eval, ...]
    samples: tuple[Sample, ...]
    seconds: float
    il_seconds: float


@dataclass(frozen=True)
class LeftOut:
    """A method and seed without a finished run, and why."""

    method: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Experiment:
    """The plan of an experiment and its finished runs; `left_out` lists the other ones."""

    title: str
    description: str
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    baseline: str
    steps: int
    config: Mapping[str, object]
    environment: Mapping[str, object]
    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]

    def of(self, method: str) -> dict[int, Run]:
        """Finished runs of `method` by seed."""
        return {run.seed: run for run in self.runs if run.method == method}


def read_experiment(out: Path) -> Experiment:
    """Read the experiment in the folder `out`: `experiment.json` and `runs/*/metrics.jsonl`.

    A run without an end record (killed, still running; its last line may be cut) is not an error:
    it is named in `left_out`.

    Raises:
        ValueError: a file that cannot be read as such, with file, line and fix; no finished run.
        OSError: a file that cannot be opened.

    Example:
        >>> read_experiment(Path("nowhere"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: read_experiment: nowhere/experiment.json is missing; give the folder that ...
    """
    path = Path(out) / "experiment.json"
    if not path.is_file():
        raise ValueError(
            f"read_experiment: {path} is missing; give the folder that the experiment wrote"
        )
    plan = CheckedJson.parse(path.read_bytes(), f"{path}", "restore the file or run again")
    methods = tuple(
        Method(entry.text("name"), entry.text("label")) for entry in plan.entries("methods")
    )
    names = [method.name for method in methods]
    seeds = plan.integers("seeds")
    baseline, steps = plan.text("baseline"), plan.count("steps")
    if not 1 <= len(methods) <= MAX_METHODS or len(set(names)) < len(names):
        raise plan.error(f"needs 1 to {MAX_METHODS} methods with different names, got {names}")
    if steps < 1:
        raise plan.error(f"steps must be at least 1, got {steps}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise plan.error(f"needs one or more different seeds, got {list(seeds)}")
    if baseline not in names:
        raise plan.error(f"baseline must be one of {names}, got {baseline!r}")

    found: dict[tuple[str, int], Run | str] = {}
    origin: dict[tuple[str, int], Path] = {}
    for file in sorted(path.parent.glob("runs/*/metrics.jsonl")):
        records = _records(file)
        if not records:
            continue
        key = records[0].text("method"), records[0].integer("seed")
        if key[0] not in names or key[1] not in seeds:
            raise records[0].error(f"method {key[0]!r}, seed {key[1]} is not in {path.name}")
        if key in origin:
            raise records[0].error(f"{origin[key]} holds the same method and seed")
        origin[key] = file
        found[key] = _run(*key, records, steps)
    runs, left_out = [], []
    for method in names:
        for seed in seeds:
            run = found.get((method, seed), "no record")
            if isinstance(run, str):
                left_out.append(LeftOut(method, seed, run))
            else:
                runs.append(run)
    if not runs:
        raise ValueError(
            f"read_experiment: {path.parent / 'runs'} has no finished run ({len(found)} started); "
            "let the experiment finish at least one run, then write the report again"
        )
    return Experiment(
        title=plan.text("title"),
        description=plan.text("description"),
        methods=methods,
        seeds=seeds,
        baseline=baseline,
        steps=steps,
        config=plan.mapping("config"),
        environment=plan.mapping("environment"),
        runs=tuple(runs),
        left_out=tuple(left_out),
    )


def _records(file: Path) -> list[CheckedJson]:
    # A kill leaves a last line without its newline, cut anywhere: it is never read.
    lines = file.read_bytes().split(b"\n")[:-1]
    fix = "move the folder of this run away and run it again"
    return [
        CheckedJson.parse(line, f"{file}, line {number}", fix)
        for number, line in enumerate(lines, 1)
    ]


def _run(method: str, seed: int, records: Sequence[CheckedJson], steps: int) -> Run | str:
    train: list[Train] = []
    evals: list[Eval] = []
    samples: list[Sample] = []
    last = 0
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
            evals.append(Eval(step, record.number("accuracy", 1.0), record.number("seconds")))
        elif event == "sample":
            samples.append(_sample(record))
        elif event == "end":
            if position < len(records) - 1:
                raise record.error("records follow the end record")
            if not evals:
                raise record.error("the run has no eval record")
            if step != steps:
                return f"ended at step {step:,} of {steps:,}"
            seconds, il_seconds = record.number("seconds"), record.number("il_seconds")
            return Run(
                method, seed, tuple(train), tuple(evals), tuple(samples), seconds, il_seconds
            )
        else:
            raise record.error(f"event must be train, eval, sample or end, got {event!r}")
    return f"unfinished, last record at step {last:,} of {steps:,}"


def _train(record: CheckedJson) -> Train:
    selected = record.count("selected")
    noisy = None if record.missing("noisy") else record.count("noisy", selected)
    return Train(record.count("step"), selected, noisy, record.count("correct", selected))


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
