"""Every command on a pretended GPU: nothing is left on the CPU, and results are the same."""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from rho_train import Batch, ILStore, OnlineModel, Selector
from rho_train.batch import ids_of
from rho_train.cli import main
from rho_train.distributed import device_named
from rho_train.history import History
from rho_train.il.blocks import Column
from rho_train.progress import Stopped
from rho_train.scoring import Scoring

from .command import train_arguments
from .pretend_gpu import CPU, GPU, pretend_gpu
from .ways import CONFIG, METHODS, N, ending, make_trainer, small_model

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument")


def test_a_run_on_a_gpu_is_that_on_the_cpu_also_when_it_changes(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=8, log_every=3)
    for way in ("rho", "micro-batches"):
        make_trainer(tmp_path / way, way, config).fit()
        whole = ending(tmp_path / way)["model"]
        for number, devices in enumerate(((GPU, GPU), (CPU, GPU), (GPU, CPU))):
            folder = tmp_path / f"{way}{number}"
            with pretend_gpu() as gpu:
                for device, stop in zip(devices, (3, 8), strict=True):
                    before, model = gpu.ops, small_model(1).to(device)
                    trainer = make_trainer(folder, way, config, model=model)
                    with suppress(Stopped):
                        trainer.fit(lambda _, t=trainer, s=stop: t.step == s)  # type: ignore[misc]
                    assert trainer.step == stop
                    assert (gpu.ops > before + 300) == (device == GPU)
            assert ending(folder)["model"] == whole, (way, devices)


def test_commands_use_the_gpu(
    tmp_path: Path,
    table: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("none here")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr("rho_train.cli.write_report", lambda out: out)
    out, store = tmp_path / "run", tmp_path / "il"
    task = ["--task=table", f"--task.path={table}", "--task.test=300", "--task.hidden=[8]"]
    with pretend_gpu() as gpu:
        used = 0
        for command in (
            ["il", "compute", f"--out={store}", *task, "--recipe.epochs=1", "--recipe.bf16=true"],
            train_arguments(table, out, "--il=holdout", "--device=cuda:0"),
            ["plan", *task, "--seconds=0.01", "--ratios=[3]"],
        ):
            assert main(command) == 0
            assert gpu.ops > used + 300, command
            used = gpu.ops
    environment = json.loads((out / "experiment.json").read_text())["environment"]
    assert environment["device"] == "cuda:0 (Pretended GPU)"
    assert environment["processes"] == 1
    assert main(train_arguments(table, out, "--il=holdout", "--device=cpu", "--seed=1")) == 0
    (origin,) = out.glob("runs/*-seed1/origin.json")
    assert json.loads(origin.read_text())["device"] == "cpu"
    assert "torch sees" not in capfd.readouterr().err


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_named("cpu") == CPU
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, got 'gpu'"):
        device_named("gpu")
    if not torch.cuda.is_available():
        assert device_named("auto") == CPU
        with pytest.raises(
            ValueError, match=r"device cuda:1: torch .* (no GPU|without CUDA); give"
        ):
            device_named("cuda:1")
    with pretend_gpu():
        assert device_named("auto") == device_named("cuda") == device_named("cuda:0") == GPU
        with pytest.raises(ValueError, match="cuda:1: torch sees 1 GPUs"):
            device_named("cuda:1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="cuda:0: 2 ranks need a GPU each and .*; give cuda,"):
            device_named("cuda:0")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        for name in ("auto", "cuda", "cuda:0"):
            with pytest.raises(ValueError, match="torch sees 1; .*start at most 1 ranks on this"):
                device_named(name)


def test_a_batch_moves_whole() -> None:
    with pretend_gpu():
        batch = Batch({"a": [torch.ones(2)]}, torch.zeros(2), torch.arange(2)).to("cuda")
        found = batch.x["a"][0], batch.y, batch.ids
        assert {one.device for one in found} == {GPU}
        assert re.match("Batch", repr(batch.to(CPU)))
        assert batch.to(CPU).ids.device == CPU


def cases() -> dict[str, dict[str, Any]]:
    """Settings of a Selector for every method, form of irreducible losses and option."""
    files, online = store_in_files(), small_model(2).to(GPU)
    return {
        **{name: {"method": name} for name in METHODS},
        "table on the CPU": {"il": torch.rand(N)},
        "store": {"il": ILStore(torch.rand(N), files.fingerprint)},
        "store in files": {"il": files},
        "column": {"il": "il"},
        "column on the CPU": {"il": "il"},
        "online": {"il": OnlineModel(online)},
        "proxy": {"scorer": OnlineModel(online), "method": "loss"},
        "history": {"history": History(N)},
        "micro_batch": {"scoring": Scoring(micro_batch=16)},
        "bf16": {"scoring": Scoring(bf16=True)},
        "train_mode": {"scoring": Scoring(train_mode=True)},
        "phases": {"phases": lambda step: step < 48, "method": "loss"},
        "loss_fn": {"loss_fn": lambda model, batch: model(batch.x).logsumexp(1)},
        # docs/processes.md names these.
        "must: store in files, ids on the GPU": {"il": files},
        "must: every step": {"check_every": 1},
        "must: global": {"scope": "global"},
        "must: list": {},
    }


def store_in_files() -> ILStore:
    store = ILStore(torch.rand(N), {"n": str(N), "labels": "none", "ids": "position"})
    store._columns["il"] = Column("il", store.il.split(60))  # type: ignore[no-untyped-call]
    return store


def large_batch(case: str, step: int) -> Any:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(40, 5, generator=generator), torch.randint(3, (40,), generator=generator)
    ids = torch.randperm(N, generator=generator)[:40]
    y[3] = -100
    batch = {
        "x": x.to(GPU),
        "y": y.to(GPU),
        "ids": ids if case == "store in files" else ids.to(GPU),
    }
    if case.startswith("column"):
        return {**batch, "il": torch.rand(40).to("cpu" if case.endswith("CPU") else GPU)}
    return {**batch, "names": ["a"] * 40} if case == "must: list" else Batch(**batch)


def test_the_host_waits_once_in_fifty_selections() -> None:
    with pretend_gpu() as gpu:
        model, table = small_model(1).to(GPU), torch.rand(N).to(GPU)
        for case, settings in cases().items():
            selector = Selector(**{"il": table, "k": 8, "check_batches": False, **settings})
            for step, batch in enumerate([large_batch(case, step) for step in range(6)]):
                if step == 1:  # the table is on the GPU now
                    selector.steps = 46
                    gpu.waits.clear()
                small = selector(model, batch)
                assert gpu.device(ids_of(small)) == GPU, case
            waits = gpu.waits.total()
            assert waits >= 5 if case.startswith("must") else waits <= 1, (case, gpu.waits)


def test_training_waits_for_records_alone(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=20, log_every=99, eval_every=99, checkpoint_every=99)
    with pretend_gpu() as gpu:
        trainer = make_trainer(tmp_path, "rho", config, model=small_model(1).to(GPU))

        def at_step(_: int) -> bool:
            if trainer.step == 10:
                gpu.waits.clear()
            assert trainer.step != 19 or not gpu.waits, gpu.waits
            return False

        trainer.fit(at_step)
