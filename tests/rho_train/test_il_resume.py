"""Irreducible losses resume after a kill at any moment with the same bits."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    Batch,
    ILRecipe,
    ILStore,
    IndexedDataset,
    crossfit_il,
    holdout_il,
    pretrained_il,
)
from rho_train.il import score, train
from rho_train.progress import OnStep, Stopped

from . import il_program


def start(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, il_program.__file__, str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def bits(store: ILStore) -> tuple[list[int], dict[str, str]]:
    info = {key: text for key, text in store.info.items() if key != "seconds"}
    return store.il.view(torch.int32).tolist(), info


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The threads of the program: sums depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def kill(out: Path, file: str, seconds: float = 0.0) -> bool:
    """Kill the program some seconds after it has written a file; return whether it still ran."""
    process = start(out)
    while process.poll() is None and not list(out.glob(f"work/model-{file}*.pt")):
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    _, errors = process.communicate()
    assert not errors, errors
    return process.returncode != 0


def test_a_killed_process_resumes(tmp_path: Path, one_thread: None) -> None:
    assert kill(tmp_path, "0/training")
    assert bits(il_program.compute(tmp_path / "work")) == bits(il_program.compute(None))


@pytest.mark.slow
def test_a_real_kill_at_random_moments(tmp_path: Path, one_thread: None) -> None:
    moments, kills = random.Random(0), 0
    for file in ("0/training", "0/losses", "1/training"):
        kills += kill(tmp_path, file, moments.uniform(0, 0.05))
    assert kills >= 2
    assert bits(il_program.compute(tmp_path / "work")) == bits(il_program.compute(None))


N = 200
RECIPE = ILRecipe(epochs=3, batch_size=40, lr=0.01, scoring_batch=5)


def make_data(seed: int = 0) -> IndexedDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=generator)
    return IndexedDataset(TensorDataset(x, torch.randint(0, 3, (N,), generator=generator)))


def with_other_labels() -> IndexedDataset:
    x, y = make_data().dataset.tensors
    return IndexedDataset(TensorDataset(x, y.flip(0)))


def with_other_inputs() -> IndexedDataset:
    x, y = make_data().dataset.tensors
    return IndexedDataset(TensorDataset(x.flip(0), y))


def make_model(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3)
        )


def with_more_dropout(seed: int) -> nn.Module:
    model = make_model(seed)
    model[2] = nn.Dropout(0.9)  # type: ignore[index]
    return model


def other_loss(model: nn.Module, batch: Batch, power: float = 1.0) -> Tensor:
    return F.cross_entropy(model(batch.x), batch.y, reduction="none") ** power


def by_holdout(folder: Path | None, on_step: OnStep) -> ILStore:
    return holdout_il(
        make_model, make_data(), torch.arange(100), RECIPE, folder=folder, on_step=on_step
    )


def by_crossfit(folder: Path | None, on_step: OnStep) -> ILStore:
    return crossfit_il(make_model, make_data(), 3, RECIPE, folder=folder, on_step=on_step)


class Augmented(TensorDataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + torch.randn(4), y


def by_augmented(folder: Path | None, on_step: OnStep) -> ILStore:
    plain = make_data()
    assert isinstance(plain.dataset, TensorDataset)
    augmented = IndexedDataset(Augmented(*plain.dataset.tensors))
    return crossfit_il(
        make_model, plain, 2, RECIPE, augmented=augmented, folder=folder, on_step=on_step
    )


def by_pretrained(folder: Path | None, on_step: OnStep) -> ILStore:
    return pretrained_il(make_model(0), make_data(), batch_size=5, folder=folder, on_step=on_step)


class Steps:
    """Counts steps, and asks to stop at the given call."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps, self.calls, self.stop_at = 0, 0, stop_at

    def __call__(self, steps: int) -> bool:
        self.steps += steps
        self.calls += steps <= 1  # not the report of what was there already
        return self.calls == self.stop_at


