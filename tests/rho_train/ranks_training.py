"""Runs of Trainer on several ranks, for ranks_program, which finds this module beside itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from rho_train import (
    History,
    ILRecipe,
    IndexedDataset,
    OnlineModel,
    Selector,
    Trainer,
    crossfit_il,
    pretrained_il,
)
from rho_train.distributed import on_all, on_first, rank_and_world
from rho_train.il import train
from rho_train.progress import Stopped

if __package__:  # not in a program
    from .ways import CONFIG, N, by_chance, make_trainer, small_model
else:
    from ways import CONFIG, N, by_chance, make_trainer, small_model

IL = torch.rand(N, generator=torch.Generator().manual_seed(9))
SHORT = replace(CONFIG, steps=12, eval_every=6, checkpoint_every=5)


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Linear(5, 3)


def together(folder: Path) -> Trainer:
    """Return a run whose ranks select from the examples of all."""
    selector = Selector(il=IL, k=CONFIG.batch, scope="global", history=History(N))
    return make_trainer(folder, model=linear(), config=SHORT, selector=selector)


def apart(folder: Path) -> Trainer:
    """Return a run of BatchNorm, dropout and draws, whose ranks select for themselves."""
    selector = Selector(il=IL, k=CONFIG.batch // 2, method=by_chance, history=History(N), seed=5)
    return make_trainer(folder, config=SHORT, selector=selector)


def plain(folder: Path) -> Trainer:
    return make_trainer(folder, "plain", SHORT, model=linear())


def agreeing(folder: Path) -> Trainer:
    return make_trainer(folder, "agreement", SHORT, model=linear(), train_ids=torch.arange(5, 29))


RUNS = {"together": together, "plain": plain, "agreeing": agreeing, "apart": apart}


def irreducible(folder: Path | None = None) -> dict[str, Any]:
    """Return cross-fit and pretrained IL, and the training steps of this rank."""
    x = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
    data = IndexedDataset(TensorDataset(x, (x[:, 0] > 0).long()))
    recipe = ILRecipe(epochs=2, batch_size=32, lr=0.01)
    steps, step = 0, train.training_step

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(*arguments, **options)

    with mock.patch.object(train, "training_step", counted):
        store = crossfit_il(small_model, data, 3, recipe, folder=folder and folder / "fit")
    found = {key: text for key, text in store.info.items() if key != "seconds"}
    shared = pretrained_il(linear(), data, batch_size=3, folder=folder and folder / "given")
    return {"il": store.il, "info": found, "pretrained": shared.il, "steps": steps}


def runs(folder: Path) -> dict[str, str]:
    """Train, and return the errors; the folder has the rest."""
    rank, _ = rank_and_world()
    for name, make in RUNS.items():
        make(folder / name).fit()
    stopped = apart(folder / "stopped")
    errors: dict[str, str] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"

    # One rank alone is asked to.
    note("stop", lambda: stopped.fit(lambda _: rank == 1 and stopped.step == 7))
    torch.rand(17)
    apart(folder / "stopped").fit()
    note("share", lambda: make_trainer(folder / "share", "plain", replace(SHORT, batch=7)))
    note("k", lambda: make_trainer(folder / "k", "rho", SHORT))

    def fail() -> None:
        if rank == 1:
            raise OSError("no such disk")
        raise Stopped("stopped")

    note("one", lambda: on_all(lambda: None if rank == 0 else fail()))
    note("both", lambda: on_all(fail))
    note("first", lambda: on_first(lambda: 1 / 0))

    class Two(Exception):
        def __init__(self, one: str, other: str) -> None:
            super().__init__(f"{one} {other}")

    def unheard() -> None:
        if rank == 1:
            raise Two("disk", "full")

    note("not pickled", lambda: on_all(unheard))
    other: dict[str, Any] = {"lr": {"config": replace(SHORT, lr=0.1 * (rank + 1))}}
    other |= {"seed": {"seed": rank}, "ids": {"train_ids": torch.arange(100) + rank}}
    online = Selector(il=OnlineModel(linear()), k=CONFIG.batch // 2)
    other["online"] = {"selector": online}
    unused = nn.Sequential(linear())
    unused.extra = nn.Linear(1, 1)
    unused.forward = unused[0].forward  # type: ignore[method-assign]
    y = torch.arange(N) % 3
    y[50:60] = -100
    ignored = IndexedDataset(TensorDataset(torch.zeros(N, 5), y))
    other |= {"unused": {"model": unused}, "ignored": {"dataset": ignored}}
    for name, options in other.items():
        chosen = {"config": SHORT, "model": linear(), **options}
        note(name, lambda n=name, o=chosen: make_trainer(folder / n, "plain", **o).fit())
    wrapped = OnlineModel(DistributedDataParallel(linear()), lr=0.1)
    chosen = {"model": linear(), "selector": Selector(il=wrapped, k=CONFIG.batch // 2)}
    make_trainer(folder / "wrapped", config=SHORT, **chosen).fit()
    weights = on_all(lambda: wrapped.model.module.weight.detach())
    assert torch.equal(*weights)
    return errors
