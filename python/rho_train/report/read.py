"""Read the folders of comparisons; a damaged file gives one clear error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

MAX_METHODS = 24
"""A report has a colour and a marker for each of so many methods."""
FLAGS = ("noisy", "correct", "less_relevant", "redundant", "unsure")
"""Flags of the selected examples that training records count."""
PARTS = ("training", "scoring", "selecting", "loading", "other", "evaluation")
"""Parts of the seconds of a run."""

Record = dict[str, Any]

_EVENTS = ("train", "eval", "epoch", "sample", "end")
# Fields of the JSON objects: name:kind, "?" where it may be missing or null, [] around the kind
# of a list's values. A kind is an object, a range or a type; a float may be NaN or infinite.
_FIELDS = {
    "plan": "title:str description:str methods:[method] seeds:[int] baseline:str steps:positive "
    "config:dict environment:dict",
    "method": "name:str label:str steps:positive?",
    "head": "method:str seed:int step:count",
    "train": "selected:count correct:count noisy:count? less_relevant:count? redundant:count? "
    "unsure:count?",
    "eval": "accuracy:share seconds:count class_accuracy:[share?]?",
    "epoch": "epoch:count selected:count again:count?",
    "sample": "loss:[float?] il:[float?]? selected:[bool] noisy:[bool]?",
    "end": "seconds:count il_seconds:count noisy:share? part_seconds:parts? epochs:count? "
    "scored:count? trained:count? batch:positive? large_batch:positive?",
    "parts": " ".join(f"{part}:count" for part in PARTS),
    "steps": "steps:positive",
    "test": "accuracy:share class_accuracy:[share?]",
    "selections": "classes:[str]? examples:[count] selected:[count] never:count never_noisy:count? "
    "tied:count? most_selected:[example] never_selected:[example]",
    "example": "id:count label:int noisy:bool? il:number? loss:number? seen:count selected:count "
    "image:str? text:str? features:[number]?",
}
_OBJECTS = {k: dict(f.split(":") for f in fields.split()) for k, fields in _FIELDS.items()}
_MOST = sys.float_info.max
_RANGES = {"count": (0, _MOST), "positive": (1, _MOST), "number": (-_MOST, _MOST), "share": (0, 1)}
_PNG = re.compile("data:image/png;base64,[A-Za-z0-9+/]+=*")  # nothing else may come into the page
_NONE = "no record"


@dataclass(frozen=True)
class Run:
    """A finished run: its checked records by event, `end` the last one; unknown values are None.

    `test` is the result on the test set, `selections` what selected.json says.
    """

    method: str
    seed: int
    train: Sequence[Record]
    eval: Sequence[Record]
    epoch: Sequence[Record]
    sample: Sequence[Record]
    end: Record
    test: Record | None
    selections: Record | None

    @property
    def best(self) -> float:
        """Highest accuracy of the curve."""
        return float(max(record["accuracy"] for record in self.eval))

    def first_at(self, target: float) -> Record | None:
        """Return the first evaluation with an accuracy of `target` or more."""
        return next((record for record in self.eval if record["accuracy"] >= target), None)


@dataclass(frozen=True)
class Experiment:
    """A comparison and its finished runs; `left_out` has method, seed and reason of the others.

    `labels` are those of the methods, by name and in order; `watched` names the examples of the
    curves, `test` or `validation`; `steps` are those of methods without steps of their own.
    """

    title: str
    description: str
    labels: Mapping[str, str]
    seeds: Sequence[int]
    baseline: str
    steps: int
    config: Mapping[str, object]
    environment: Mapping[str, object]
    watched: str
    runs: Sequence[Run]
    left_out: Sequence[tuple[str, int, str]]

    def of(self, method: str) -> dict[int, Run]:
        """Return the finished runs of a method by seed."""
        return {run.seed: run for run in self.runs if run.method == method}

    def finished(self) -> Iterator[tuple[str, list[Run]]]:
        """Yield the name of each method that has finished runs, with these."""
        return ((name, runs) for name in self.labels if (runs := list(self.of(name).values())))


def read_experiment(out: Path) -> Experiment:
    """Read the comparison in the folder `out`: `experiment.json` and `runs/*/metrics.jsonl`.

    A run without an end record (killed, still running) is no error but named in `left_out`.

    Raises:
        ValueError: a file that cannot be read as such, with file, line and fix; no finished run.
        OSError: a file cannot be opened.

    Example:
        >>> read_experiment(Path("nowhere"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: read_experiment: nowhere/experiment.json is missing; give the folder ...
    """
    path = Path(out) / "experiment.json"
    if not path.is_file():
        raise ValueError(f"read_experiment: {path} is missing; give the folder of a comparison")
    plan = _file(path, "plan")
    methods, share = plan.pop("methods"), plan["config"].get("validation")
    labels = {method["name"]: method["label"] for method in methods}
    for what, given in (("methods", [m["name"] for m in methods]), ("seeds", plan["seeds"])):
        if len(set(given)) < len(given) or not given:
            raise _error(path, f"needs one or more different {what}, got {given}")
    if plan["baseline"] not in labels:
        raise _error(path, f"baseline must be one of {list(labels)}, got {plan['baseline']!r}")
    steps = {method["name"]: method["steps"] or plan["steps"] for method in methods}
    watched = "validation" if isinstance(share, float) and share > 0 else "test"
    states: dict[tuple[str, int], Run | str] = dict.fromkeys(product(labels, plan["seeds"]), _NONE)
    for metrics in sorted(path.parent.glob("runs/*/metrics.jsonl")):
        # A kill leaves a last line without its newline, cut anywhere: it is never read.
        lines = enumerate(metrics.read_bytes().split(b"\n")[:-1], 1)
        records = [(place := f"{metrics}, line {i}", _json(place, line)) for i, line in lines]
        if records:
            key = _order(*records[0])[:2]
            if states.get(key) != _NONE:
                where = "in another file too" if key in states else f"not in {path.name}"
                raise _error(records[0][0], f"method {key[0]!r}, seed {key[1]} is {where}")
            states[key] = _read_run(records, steps[key[0]], metrics.parent, watched)
    runs = [state for state in states.values() if isinstance(state, Run)]
    if not runs:
        started = sum(state != _NONE for state in states.values())
        raise ValueError(
            f"read_experiment: {path.parent / 'runs'} has no finished run ({started} started); "
            "let at least one finish, then write the report again"
        )
    left_out = [(*key, state) for key, state in states.items() if isinstance(state, str)]
    return Experiment(**plan, labels=labels, watched=watched, runs=runs, left_out=left_out)


def read_experiments(folders: Sequence[Path]) -> Experiment:
    """Read comparisons as one: methods carry the name of their folder, the baseline is the first's.

    Raises:
        ValueError: see `read_experiment`; a folder given twice; other or unknown data; too many
            methods in all.
    """
    resolved = [Path(folder).resolve() for folder in folders]
    if not folders or len(set(resolved)) < len(resolved):
        raise ValueError(f"report: give one or more different folders, got {[*map(str, folders)]}")
    read = [read_experiment(folder) for folder in folders]
    for folder, other in zip(folders[1:], read[1:], strict=True):
        one, two = _data(folders[0], read[0]), _data(folder, other)
        pairs = {key: (one.get(key), two.get(key)) for key in sorted({*one, *two})}
        if told := "; ".join(f"{key}: {a} and {b}" for key, (a, b) in pairs.items() if a != b):
            both = f"{folders[0]} and {folder}"
            raise ValueError(f"report: {both} were made on other data ({told}); give others")
    if (n := sum(len(one.labels) for one in read)) > MAX_METHODS:
        raise ValueError(f"report: {n} methods, only {MAX_METHODS} can be told apart; give fewer")
    if len(read) == 1:
        return read[0]
    # The shortest ends of the paths that are all different.
    ends = (["/".join(p.parts[-n:]) for p in resolved] for n in range(1, 1 + len(str(resolved))))
    names = next(names for names in ends if len(set(names)) == len(names))
    each = list(zip(names, read, strict=True))
    return replace(
        read[0],
        title=" beside ".join(names),
        description=" ".join(dict.fromkeys(one.description for one in read)),
        labels={f"{f}/{m}": f"{label} ({f})" for f, one in each for m, label in one.labels.items()},
        seeds=sorted({seed for one in read for seed in one.seeds}),
        baseline=f"{names[0]}/{read[0].baseline}",
        config={name: one.config for name, one in each},
        environment={name: one.environment for name, one in each},
        runs=[replace(run, method=f"{f}/{run.method}") for f, one in each for run in one.runs],
        left_out=[(f"{f}/{m}", seed, why) for f, one in each for m, seed, why in one.left_out],
    )


def _data(folder: Path, experiment: Experiment) -> dict[str, object]:
    data = experiment.config.get("data")
    if not isinstance(data, Mapping):
        problem = "does not say what it was trained on (no config.data in experiment.json)"
        raise ValueError(f"report: {folder} {problem}; report on it alone")
    # Noise may differ by seed, so labels, flags and all that depends on them do not count.
    by_seed = ("train", "content", "groups", "flags", "path")
    same = {key: value for key, value in data.items() if key not in by_seed}
    train = data.get("train")
    n = train.get("n") if isinstance(train, Mapping) else None
    # Curves of other examples are other data too.
    return {**same, "n": n, "validation": experiment.config.get("validation", 0.0)}


def _read_run(
    records: Sequence[tuple[str, Record]], steps: int, folder: Path, watched: str
) -> Run | str:
    """Return the run in a folder, or why it is not finished."""
    if (file := folder / "plan.json").exists():
        # Steps that follow from the seconds of another run.
        steps = _file(file, "steps")["steps"]
    found: dict[str, Any] = {event: [] for event in _EVENTS}
    first = last = _order(*records[0])
    for place, values in records:
        event, now = values.get("event"), _order(place, values)
        if event not in _EVENTS:
            raise _error(place, f"event must be one of {', '.join(_EVENTS)}, got {event!r}")
        if now[:2] != first[:2] or now[2] < last[2] or found["end"]:
            after = "the end of" if found["end"] else "a record of"
            raise _error(place, f"{now} follows {after} {last} (method, seed, step)")
        record = _checked(place, values, event)
        if event == "sample" and len({len(v) for v in record.values() if v is not None}) > 1:
            raise _error(place, "loss, il, selected and noisy must have the same length")
        found[event].append({"step": now[2], **record})
        last = now
    if not found["end"]:
        return f"unfinished, last record at step {last[2]:,} of {steps:,}"
    if not found["eval"]:
        raise _error(records[-1][0], "the run has no eval record")
    if last[2] != steps:
        return f"ended at step {last[2]:,} of {steps:,}"
    found["end"] = found["end"][0]
    # Old runs have no test.json: their curve is of the test set.
    curve = found["eval"][-1] if watched == "test" else None
    found["test"] = _file(file, "test") if (file := folder / "test.json").exists() else curve
    found["selections"] = _selections(file) if (file := folder / "selected.json").exists() else None
    return Run(*first[:2], **found)


def _order(place: object, values: Record) -> tuple[str, int, int]:
    head = _checked(place, values, "head")
    return head["method"], head["seed"], head["step"]


def _selections(path: Path) -> Any:
    values = _file(path, "selections")
    count = len(values["examples"])
    classes = values["classes"] = values["classes"] or [str(c) for c in range(count)]
    if not count == len(values["selected"]) <= len(classes):
        raise _error(path, "examples, selected and classes must be of the same classes")
    for one in (*values["most_selected"], *values["never_selected"]):
        if [one["image"], one["text"], one["features"]].count(None) != 2:
            raise _error(path, f"example {one['id']} needs one of image, text and features")
        if one["image"] is not None and not _PNG.fullmatch(one["image"]):
            raise _error(path, f"image of example {one['id']} must be a PNG as data URI")
        known = 0 <= one["label"] < len(classes)
        one["label"] = classes[one["label"]] if known else str(one["label"])
    return values


def _error(place: object, problem: str) -> ValueError:
    fix = "restore the file, or move the folder of this run away and run it again"
    return ValueError(f"read_experiment: {place}: {problem}; {fix}")


def _file(path: Path, kind: str) -> Any:
    return _checked(path, _json(path, path.read_bytes()), kind)


def _json(place: object, text: bytes) -> Any:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict):
        return values
    raise _error(place, "not a JSON object")


def _checked(place: object, value: Any, kind: str, field: str = "") -> Any:
    """Return a value of a kind, of an object the known fields; `field` is its dotted name."""
    if value is None and kind.endswith("?"):
        return None
    kind = kind.removesuffix("?")
    if kind in _OBJECTS and isinstance(value, dict):
        prefix = f"{field}." if field else ""
        fields = _OBJECTS[kind].items()
        return {key: _checked(place, value.get(key), of, prefix + key) for key, of in fields}
    if kind.startswith("[") and isinstance(value, list):
        return [_checked(place, one, kind[1:-1], field) for one in value]
    low, high = _RANGES.get(kind, (1, 0))
    if type(value).__name__ != kind and not (type(value) in (int, float) and low <= value <= high):
        limits = f" in [{low:.3g}, {high:.3g}]" if kind in _RANGES else ""
        got = "nothing" if value is None else repr(value)[:60]
        raise _error(place, f"field {field!r} must be {kind}{limits}, got {got}")
    return value
