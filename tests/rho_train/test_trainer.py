"""The training loop: stopping changes nothing, looking changes nothing, failures lose nothing."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    AgreementSampler,
    ILStore,
    IndexedDataset,
    Selector,
    Trainer,
    fingerprint,
    input_checksums,
    loader,
    run_folder,
)
from rho_train.cost import Costs
from rho_train.methods.context import ScoringContext, Selected
from rho_train.progress import Stopped
from rho_train.sampler import LargeBatchSampler
from rho_train.trainer import loop
from rho_train.trainer.metrics_logger import MetricsLogger
from rho_train.training_step import adamw

from .ways import CONFIG, METHODS, PARTS, WAYS, N, ending, make_trainer, records, small_model


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def stop_after(steps: int) -> Callable[[int], bool]:
    made = 0

    def on_step(new: int) -> bool:
        nonlocal made
        made += new
        return made >= steps

    return on_step


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that nothing stopped; tests leave its folder as it is."""
    trainer = make_trainer(tmp_path_factory.mktemp("whole"))
    trainer.fit()
    return trainer


# Processes that load cost most of the time: test_interruption.py has them for half of the ways.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_run_stopped_twice_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    for number, way in enumerate(WAYS):
        schedule = ("constant", "linear", "cosine")[number % 3]
        config = dataclasses.replace(CONFIG, schedule=schedule)
        make_trainer(tmp_path / way / "whole", way, config).fit()
        config = dataclasses.replace(config, workers=2 * (way == "rho"))
        parts = tmp_path / way / "parts"
        for steps in (5, 14):
            part = make_trainer(parts, way, config)
            with pytest.raises(Stopped, match="run the same command again"):
                part.fit(stop_after(steps))
            torch.rand(17)  # another process would not have this random state either
        last = make_trainer(parts, way, config)
        assert last.step == 19
        last.fit()
        end = ending(tmp_path / way / "whole") | {"config": asdict(last.config)}
        assert ending(parts) == end, way


