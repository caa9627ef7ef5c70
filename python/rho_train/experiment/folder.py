"""The output folder of an experiment: one experiment, one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rho_train.experiment.config import ExperimentConfig, Method
from rho_train.experiment.jobs import run_folder
from rho_train.files import atomic_write, locked, remove_unfinished


@contextmanager
def claimed(config: ExperimentConfig, out: Path, where: Mapping[str, str | int]) -> Iterator[None]:
    """Hold `out` for this experiment, with experiment.json written or checked.

    Raises:
        ValueError: the folder holds another experiment, or another process is running there.
        OSError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot make the folder {out}: {error.strerror}; choose another --out"
        ) from error
    with locked(out, "wait for it, or choose another --out"):
        remove_unfinished(out, below=True)
        _describe(config, out, where)
        yield


def _describe(config: ExperimentConfig, out: Path, where: Mapping[str, str | int]) -> None:
    path = out / "experiment.json"
    wanted = config.as_dict()
    description: dict[str, Any] = {
        "title": config.title,
        "description": config.description + _curves(config),
        "methods": [_method(config, method) for method in config.methods],
        "validation": config.validation,
        "seeds": list(config.seeds),
        "baseline": config.baseline,
        "steps": config.train.steps,
        "config": wanted,
        "environment": dict(where),
    }
    if path.exists():
        try:
            found = json.loads(path.read_text())
            differing = sorted(k for k in wanted if found["config"].get(k) != wanted[k])
            before = dict(found["environment"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete the folder {out} to start again"
            ) from error
        if differing:
            raise ValueError(
                f"{out} holds another experiment: {', '.join(differing)} differ; choose another "
                "--out, or delete that folder"
            )
        # Seconds come from every machine that had a part in the runs.
        changed = {k: v for k, v in where.items() if k != "date" and before.get(k) != v}
        if changed and not _finished(config, out):
            resumed = "; ".join(f"{key} {value}" for key, value in changed.items())
            before[f"resumed {where['date']} with"] = resumed
        # Titles and labels may be others now.
        description["environment"] = before
    atomic_write(path, json.dumps(description, indent=1))


def _finished(config: ExperimentConfig, out: Path) -> bool:
    runs = (run_folder(out, m.name, seed) for m in config.methods for seed in config.seeds)
    return all((run / "test.json").exists() for run in runs)


def _curves(config: ExperimentConfig) -> str:
    """What the accuracies of the report are of, where it is not the test set."""
    if config.validation == 0:
        return ""
    share = f"{config.validation:.0%}".replace("%", " %")
    return (
        f" Curves over time and targets are of a validation split: {share} of the training points, "
        "with labels as they were given. The test set was read once, after the last step."
    )


def _method(config: ExperimentConfig, method: Method) -> dict[str, Any]:
    """What the report needs of a method; `steps` is None where they follow from minutes.

    `il` names the irreducible losses, `targets` counts the models that train with the same ones.
    """
    own = config.of(method)
    shared = [
        other.model.as_dict()
        for one, other in ((m, config.of(m)) for m in config.methods)
        if one.il == method.il != "none" and other.il_name(one.il) == own.il_name(method.il)
    ]
    return {
        "name": method.name,
        "label": method.label,
        "steps": None if method.minutes else own.train.steps,
        "il": own.il_name(method.il),
        "targets": sum(model not in shared[:index] for index, model in enumerate(shared)),
    }
