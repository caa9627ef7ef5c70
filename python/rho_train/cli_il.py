"""Compute, inspect and verify irreducible losses."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rho_train.comparison.jobs import ILWork
from rho_train.comparison.spec import SeedData, Spec, Variant
from rho_train.dataset import IndexedDataset
from rho_train.distributed import (
    device_named,
    on_first,
    process_group,
    rank_and_world,
    started_first,
)
from rho_train.il import ILRecipe, ILStore
from rho_train.progress import progress_bar
from rho_train.run_folder import RunFolder
from rho_train.tasks.task import Task, load_task
from rho_train.wrong_labels import (
    class_name,
    find_wrong_labels,
    summary_of,
    write_wrong_labels,
)

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_SHOWN = 10


def compute(
    out: Path = Path("il"),
    kind: Literal["holdout", "crossfit"] = "crossfit",
    seed: int = 0,
    task: str = "letters",
    task_options: dict[str, Any] | None = None,
    holdout: float = 0.5,
    folds: int = 2,
    rows_a_file: int = 0,
    device: str = "auto",
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Compute irreducible losses that many runs can use.

    Args:
        out: folder of the store; unfinished work is kept beside it, and the same command goes on.
        kind: holdout: losses of the examples that are not held out; crossfit: of all.
        seed: of noise, split and weights, as in `rho-ext train`.
        rows_a_file: examples in each file of the store; 0: all in one.
    """
    if rows_a_file < 0:
        raise ValueError(f"--rows_a_file must be at least 0, got {rows_a_file}")
    if out.is_file():
        raise ValueError(f"--out must be a folder, got the file {out}; choose another")
    variant = Variant("il", "", "rho", kind, "rest" if kind == "holdout" else "all")
    options = task_options or {}
    parts: dict[str, Any] = {"il": recipe, "holdout": holdout, "folds": folds}
    where = device_named(device)
    spec = Spec(task, (variant,), (seed,), "il", options, **parts, device=where)
    data = SeedData.make(spec, seed)
    il = ILWork(spec, data, kind)
    made_from = {"seed": seed, **il.identity()}
    target = out.resolve()  # through a link, also one to a file that is not there yet
    work = target.with_name(f"{target.name}.unfinished")
    if out.is_dir() and any(out.iterdir()):
        _check_same(out, data.dataset, made_from)
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed at its end
        if started_first():
            print(f"{out} is there already\n{_next(out)}")
        return
    with process_group(where):
        rank, _ = rank_and_world()
        with progress_bar(il.steps(), hidden=rank > 0) as progress:

            def save() -> None:
                known = {"task": task, "options": options, "classes": list(data.task.classes)}
                config = {**known, **made_from}
                info = {**store.info, "config": json.dumps(config, default=str)}
                # Written where the rest of the work is: a kill leaves nothing beside the store.
                unnamed = work / "store"
                shutil.rmtree(unnamed, ignore_errors=True)
                store.replace(info=info).save(unnamed, rows_a_file or max(len(store), 1))
                os.replace(unnamed, target)

            with RunFolder(work, where="il compute").lock("wait for it, or choose another --out"):
                store = il.compute(seed, work / "models", progress)
                on_first(save)
    if rank == 0:  # no other rank reads there any more
        shutil.rmtree(work, ignore_errors=True)
        print(f"{_numbers(store)}\n{_next(out)}")


def _next(path: Path) -> str:
    python = f"rho_train.Selector(il=rho_train.ILStore.load({str(path)!r}), ratio=0.1)"
    return f"next: rho-ext train --il {path}, with the same task; in Python {python}"


def _check_same(path: Path, dataset: IndexedDataset, wanted: dict[str, Any]) -> None:
    """Refuse a damaged store, one of other data, or one that was made from something else."""
    try:
        store = ILStore.load(path, dataset)
        store.check()
        found = {**wanted, **_config(store)}
        if other := [
            f"{k}: store has {found[k]}, wanted {v}" for k, v in wanted.items() if found[k] != v
        ]:
            raise ValueError(
                f"the store was made from something else ({'; '.join(other)}); recompute it, or "
                "give another folder"
            )
    except ValueError as error:
        raise ValueError(f"{path} is there already: {error}") from error


