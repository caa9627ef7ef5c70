"""Reading an experiment folder: `experiment.json` and its runs, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rho_train.report.checked_json import CheckedJson
from rho_train.report.runs import Run, read_records, read_run
from rho_train.report.svg import STYLES

MAX_METHODS = STYLES


@dataclass(frozen=True)
class Method:
    """A way of choosing the points to train on: `name` in the records, `label` for people."""

    name: str
    label: str


@dataclass(frozen=True)
class LeftOut:
    """A method and seed without a finished run, and why."""

    method: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Experiment:
    """The plan of an experiment and its finished runs; `left_out` lists the other ones, `steps` are
    those of a method that does not say otherwise."""

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

    @property
    def watched(self) -> str:
        """What the curves are of: `validation` points where some were set aside, else `test`."""
        return "validation" if _validated(self.config) else "test"

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
    baseline, steps = plan.text("baseline"), plan.count("steps")
    methods = tuple(
        Method(entry.text("name"), entry.text("label")) for entry in plan.entries("methods")
    )
    own = {
        entry.text("name"): steps if entry.missing("steps") else entry.count("steps")
        for entry in plan.entries("methods")
    }
    names = [method.name for method in methods]
    seeds = plan.integers("seeds")
    if not 1 <= len(methods) <= MAX_METHODS or len(set(names)) < len(names):
        raise plan.error(f"needs 1 to {MAX_METHODS} methods with different names, got {names}")
    if steps < 1:
        raise plan.error(f"steps must be at least 1, got {steps}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise plan.error(f"needs one or more different seeds, got {list(seeds)}")
    if baseline not in names:
        raise plan.error(f"baseline must be one of {names}, got {baseline!r}")

    config = plan.mapping("config")
    found: dict[tuple[str, int], Run | str] = {}
    origin: dict[tuple[str, int], Path] = {}
    for file in sorted(path.parent.glob("runs/*/metrics.jsonl")):
        records = read_records(file)
        if not records:
            continue
        key = records[0].text("method"), records[0].integer("seed")
        if key[0] not in names or key[1] not in seeds:
            raise records[0].error(f"method {key[0]!r}, seed {key[1]} is not in {path.name}")
        if key in origin:
            raise records[0].error(f"{origin[key]} holds the same method and seed")
        origin[key] = file
        wanted = _planned(file.with_name("plan.json"), own[key[0]])
        validated = _validated(config)
        found[key] = read_run(*key, records, wanted, file.parent, validated=validated)
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
        config=config,
        environment=plan.mapping("environment"),
        runs=tuple(runs),
        left_out=tuple(left_out),
    )


def _validated(config: Mapping[str, object]) -> bool:
    share = config.get("validation", 0.0)
    return isinstance(share, float) and share > 0.0


def _planned(path: Path, steps: int) -> int:
    """Steps of a run: those that follow from the minutes of another run, where it has a plan."""
    if not path.exists():
        return steps
    fix = "move the folder of this run away and run it again"
    return CheckedJson.parse(path.read_bytes(), f"{path}", fix).count("steps")
