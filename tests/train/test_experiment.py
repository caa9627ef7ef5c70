"""Experiments from YAML: options of each method, the validation split, the minutes of another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import TensorDataset

from rho_train.cli import main
from rho_train.experiment import (
    ExperimentConfig,
    Method,
    SameMinutes,
    load_experiment,
    make_experiment,
    run_experiment,
)
from rho_train.experiment.run import JobsFailed
from rho_train.experiment.setting import Setting, training_points
from rho_train.il import ILStore
from rho_train.report import read_experiment
from rho_train.trainer import TrainConfig, Trainer
from rho_train.trainer.evaluation import evaluate

UNIFORM = Method("uniform", "Uniform", "uniform")


def plain(table: Path, **more: Any) -> dict[str, Any]:
    """An experiment of seconds, as a YAML file has it."""
    decayed = {"train.schedule": "linear"}
    methods = [
        {"name": "uniform", "label": "Uniform", "select": "uniform"},
        {"name": "rho", "label": "RHO", "select": "rho", "il": "crossfit"},
        {
            "name": "charged",
            "label": "Same minutes",
            "select": "uniform",
            "overrides": decayed,
            "minutes": {"of": "rho", "pace": "uniform", "il": "charged"},
        },
    ]
    return {
        "title": "t",
        "description": "d",
        "methods": methods,
        "baseline": "uniform",
        "seeds": [0, 1],
        "data": {"path": str(table), "test": 300, "noise": 0.2},
        "validation": 0.25,
        "model": {"widths": [16]},
        "il": {"epochs": 2},
        "train": {"steps": 30, "large_batch": 40, "batch": 8, "eval_every": 10, "lr": 0.03},
        **more,
    }


def test_a_yaml_file_runs_and_the_plan_is_kept(
    tmp_path: Path, table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "e.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(plain(table)))
    command = ["experiment", str(file), f"--out={out}", "--processes=1"]
    assert main(command) == 0
    assert "Same minutes" in capfd.readouterr().out
    ends = {}
    for seed in (0, 1):
        for name in ("uniform", "rho", "charged"):
            lines = (out / "runs" / f"{name}-seed{seed}" / "metrics.jsonl").read_text().splitlines()
            ends[name, seed] = json.loads(lines[-1])
        plan = json.loads((out / "runs" / f"charged-seed{seed}" / "plan.json").read_text())
        rho, pace = ends["rho", seed], ends["uniform", seed]
        seconds = rho["seconds"] + rho["il_seconds"]
        assert plan["steps"] == int(seconds * pace["step"] / pace["seconds"])
        assert ends["charged", seed]["step"] == plan["steps"] != 30
    # Other seconds now: a run that goes on keeps the steps that it was planned with.
    plans = {path: path.read_text() for path in out.rglob("plan.json")}
    assert len(plans) == 2
    for path in out.glob("runs/charged-*"):
        (path / "checkpoint.pt").unlink()
        (path / "test.json").unlink()
    for path in out.glob("runs/uniform-*/metrics.jsonl"):
        # Of the same length, as the checkpoint has it.
        text = re.sub(r'(?<="seconds": )\d', "9", path.read_text())
        path.write_text(text)
    assert main(command) == 0
    assert {path: path.read_text() for path in out.rglob("plan.json")} == plans
    steps = {seed: run.end.step for seed, run in read_experiment(out).of("charged").items()}
    assert steps == {seed: ends["charged", seed]["step"] for seed in (0, 1)}


def test_nothing_trains_on_the_validation_split(table: Path) -> None:
    data = {"path": str(table), "test": 300, "noise": 0.2, "redundancy": 0.5, "copies": 3}
    config = make_experiment(plain(table, data=data))
    setting, other = Setting.make(config, 0), Setting.make(config, 1)
    x, y = setting.watched
    assert isinstance(x, torch.Tensor)
    assert isinstance(setting.data.train_x, torch.Tensor)
    # 600 training points; a quarter of them is watched, once each, without its copies.
    assert len(y) == 150
    train = {tuple(row) for row in setting.data.train_x.tolist()}
    watched = {tuple(row) for row in x.tolist()}
    assert len(watched) == 150
    assert not train & watched
    assert len(train) == 450
    assert len(setting.dataset) == len(setting.corruption.label)
    assert len(setting.dataset) == training_points(config, config.data.load(), 0)
    setting.corruption.verify(setting.dataset)
    # As it is given: with wrong labels in the same share.
    clean = {tuple(r): int(c) for r, c in zip(*_clean(config), strict=True)}
    wrong = sum(clean[tuple(r)] != int(c) for r, c in zip(x.tolist(), y, strict=True))
    assert 5 <= wrong <= 30
    assert isinstance(other.watched[0], torch.Tensor)
    assert not torch.equal(x, other.watched[0])


def _clean(config: ExperimentConfig) -> tuple[list[list[float]], list[int]]:
    data = config.data.load()
    assert isinstance(data.train_x, torch.Tensor)
    return data.train_x.tolist(), data.train_y.tolist()


def test_methods_have_options_of_their_own(table: Path) -> None:
    methods = [
        {"name": "a", "label": "a", "select": "rho", "il": "crossfit"},
        {
            "name": "b",
            "label": "b",
            "select": "rho",
            "il": "crossfit",
            "overrides": {"train.lr": 1, "model": {"widths": [4, 4]}, "il_model": {"widths": [16]}},
        },
        {
            "name": "c",
            "label": "c",
            "select": "rho",
            "il": "crossfit",
            "overrides": {"il.epochs": 5, "selector.anneal": 0.5},
        },
    ]
    config = make_experiment(plain(table, methods=methods, baseline="a"))
    a, b, c = (config.of(method) for method in config.methods)
    assert (a.train.lr, b.train.lr, b.model.widths) == (0.03, 1.0, (4, 4))
    assert (c.il.epochs, c.selector.anneal, a.il.epochs) == (5, 0.5, 2)
    # The same IL model and recipe is computed once, whatever target uses it.
    assert a.il_name("crossfit") == b.il_name("crossfit") != c.il_name("crossfit")


def test_one_il_serves_two_targets_at_half_the_cost_each(tmp_path: Path, table: Path) -> None:
    methods = [
        {"name": "a", "label": "a", "select": "rho", "il": "crossfit"},
        {
            "name": "b",
            "label": "b",
            "select": "rho",
            "il": "crossfit",
            "overrides": {"model": {"widths": [4]}},
        },
    ]
    values = plain(table, methods=methods, baseline="a", il_model={"widths": [8]}, seeds=[0])
    run_experiment(make_experiment(values), tmp_path / "out", processes=1)
    assert len(list(tmp_path.glob("out/il/*.safetensors"))) == 1
    plan = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert [method["targets"] for method in plan["methods"]] == [2, 2]
    runs = read_experiment(tmp_path / "out").runs
    assert runs[0].end.il_seconds == runs[1].end.il_seconds > 0
    origin = json.loads((tmp_path / "out" / "runs" / "b-seed0" / "origin.json").read_text())
    # 4 features, 2 classes: 4 * 4 + 4 + 4 * 2 + 2 and 4 * 8 + 8 + 8 * 2 + 2 parameters.
    assert origin["model"] == {"parameters": 30, "flops": 48}
    sizes = {name: origin["il_model"][name] for name in ("parameters", "flops")}
    assert sizes == {"parameters": 58, "flops": 96}
    (store,) = tmp_path.glob("out/il/*.safetensors")
    losses = [float(loss) for loss in ILStore.load(store).info["holdout_loss"].split(", ")]
    assert origin["il_model"]["loss"] == pytest.approx(sum(losses) / 2)


def test_options_reach_the_selector(tmp_path: Path, table: Path) -> None:
    def method(name: str, **overrides: Any) -> dict[str, Any]:
        rho = {"name": name, "label": name, "select": "rho", "il": "crossfit"}
        return {**rho, "overrides": {f"selector.{k}": v for k, v in overrides.items()}}

    methods = [
        method("plain"),
        method("warm", warmup=20),
        method("annealed", anneal=0.5),
        method("stale", **{"scoring.refresh": 0.5}),
    ]
    values = plain(table, methods=methods, baseline="plain", seeds=[0])
    run_experiment(make_experiment(values), tmp_path / "out", processes=1)
    ends = {}
    for name in ("plain", "warm", "annealed", "stale"):
        metrics = tmp_path / "out" / "runs" / f"{name}-seed0" / "metrics.jsonl"
        ends[name] = json.loads(metrics.read_text().splitlines()[-1])["scored"]
    # 40 candidates in each of 30 steps.
    assert ends == {"plain": 1200, "warm": 400, "annealed": 600, "stale": 600}


def test_a_filter_trains_on_the_points_with_the_lowest_losses(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, torch.Tensor] = {}

    class Watched(Trainer):
        def __init__(self, *args: Any, name: str, **kwargs: Any) -> None:
            trained[name] = args[2]
            super().__init__(*args, name=name, **kwargs)

    monkeypatch.setattr("rho_train.experiment.jobs.Trainer", Watched)
    own = {"select": "uniform", "il": "crossfit"}
    methods = [
        {"name": "all", "label": "all", **own},
        {"name": "half", "label": "half", **own, "keep": 0.5},
    ]
    values = plain(table, methods=methods, baseline="all", seeds=[0])
    run_experiment(make_experiment(values), tmp_path, processes=1)
    (path,) = (tmp_path / "il").glob("*.safetensors")
    il = ILStore.load(path).il
    assert trained["all"].tolist() == list(range(len(il)))
    assert len(trained["half"]) == round(len(il) / 2)
    rest = torch.ones(len(il), dtype=torch.bool).index_fill(0, trained["half"], False)
    assert il[trained["half"]].max() <= il[rest].min()
    # The filter has used the irreducible losses, so it pays for them.
    charged = {run.method: run.end.il_seconds for run in read_experiment(tmp_path).runs}
    assert charged["all"] == 0 < charged["half"]


def test_a_run_that_others_follow_fails_and_is_named(tmp_path: Path, table: Path) -> None:
    out = tmp_path / "out"
    config = make_experiment(plain(table, seeds=[0]))
    run_experiment(config, out, processes=1)
    plan = out / "runs" / "charged-seed0" / "plan.json"
    plan.write_text(plan.read_text().replace('"charged"', '"reused"'))
    with pytest.raises(Exception, match=r"charged-0: .*plan.json was made for .*reused"):
        run_experiment(config, out, processes=1)
    plan.write_text("{")
    with pytest.raises(Exception, match=r"charged-0: .*plan.json is damaged"):
        run_experiment(config, out, processes=1)


def test_what_waits_for_a_job_that_failed_is_named(tmp_path: Path, table: Path) -> None:
    values = plain(table, seeds=[0])
    # Before the run that it follows.
    values["methods"] = [values["methods"][i] for i in (2, 1, 0)]
    il = tmp_path / "out" / "il"
    il.parent.mkdir()
    il.write_text("in the way")
    with pytest.raises(JobsFailed) as caught:
        run_experiment(make_experiment(values), tmp_path / "out", processes=1)
    named = re.findall(r"^(\S+): ", str(caught.value), flags=re.MULTILINE)
    assert sorted(name.rpartition("-")[0].partition("-")[0] for name in named) == [
        "charged",
        "crossfit",
        "rho",
    ]


def test_a_filter_that_keeps_all_is_charged_no_il(tmp_path: Path, table: Path) -> None:
    values = plain(table, seeds=[0])
    values["methods"][2] |= {"il": "crossfit", "minutes": {"of": "uniform", "pace": "uniform"}}
    values["methods"][1] = {"name": "kept", "label": "", "select": "uniform", "keep": 0.5}
    values["methods"][1] |= {"il": "crossfit"}
    run_experiment(make_experiment(values), tmp_path, processes=1)
    runs = {run.method: run.end for run in read_experiment(tmp_path).runs}
    assert runs["charged"].il_seconds == 0 < runs["kept"].il_seconds


def test_titles_may_change_and_a_finished_experiment_is_not_resumed(
    tmp_path: Path, table: Path
) -> None:
    values = plain(table, seeds=[0])
    run_experiment(make_experiment(values), tmp_path, processes=1, origin={"commit": "a"})
    values["title"] = "better"
    run_experiment(make_experiment(values), tmp_path, processes=1, origin={"commit": "b"})
    plan = json.loads((tmp_path / "experiment.json").read_text())
    assert plan["title"] == "better"
    assert plan["environment"]["commit"] == "a"
    assert not [key for key in plan["environment"] if key.startswith("resumed")]
    (tmp_path / "runs" / "rho-seed0" / "test.json").unlink()
    run_experiment(make_experiment(values), tmp_path, processes=1, origin={"commit": "b"})
    plan = json.loads((tmp_path / "experiment.json").read_text())
    (resumed,) = [plan["environment"][k] for k in plan["environment"] if k.startswith("resumed")]
    assert "commit b" in resumed


def test_accuracy_by_class() -> None:
    x = torch.eye(4)[:3]
    found = evaluate(torch.nn.Identity(), TensorDataset(x, torch.tensor([0, 1, 1])))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.class_accuracy == [1.0, 0.5, None, None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 1}, "stepz"),
        ({"train": {"steps": "many"}}, "steps"),
        ({"validation": 1.5}, r"validation must lie in \[0, 1\), got 1.5"),
        ({"seeds": []}, "seeds must be different and at least one"),
        ({"model": {"name": "vgg"}}, "model must be one of mlp"),
        ({"model": {"widths": [0]}}, "widths must be positive"),
    ],
)
def test_impossible_files_are_named(
    tmp_path: Path, table: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(plain(table, **changes)))
    with pytest.raises(ValueError, match=rf"bad\.yaml.*{message}"):
        load_experiment(file)
    file.write_text("a: [")
    with pytest.raises(ValueError, match="bad.yaml is no YAML file"):
        load_experiment(file)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_experiment(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.stepz": 1}, "there is no option 'train.stepz'; train has steps"),
        ({"train.steps": 1.5}, "train.steps must be int, as 2000 is, got 1.5"),
        ({"train.lr": -1.0}, "lr must be positive"),
        ({"data.noise": 0.1}, "'data.noise' belongs to the whole experiment"),
        ({"seeds": (1,)}, "'seeds' belongs to the whole experiment"),
    ],
)
def test_impossible_options_of_a_method_are_named(overrides: dict[str, Any], message: str) -> None:
    method = Method("one", "One", "uniform", overrides=overrides)
    with pytest.raises(ValueError, match=f"method one: .*{message}"):
        ExperimentConfig("t", "d", (method,), "one", (0,), train=TrainConfig())


@pytest.mark.parametrize("name", ["rho/0.1", "", "two words", "../up"])
def test_names_that_are_no_folders_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="method: name must be of letters, digits"):
        Method(name, "One", "uniform")


def test_minutes_of_nobody_are_refused() -> None:
    def config(minutes: SameMinutes) -> ExperimentConfig:
        same = Method("same", "Same", "uniform", minutes=minutes)
        chained = Method("chain", "Chain", "uniform", minutes=SameMinutes("uniform", "uniform"))
        return ExperimentConfig("t", "d", (UNIFORM, chained, same), "uniform", (0,))

    config(SameMinutes("uniform", "uniform"))
    with pytest.raises(ValueError, match=r"method same: minutes.of must be one of .*got 'best'"):
        config(SameMinutes("best", "uniform"))
    with pytest.raises(ValueError, match=r"minutes.pace must be a method with steps of its own"):
        config(SameMinutes("uniform", "chain"))
    with pytest.raises(ValueError, match="il must be one of charged, reused"):
        SameMinutes("uniform", "uniform", "free")  # type: ignore[arg-type]