class Augmented(TensorDataset):
    """Draws from every global generator that transforms draw from."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return x + noise, y


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_random_transforms_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def trainer(name: str, workers: int) -> Trainer:
        x = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
        dataset = IndexedDataset(Augmented(x, torch.arange(N) % 3))
        config = dataclasses.replace(CONFIG, workers=workers)
        return make_trainer(tmp_path / name, config=config, dataset=dataset)

    trainer("whole", 0).fit()
    end = ending(tmp_path / "whole")
    for workers in (0, 2):
        for steps in (5, 14):
            with pytest.raises(Stopped):
                trainer(str(workers), workers).fit(stop_after(steps))
            random.random()
        last = trainer(str(workers), workers)
        last.fit()
        assert ending(tmp_path / str(workers)) == end | {"config": asdict(last.config)}


def test_a_kill_goes_back_to_the_last_checkpoint(tmp_path: Path, whole: Trainer) -> None:
    class Killed(BaseException):
        pass

    def kill(steps: int) -> bool:
        if trainer.step == 17:
            raise Killed
        return False

    trainer = make_trainer(tmp_path)
    with pytest.raises(Killed):
        trainer.fit(kill)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "tr')
    again = make_trainer(tmp_path)
    assert again.step == 11
    again.fit()
    assert torch.equal(weights(again), weights(whole))
    assert records(tmp_path) == records(whole.work / ".")


def test_metrics_do_not_change_the_run(tmp_path: Path, whole: Trainer) -> None:
    often = dataclasses.replace(CONFIG, eval_every=1, log_every=1, checkpoint_every=1)
    trainer = make_trainer(tmp_path, config=often, flags={})
    trainer.fit()
    assert torch.equal(weights(trainer), weights(whole))


def test_selecting_everything_is_plain_training_to_the_bit(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, large_batch=8)
    plain = make_trainer(tmp_path / "plain", "plain", config)
    plain.fit()
    # A smaller ratio does not select everything, and scoring in training mode draws for dropout.
    others = {"fewer", "train mode"}
    for way in sorted({*METHODS, *PARTS} - others):
        selected = make_trainer(tmp_path / way, way, config)
        selected.fit()
        assert torch.equal(weights(selected), weights(plain)), way


def test_flags_of_the_trained_examples_are_counted(tmp_path: Path) -> None:
    ids = torch.arange(N)
    flags = {"noisy": ids % 3 == 0, "redundant": ids % 5 < 2}
    make_trainer(tmp_path, "plain", flags=flags).fit()
    drawn = torch.tensor(list(islice(LargeBatchSampler(N, CONFIG.batch, seed=3), CONFIG.steps)))
    train = [record for record in records(tmp_path) if record["event"] == "train"]
    ends = [0, *(record["step"] for record in train)]
    for name, flag in flags.items():
        wanted = [int(flag[drawn[a:b]].sum()) for a, b in pairwise(ends)]
        assert [record[name] for record in train] == wanted


def test_records_say_what_happened(whole: Trainer) -> None:
    model, events = copy.deepcopy(whole.model).eval(), records(whole.work / ".")
    train = [e for e in events if e["event"] == "train"]
    assert [e["step"] for e in train] == [7, 14, 21, 28, 30]
    assert [e["selected"] for e in train] == [56, 56, 56, 56, 16]
    assert all(0 <= e["noisy"] <= e["selected"] for e in train)
    evals = [e for e in events if e["event"] == "eval"]
    assert [e["step"] for e in evals] == [0, 10, 20, 30]
    x, y = whole.eval_set.dataset.tensors
    assert evals[-1]["accuracy"] == float((model(x).argmax(1) == y).double().mean())
    (end,) = [e for e in events if e["event"] == "end"]
    assert (end["scored"], end["trained"]) == (30 * 32, 30 * 8)


def test_signals_stop_at_a_whole_step(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        trainer = make_trainer(tmp_path / str(number))
        before = signal.getsignal(number)

        def raise_once(steps: int, trainer: Trainer = trainer, number: int = number) -> bool:
            if trainer.step == 4:
                os.kill(os.getpid(), number)
            return False

        with pytest.raises(Stopped, match="step [45] of 30"):
            trainer.fit(raise_once)
        assert signal.getsignal(number) is before
        assert make_trainer(tmp_path / str(number)).step == trainer.step


def test_a_diverged_run_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "plain")

    def poison(steps: int) -> bool:
        if trainer.step == 12:
            next(trainer.model.parameters()).data.fill_(torch.nan)
        return False

    with pytest.raises(FloatingPointError, match="diverged; lower the learning rate"):
        trainer.fit(poison)
    assert make_trainer(tmp_path, "plain").step == 11
    trainer = make_trainer(tmp_path / "rho", "rho")
    with pytest.raises(FloatingPointError, match="step 12: .*losses are NaN or infinite.*diverged"):
        trainer.fit(poison)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(
    tmp_path: Path, whole: Trainer
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    shutil.copytree(whole.work / ".", tmp_path, dirs_exist_ok=True)
    assert make_trainer(tmp_path).finished
    with pytest.raises(ValueError, match="another config.*another output folder"):
        make_trainer(tmp_path, config=dataclasses.replace(CONFIG, lr=0.5))
    with pytest.raises(ValueError, match="another seed"):
        make_trainer(tmp_path, seed=4)
    with pytest.raises(ValueError, match="another selection"):
        make_trainer(tmp_path, "loss", name="rho")
    with pytest.raises(ValueError, match="another train_ids"):
        make_trainer(tmp_path, train_ids=torch.arange(N).flip(0))
    other, elu = small_model(1), small_model(1)
    other[3], elu[2] = nn.Dropout(0.4), nn.ELU()  # type: ignore[index]
    for model in (other, elu, nn.Linear(5, 3)):
        with pytest.raises(ValueError, match="another architecture.*another output folder"):
            make_trainer(tmp_path, model=model)
    data = checkpoint.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        checkpoint.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is damaged"):
            make_trainer(tmp_path)
    # What keeps it from being read is no damage.
    checkpoint.unlink()
    checkpoint.mkdir()
    with pytest.raises(IsADirectoryError):
        make_trainer(tmp_path)


def test_a_selector_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="selects 16 of a large batch of 32, TrainConfig.batch is 8"
    ):
        make_trainer(tmp_path, selector=Selector(ratio=0.5, method="loss"))
    other = IndexedDataset(TensorDataset(torch.zeros(N, 5), torch.zeros(N, dtype=torch.int64)))
    store = ILStore(torch.zeros(N), fingerprint(other))
    with pytest.raises(ValueError, match="another data set.*labels"):
        make_trainer(tmp_path, selector=Selector(il=store, k=8))
    # The same labels, other inputs.
    dataset = make_trainer(tmp_path / "data").dataset
    other = IndexedDataset(TensorDataset(torch.rand(N, 5), dataset.labels))
    store = ILStore(torch.zeros(N), fingerprint(other), input_checksums=input_checksums(other))
    with pytest.raises(ValueError, match="other inputs: 64 of 64 examples differ"):
        make_trainer(tmp_path, selector=Selector(il=store, k=8))
    with pytest.raises(ValueError, match="with label smoothing 0.0, the Selector scores with 0.1"):
        make_trainer(tmp_path, selector=Selector(k=8, method="loss", label_smoothing=0.1))


def test_by_agreement_it_is_the_plain_loop(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=60, label_smoothing=0.3, lr=0.05)
    costs = Costs(forward=1.0, training=3.0)
    trainer = make_trainer(tmp_path, "agreement", config, costs=costs)
    ids, model = trainer.train_ids, copy.deepcopy(trainer.model)
    trainer.fit()
    sampler = AgreementSampler(ids, 8, steps=60, seed=3, rescoring_cost=1 / 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.01, fused=True)
    batches, visited = loader(trainer.dataset, sampler), list[int]()
    torch.manual_seed(3)
    while sampler.step < sampler.steps:
        for batch in batches:
            logits = model(batch.x)
            optimizer.zero_grad()
            F.cross_entropy(logits, batch.y, label_smoothing=0.3).backward()
            optimizer.step()
            sampler.update(batch.ids, logits, batch.y)
            visited += batch.ids.tolist()
        sampler.rescore(model, batches)
    torch.testing.assert_close(nn.utils.parameters_to_vector(model.parameters()), weights(trainer))
    assert set(visited) <= set(ids.tolist())
    end = records(tmp_path)[-1]
    # What was scored again is paid for with steps.
    assert end["scored"] == sampler.scored > 0
    assert end["step"] == len(visited) // 8 == 60 - math.ceil(sampler.scored / 24) < 60
    assert 3 * 60 * 8 - 3 * 8 < sum(end["cost"].values()) <= 3 * 60 * 8
    with pytest.raises(ValueError, match="agreement draws small batches; leave the Selector out"):
        make_trainer(tmp_path / "both", "loss", agreement=True)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / ".lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        works: list[Callable[[], object]] = [trainer.fit, lambda: make_trainer(tmp_path)]
        for work in works:
            with pytest.raises(ValueError, match="another process is running in .*wait for it"):
                work()
        other.communicate("\n")
    trainer.fit()
    assert trainer.finished


def test_records_are_cut_off_while_nobody_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def holding(folder: run_folder.RunFolder, fix: str) -> Iterator[None]:
        held.append(folder / ".")
        yield
        held.clear()

    def records(*arguments: Any, **options: Any) -> MetricsLogger:
        assert held == [tmp_path]
        return MetricsLogger(*arguments, **options)

    held: list[Path] = []
    monkeypatch.setattr(run_folder.RunFolder, "lock", holding)
    monkeypatch.setattr(loop, "MetricsLogger", records)
    make_trainer(tmp_path)
    assert held == []


def test_training_takes_subnormal_numbers_as_zero_and_nothing_else_does(tmp_path: Path) -> None:
    class Tiny(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(bool(torch.tensor(2e-38) / 4))
            return super().forward(x)

    seen: list[bool] = []
    trainer = make_trainer(tmp_path, model=Tiny(5, 3))
    before = len(seen)
    trainer.fit()
    assert any(seen[:before])
    assert len(seen) > before + 30
    assert not any(seen[before:])
    assert torch.tensor(2e-38) / 4 > 0


def test_weights_multiply_the_losses_of_their_rows(tmp_path: Path) -> None:
    def weighted(c: ScoringContext) -> Selected:
        # The highest loss first, with the highest weight.
        return c.select("loss")._replace(weights=torch.arange(float(c.k), 0.0, -1.0))

    config = dataclasses.replace(CONFIG, steps=1)
    selector = Selector(k=8, method=weighted)
    trainer = make_trainer(tmp_path, config=config, selector=selector, model=nn.Linear(5, 3))
    model = copy.deepcopy(trainer.model)
    trainer.fit()
    positions = next(iter(LargeBatchSampler(trainer.train_ids, 32, seed=3)))
    large = trainer.dataset.collate(trainer.dataset.__getitems__(positions))
    losses = nn.functional.cross_entropy(model(large.x), large.y, reduction="none")
    loss = (losses.sort(descending=True).values[:8] * torch.arange(8.0, 0.0, -1.0)).mean()
    optimizer = adamw(model, config.lr, config.weight_decay)
    loss.backward()
    optimizer.step()
    assert torch.allclose(weights(trainer), torch.cat([p.flatten() for p in model.parameters()]))
    logged = next(e for e in records(tmp_path) if e["event"] == "train")
    assert logged["loss"] == pytest.approx(float(loss.detach()))


def test_learning_rate_decays_to_zero(tmp_path: Path) -> None:
    for schedule in ("linear", "cosine"):
        config = dataclasses.replace(CONFIG, steps=10, schedule=schedule)
        trainer = make_trainer(tmp_path / schedule, config=config)
        seen: list[float] = []
        trainer.fit(lambda steps, t=trainer, s=seen: bool(s.append(t.schedule.get_last_lr()[0])))  # type: ignore[misc]
        assert seen[4] == pytest.approx(0.5 * CONFIG.lr)
        assert seen[-1] == pytest.approx(0.0)
        assert seen == sorted(seen, reverse=True)


def test_bf16_trains_close_to_float32(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain", "plain")
    plain.fit()
    bf16 = make_trainer(tmp_path / "bf16", "plain", dataclasses.replace(CONFIG, bf16=True))
    bf16.fit()
    # bfloat16 keeps 8 bits: close to, but not the same as, float32.
    assert not torch.equal(weights(bf16), weights(plain))
    assert (weights(bf16) - weights(plain)).abs().max() < 0.02


@pytest.mark.slow
def test_a_compiled_model_resumes(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=4, compile=True)
    compiled = make_trainer(tmp_path, config=config)
    with pytest.raises(Stopped):
        compiled.fit(stop_after(2))
    resumed = make_trainer(tmp_path, config=config)
    assert resumed.step == 2
    assert torch.equal(weights(resumed), weights(compiled))
    resumed.fit()
    assert resumed.finished