def _config(store: ILStore) -> dict[str, Any]:
    """Return the settings of `il compute`; a store that it did not make has none."""
    text = store.info.get("config", "{}")
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        forms = {"options": dict, "classes": list}
        if isinstance(found, dict) and all(
            isinstance(found.get(name, form()), form) for name, form in forms.items()
        ):
            return found
    raise ValueError(
        f"the config in the info of a store must be the JSON of its settings, got {text[:40]!r}; "
        "leave it out of a store of your own"
    )


def inspect(
    path: Path,
    out: Path | None = None,
    top: int = 100,
    task: str = "",
    task_options: dict[str, Any] | None = None,
) -> None:
    """Show the quantiles of a store, and the examples whose labels look wrong.

    Args:
        path: the store, a file or a folder of files.
        out: folder that gets wrong_labels.html, which shows the examples, and wrong_labels.csv.
        top: how many examples the page lists, the most suspicious ones.
        task: of the store, for the page; empty: the one that it was computed for.
    """
    if top < 1:
        raise ValueError(f"il inspect: top must be at least 1, got {top}")
    store = ILStore.load(path)
    print(_numbers(store))
    for key, text in sorted(store.info.items()):
        print(f"{key}: {text}")
    try:
        found = find_wrong_labels(store)
    except ValueError as error:
        if out is not None:
            raise
        print(f"labels: not judged; {error}")
        return
    print(f"\n{summary_of(store, found)}")
    assert store.labels is not None
    names = [f"{name}" for name in _config(store).get("classes", ())]
    wide = max(map(len, names), default=5)
    for id in found[: min(_SHOWN, top)].tolist():
        said = f"label {class_name(names, int(store.labels[id])):<{wide}}"
        if store.predicted is not None:
            said += f" predicted {class_name(names, int(store.predicted[id])):<{wide}}"
        print(f"  id {id:<12} {said} IL {float(store.il[id]):8.4f}")
    if out is None:
        print(f"next: rho-ext il inspect {path} --out FOLDER, to see them")
        return
    made = _task(store, task, task_options)
    if made is None:
        raise ValueError("il inspect: the store does not name its task; give --task")
    print(f"next: open {write_wrong_labels(store, made, out, top)}")


def _numbers(store: ILStore) -> str:
    """Return how many examples have an IL, their mean and quantiles, in two lines."""
    il, n = store.il[store.known].numpy(), len(store)
    known = f"{len(il):,} of {n:,} examples have an irreducible loss ({len(il) / max(n, 1):.1%})"
    if not len(il):
        return known
    values = np.quantile(il, _QUANTILES, method="nearest")
    quantiles = (f"{q:.0%} {value:.4f}" for q, value in zip(_QUANTILES, values, strict=True))
    mean = il.mean(dtype=np.float64)
    return f"{known}\nmean {mean:.4f} nats; quantiles: {', '.join(quantiles)}"


def verify(
    path: Path,
    task: str = "",
    task_options: dict[str, Any] | None = None,
) -> None:
    """Check every value of a store, and that it belongs to its data.

    Args:
        path: the store, a file or a folder of files.
        task: the task that it belongs to; empty: the one that it was computed for.
        task_options: options of the task that differ from those that it was computed with, such as
            --task.path where the file lies now.
    """
    store = ILStore.load(path)
    store.check()
    print(f"content: {len(store):,} rows as they were written\n{_numbers(store)}")
    made = _task(store, task, task_options)
    if made is None:
        print("data: not compared; give --task, or call ILStore.verify(dataset)")
    else:
        compared = store.verify(made.dataset())
        print("data: count, labels and ids are those that it was computed from")
        print(f"inputs: {compared} of {len(store.input_checksums)} examples compared")
    print(_next(path))


def _task(store: ILStore, task: str, task_options: dict[str, Any] | None) -> Task | None:
    """Make the task that a store was computed for, or the one that is named; None: unknown."""
    config = _config(store)
    source = task or config.get("task", "")
    made_with = config.get("options", {}) if source == config.get("task") else {}
    options = {**made_with, **(task_options or {})}
    return load_task(source, options, config.get("seed", 0)) if source else None


COMMANDS = {"compute": compute, "inspect": inspect, "verify": verify}