@pytest.mark.parametrize("compute", [by_holdout, by_crossfit, by_augmented, by_pretrained])
def test_stopped_again_and_again(
    tmp_path: Path,
    compute: Callable[[Path | None, OnStep], ILStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = bits(compute(None, Steps()))
    monkeypatch.setattr(score, "_BATCHES", 1)
    stops = 0
    while True:
        try:
            # An evaluation of 20 batches starts again when it is stopped, all else resumes.
            assert bits(compute(tmp_path, Steps(stop_at=21))) == expected
            break
        except Stopped:
            stops += 1
            assert stops < 20, "stopping and going on does not come to an end"
    assert stops >= 1


def test_finished_work_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = Steps(), Steps()
    one = by_crossfit(tmp_path, first)
    assert first.steps == 3 * RECIPE.steps(133)

    def fail(*_: object) -> None:
        raise AssertionError("a model was trained or asked again")

    monkeypatch.setattr(train, "training_step", fail)
    monkeypatch.setattr(score, "scoring_mode", fail)
    assert bits(by_crossfit(tmp_path, again)) == bits(one)
    assert again.steps == first.steps


def test_a_folder_of_other_work_is_refused(tmp_path: Path) -> None:
    held_out = torch.arange(100)

    def held(
        make: Callable[[int], nn.Module] = make_model,
        data: IndexedDataset | None = None,
        ids: torch.Tensor = held_out,
        recipe: ILRecipe = RECIPE,
        folder: Path = tmp_path,
        **more: Any,
    ) -> ILStore:
        return holdout_il(make, data or make_data(), ids, recipe, folder=folder, **more)

    held()
    (training,) = tmp_path.rglob("training.pt")
    losses = partial(other_loss, power=2.0)
    changed: list[tuple[str, Callable[[], ILStore]]] = [
        ("recipe", lambda: held(recipe=ILRecipe())),
        ("data", lambda: held(data=with_other_labels())),
        ("train_ids", lambda: held(ids=held_out[1:])),
        ("initial_weights", lambda: held(lambda seed: make_model(9))),
        ("augmentation", lambda: held(augmented=make_data())),
        ("architecture", lambda: held(with_more_dropout)),
        (
            "weights",
            lambda: pretrained_il(make_model(0), make_data(), batch_size=5, folder=training.parent),
        ),
        ("loss_function", lambda: held(loss_fn=losses)),
        ("loss_function", lambda: held(loss_fn=other_loss)),
    ]
    pieces = {piece: piece.read_bytes() for piece in tmp_path.rglob("losses-*.pt")}
    for what, compute in changed:
        for piece, content in pieces.items():
            # Training and losses guard themselves, so each is left alone once.
            piece.write_bytes(content) if what == "weights" else piece.unlink(missing_ok=True)
        with pytest.raises(ValueError, match=f"belongs to a run with another {what}"):
            compute()
    # Fewer examples may be scored at once, as after a kill for lack of memory.
    held(recipe=replace(RECIPE, scoring_batch=4))
    first = held(loss_fn=losses, folder=tmp_path / "own")
    assert first.info["loss_function"] == f"{__name__}.other_loss(power=2.0)"
    for own in (None, other_loss, partial(other_loss, power=3.0)):
        with pytest.raises(ValueError, match="belongs to a run with another loss_function"):
            held(loss_fn=own, folder=tmp_path / "own")
    # The same labels with other inputs, as after another normalisation.
    with pytest.raises(ValueError, match="belongs to a run with another inputs"):
        held(data=with_other_inputs())
    training.write_bytes(training.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"training\.pt is damaged"):
        held()
    pretrained_il(make_model(0), make_data(), folder=str(tmp_path / "pretrained"))
    for name, other in (("data", with_other_labels()), ("inputs", with_other_inputs())):
        with pytest.raises(ValueError, match=f"belongs to a run with another {name}"):
            pretrained_il(make_model(0), other, folder=tmp_path / "pretrained")
    pretrained_il(make_model(0), make_data(), batch_size=5, folder=tmp_path / "swapped")
    one, second, *_ = sorted((tmp_path / "swapped").glob("losses-*"))
    second.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match="belongs to a run with another begin"):
        pretrained_il(make_model(0), make_data(), batch_size=5, folder=tmp_path / "swapped")
