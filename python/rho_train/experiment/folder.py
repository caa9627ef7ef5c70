"""The output folder of an experiment: one experiment, one process at a time."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rho_train.experiment.config import ExperimentConfig
from rho_train.files import atomic_write, remove_unfinished


@contextmanager
def claimed(config: ExperimentConfig, out: Path, where: Mapping[str, str | int]) -> Iterator[None]:
    """Hold `out` for this experiment, with experiment.json written or checked.

    Raises:
        ValueError: the folder holds another experiment, or another process is running there.
        OSError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115 (closed below, by the with)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot make the folder {out}: {error.strerror}; choose another --out"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another process is running in {out}; wait for it, or choose another --out"
            ) from error
        remove_unfinished(out, below=True)
        _describe(config, out, where)
        yield


def _describe(config: ExperimentConfig, out: Path, where: Mapping[str, str | int]) -> None:
    path = out / "experiment.json"
    wanted = config.as_dict()
    description: dict[str, Any] = {
        "title": config.title,
        "description": config.description,
        "methods": [{"name": m.name, "label": m.label} for m in config.methods],
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
        if not changed:
            return
        resumed = "; ".join(f"{key} {value}" for key, value in changed.items())
        description["environment"] = {**before, f"resumed {where['date']} with": resumed}
    atomic_write(path, json.dumps(description, indent=1))
