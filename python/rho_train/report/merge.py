"""Several experiments on the same data as one, their methods side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rho_train.report.read import MAX_METHODS, Experiment, Method, read_experiment


def read_experiments(folders: Sequence[Path]) -> Experiment:
    """Read experiments as one: methods carry the name of their folder, the first folder's baseline
    is that of all.

    Raises:
        ValueError: see `read_experiment`; the experiments were made on other data, do not say on
            which, or have too many methods in all; a folder is given twice.

    Example:
        >>> read_experiments([Path("runs/a"), Path("runs/b")])  # doctest: +SKIP
    """
    if not folders:
        raise ValueError("report: give at least one folder that an experiment wrote")
    resolved = [Path(folder).resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"report: a folder is given twice: {', '.join(map(str, folders))}")
    experiments = [read_experiment(folder) for folder in folders]
    if len(experiments) == 1:
        return experiments[0]
    for folder, experiment in zip(folders[1:], experiments[1:], strict=True):
        _same_data(folders[0], experiments[0], folder, experiment)
    count = sum(len(experiment.methods) for experiment in experiments)
    if count > MAX_METHODS:
        raise ValueError(
            f"report: the folders have {count} methods in all, at most {MAX_METHODS} can be "
            "told apart; give fewer folders"
        )
    names = _names(resolved)
    renamed = [_renamed(e, name) for e, name in zip(experiments, names, strict=True)]
    first = renamed[0]
    return Experiment(
        title=" beside ".join(names),
        description=_descriptions(names, experiments),
        methods=tuple(method for e in renamed for method in e.methods),
        seeds=tuple(sorted({seed for e in renamed for seed in e.seeds})),
        baseline=first.baseline,
        # Those of the baseline: it decides how far the figures go.
        steps=first.steps,
        config=_beside({name: e.config for name, e in zip(names, renamed, strict=True)}),
        environment=_beside({name: e.environment for name, e in zip(names, renamed, strict=True)}),
        runs=tuple(run for e in renamed for run in e.runs),
        left_out=tuple(run for e in renamed for run in e.left_out),
    )


def _same_data(first_folder: Path, first: Experiment, folder: Path, other: Experiment) -> None:
    one, two = (_data(*pair) for pair in ((first_folder, first), (folder, other)))
    differing = sorted(key for key in {*one, *two} if one.get(key) != two.get(key))
    if differing:
        told = "; ".join(f"{key}: {one.get(key)} and {two.get(key)}" for key in differing)
        raise ValueError(
            f"report: {first_folder} and {folder} were made on other data ({told}); compare "
            "experiments on the same data"
        )


def _data(folder: Path, experiment: Experiment) -> dict[str, object]:
    data = experiment.config.get("data")
    if not isinstance(data, Mapping):
        raise ValueError(
            f"report: {folder} does not say what it was trained on (no config.data in its "
            "experiment.json), so it cannot be compared with another; report on it alone"
        )
    # The content of a file counts, not its name; curves of other points are other data too.
    counted = {key: value for key, value in data.items() if key != "path"}
    return {**counted, "validation": experiment.config.get("validation", 0.0)}


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    for parts in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _renamed(experiment: Experiment, folder: str) -> Experiment:
    def name(method: str) -> str:
        return f"{folder}/{method}"

    return dataclasses.replace(
        experiment,
        methods=tuple(Method(name(m.name), f"{m.label} ({folder})") for m in experiment.methods),
        baseline=name(experiment.baseline),
        runs=tuple(dataclasses.replace(r, method=name(r.method)) for r in experiment.runs),
        left_out=tuple(dataclasses.replace(r, method=name(r.method)) for r in experiment.left_out),
    )


def _descriptions(names: Sequence[str], experiments: Sequence[Experiment]) -> str:
    if len({experiment.description for experiment in experiments}) == 1:
        return experiments[0].description
    pairs = zip(names, experiments, strict=True)
    return " ".join(f"{name}: {experiment.description}" for name, experiment in pairs)


def _beside(values: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """What all have in common once, the rest under the name of each."""
    first = next(iter(values.values()))
    common = {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in values.values())
    }
    own = {
        name: {key: value for key, value in of.items() if key not in common}
        for name, of in values.items()
    }
    return {**common, **{name: of for name, of in own.items() if of}}
