"""The commands `rho-ext il`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.distributed as dist
from tqdm.auto import tqdm

from rho_train.dataset import IndexedDataset
from rho_train.experiment import DataConfig, ExperimentConfig, Method, ModelConfig
from rho_train.experiment.config import ILKind
from rho_train.experiment.jobs import il_steps
from rho_train.experiment.losses import check_config, compute_stored, identity, open_store
from rho_train.experiment.setting import Setting
from rho_train.files import locked, make_folder
from rho_train.il import ILRecipe, ILStore, save_shards
from rho_train.progress import OnStep, Stopped, stop_signals
from rho_train.report.il_page import format_losses, numbers, summarize_losses, write_losses_page


def compute(
    out: Path = Path("il.safetensors"),
    kind: Literal["holdout", "crossfit"] = "crossfit",
    seeds: int = 1,
    seed: int = 0,
    hidden: tuple[int, ...] = (256, 256),
    dropout: float = 0.0,
    holdout: float = 0.5,
    folds: int = 2,
    rows_a_file: int = 0,
    data: DataConfig = DataConfig(),  # noqa: B008 (frozen)
    recipe: ILRecipe = ILRecipe(),  # noqa: B008 (frozen)
) -> None:
    """Compute the irreducible losses that many runs can use.

    Args:
        out: the store; what is done so far is kept beside it until it is finished.
        kind: holdout: the losses of the points that are not held out; crossfit: of all.
        seeds: how many IL models, or sets of them, are averaged.
        seed: of noise, split and weights, as in `rho-ext train`.
        hidden: widths of the hidden layers of the MLP.
        dropout: rate after each hidden layer, in [0, 1).
        holdout: share of the training points that a holdout IL model trains on.
        folds: of the cross-fit.
        rows_a_file: write a folder of shards with so many rows each; 0: one file.
        data: what to train on.
        recipe: how the IL models are trained.
    """
    if seeds < 1 or rows_a_file < 0:
        raise ValueError(
            f"seeds must be at least 1 and rows_a_file at least 0, got {seeds} and {rows_a_file}"
        )
    model = ModelConfig(widths=hidden, dropout=dropout)
    config = _config(kind, seed, data, model=model, il=recipe, holdout=holdout, folds=folds)
    if out.exists():
        store = open_store(out)
        try:
            store.verify(Setting.make(config, seed).dataset)
            check_config(store, identity(config, kind, seeds))
        except ValueError as error:
            raise ValueError(f"{out} is there already: {error}") from error
        print(f"{out} is there already")
        return
    work = out.with_name(f"{out.name}.unfinished")
    points = len(config.data.corrupt(config.data.load(), seed).label)
    steps = seeds * il_steps(config, kind, points)
    with (
        _ranks() as rank,
        _held(work, rank),
        _progress(steps, visible=rank == 0) as on_step,
    ):
        store = compute_stored(config, kind, seeds, work, on_step)
        if rank == 0:
            # Written where the rest of the work is: a kill leaves nothing beside the store.
            _save(store, work / "store", rows_a_file)
            os.replace(work / "store", out)
    if rank == 0:
        shutil.rmtree(work)
        print(numbers(summarize_losses(store)))
        print(f"store: {out}")


def _held(work: Path, rank: int) -> AbstractContextManager[None]:
    """Hold the folder of unfinished work, by the first rank for all."""
    if rank > 0:
        return nullcontext()
    make_folder(work, "il compute")
    return locked(work, "wait for it, or choose another --out")


def inspect(path: Path, extremes: int = 10, out: Path | None = None) -> None:
    """Show the distribution of a store and its extreme points.

    Args:
        path: the store, a file or a folder of shards.
        extremes: how many of the highest and of the lowest irreducible losses are listed.
        out: write the same as a page there, for example il.html.
    """
    summary = summarize_losses(open_store(path), extremes)
    print(format_losses(summary))
    if out is not None:
        write_losses_page(summary, path.name, out)
        print(f"page: {out}")


def verify(path: Path, data: Path | None = None, labels: Path | None = None) -> None:
    """Check every value of a store, and that it belongs to its data.

    Args:
        path: the store, a file or a folder of shards.
        data: the file or folder that `il compute` was given; not needed for Letter Recognition.
        labels: an .npy file with the labels of all points, for any store.
    """
    store = open_store(path)
    store.check()
    print(f"content: {len(store.il):,} rows as they were written")
    known = int(store.known.sum())
    print(f"known: {known:,} of {len(store.il):,} ({known / len(store.il):.1%})")
    made_from = json.loads(store.info.get("config", "null"))
    if labels is not None:
        replace(store, input_checksums=()).verify(_labelled(labels))
        print("data: count, labels and ids are those that it was made for; inputs not compared")
    elif made_from is None or (data is None and made_from["data"]["path"] is not None):
        wanted = "--labels" if made_from is None else f"--data {made_from['data']['path']}"
        print(f"data: not compared; give {wanted}")
    else:
        here = DataConfig.like(made_from["data"], data)
        config = _config("crossfit", made_from["seed"], here)
        compared = store.verify(Setting.make(config, made_from["seed"]).dataset)
        check_config(store, {"data": here.identity()})
        print("data: count, labels, ids and features are those that it was computed from")
        print(f"inputs: {compared} of {len(store.input_checksums)} examples compared")


def _save(store: ILStore, path: Path, rows_a_file: int) -> None:
    if path.is_dir():  # of a process that was killed here
        shutil.rmtree(path)
    if rows_a_file:
        save_shards(store, path, rows_a_file)
    else:
        store.save(path)


def _config(kind: ILKind, seed: int, data: DataConfig, **options: Any) -> ExperimentConfig:
    """Return an experiment that has irreducible losses of one kind."""
    method = Method(kind, kind, "rho", kind, "rest" if kind == "holdout" else "all")
    return ExperimentConfig("", "", (method,), kind, (seed,), data, **options)


def _labelled(path: Path) -> IndexedDataset:
    try:
        labels = np.load(path, allow_pickle=False)
        if not isinstance(labels, np.ndarray):
            raise ValueError("it holds several arrays")
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is no .npy file of labels ({error}); write it with np.save(path, labels)"
        ) from error
    return IndexedDataset(range(len(labels)), labels=labels)


@contextmanager
def _ranks() -> Iterator[int]:
    """Give this process's rank under torchrun, else 0; leave together with the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank()
        dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def _progress(steps: int, *, visible: bool) -> Iterator[OnStep]:
    """Show a bar, and turn Ctrl-C into a stop at a whole step."""
    hide = None if visible else True
    with (
        stop_signals() as stop,
        tqdm(total=steps, unit="step", dynamic_ncols=True, disable=hide) as bar,
    ):

        def on_step(made: int) -> bool:
            bar.update(made)
            return stop.is_set()

        try:
            yield on_step
        except Stopped as error:
            raise Stopped("stopped; run the same command again to go on") from error


COMMANDS: dict[str, Callable[..., None]] = {
    "compute": compute,
    "inspect": inspect,
    "verify": verify,
}
