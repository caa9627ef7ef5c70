"""rho_train.compare: variants, equal cost, shared IL, splits, growing, resuming, failures."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from rho_train import (
    EqualCost,
    ILRecipe,
    ILStore,
    Scoring,
    Selector,
    Task,
    TrainConfig,
    Variant,
    compare,
)
from rho_train.comparison.jobs import ILWork
from rho_train.comparison.runner import JobsFailed
from rho_train.comparison.spec import SeedData, Spec
from rho_train.cost import Costs
from rho_train.report import read_experiment
from rho_train.tasks import mlp
from rho_train.trainer import Trainer

from .command import demo_arguments, run

TRAIN = TrainConfig(steps=30, large_batch=40, batch=8, eval_every=10, lr=0.03)
DRAWN = ["b81f800317dff8f4", "22e3fe631d6264a6", "74980e43300875df", "2b684b25196dd4cd"]
CROSS = Variant("rho", method="rho", il="crossfit")


def task(
    seed: int, width: int = 16, il_width: int = 8, copies: int = 1, swap: bool = False
) -> Task:
    """300 examples of a problem that a line solves, 50 of them with a wrong label."""
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    x, y, noisy = x[:300], y[:300].clone(), torch.zeros(300, dtype=torch.bool)
    noisy[torch.randperm(300, generator=torch.Generator().manual_seed(seed))[:50]] = True
    y[noisy] = 1 - y[noisy]
    source = torch.arange(300).repeat(copies)
    return Task(
        name="line",
        train=TensorDataset(x[source], (1 - y if swap else y)[source]),
        test=TensorDataset(x, (x[:, 0] > 0).long()),
        make_model=lambda seed: mlp(4, [width], 2, seed=seed),
        make_il_model=lambda seed: mlp(4, [il_width], 2, seed=seed),
        groups=source,
        flags={"noisy": noisy[source]},
    )


def end(folder: Path) -> dict[str, Any]:
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "end"
    return last  # type: ignore[no-any-return]


def run_compare(out: Path, *methods: str | Variant, **options: Any) -> dict[str, dict[str, Any]]:
    """Compare in this process and return the last record of each run of seed 0."""
    options = {"seeds": [0], "train": TRAIN, "il": ILRecipe(epochs=2), "processes": 1} | options
    compare(task, methods, out=out, **options)
    return {path.name: end(path) for path in sorted((out / "runs").iterdir())}


def test_equal_cost_gives_the_steps_and_runs_count_what_was_planned(tmp_path: Path) -> None:
    small = Variant("small", method="rho", il="crossfit", overrides={"task.width": 4})
    given = Variant("given", "", "rho", "crossfit", cost=EqualCost("uniform", il=False))
    train = replace(TRAIN, steps=100)
    done = run_compare(
        tmp_path, "uniform", "entropy", CROSS, small, given, train=train, equal_cost=True
    )
    runs = {name.removesuffix("-seed0"): found for name, found in done.items()}
    # With 4 features and 2 classes F is 6 * width. Training costs a pass over the weights more, and
    # the gradient between the layers. A step trains on 8 examples and scores 40.
    wide, narrow = 6 * 16, 6 * 4
    step = 8 * 14 * 16
    # Two folds of 150: 2 batches of 64, 2 epochs; three passes over all, one after each epoch.
    il = 14 * 8 * (2 * 2 * 2 * 64) + 6 * 8 * 3 * 300
    budget = step * 100
    assert runs["uniform"]["step"] == 100
    assert runs["entropy"]["step"] == budget // (step + 40 * wide)
    assert runs["given"]["step"] == budget // (step + 40 * wide)
    assert runs["rho"]["step"] == (budget - il) // (step + 40 * wide)
    assert runs["small"]["step"] == (budget - il) // (step // 4 + 40 * narrow)
    for name, found in runs.items():
        cost, per = found["cost"], narrow if name == "small" else wide
        assert cost["training"] == per * 14 / 6 * 8 * found["step"], name
        assert cost["scoring"] == per * found["scored"], name
        assert cost["il"] == (il if name in ("rho", "small", "given") else 0), name
        spent = sum(cost.values()) - (cost["il"] if name == "given" else 0)
        # No step more would have been paid for.
        assert budget - 59 * per < spent <= budget, name
    described = json.loads((tmp_path / "experiment.json").read_text())
    assert described["step_cost"] == {"0": step}
    fewer = replace(TRAIN, steps=20)
    with pytest.raises(ValueError, match=r"rho: cost: uniform costs 20.0 uniform steps, the irr"):
        run_compare(tmp_path / "no", "uniform", CROSS, train=fewer, equal_cost=True)
    assert not (tmp_path / "no").exists()


@pytest.mark.filterwarnings("ignore:.*mean irreducible loss")
def test_il_cost_what_their_models_pass(tmp_path: Path) -> None:
    passed = {True: 0, False: 0}

    class Counted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passed[torch.is_grad_enabled()] += len(x)
            return super().forward(x)

    def counted(seed: int) -> Task:
        return replace(task(seed), make_il_model=lambda seed: Counted(4, 2))

    for kind, examples, models in (("holdout", "rest", 1), ("crossfit", "all", 3)):
        passed.update(dict.fromkeys(passed, 0))
        variant = Variant("il", "", "rho", kind, examples)  # type: ignore[arg-type]
        options: dict[str, Any] = {"il": ILRecipe(epochs=3, batch_size=32), "folds": 3}
        spec = Spec(counted, (variant,), (0,), "il", **options)
        work = ILWork(spec, SeedData.make(spec, 0), kind)
        work.compute(0, tmp_path / kind, lambda _: False)
        # Each model has a dry run of one batch.
        assert work.cost(Costs(1.0, 3.0)) == 3 * passed[True] + passed[False] - 32 * models


def test_each_seed_has_a_unit_of_its_own(tmp_path: Path) -> None:
    def words(seed: int) -> Task:
        x, y = torch.arange(40 * (4 + 8 * seed)).view(40, -1) % 20, torch.arange(40) % 2
        data = TensorDataset(x, y)
        return Task(
            name="words",
            train=data,
            test=data,
            make_model=lambda seed: torch.nn.EmbeddingBag(20, 2),
        )

    # The longer texts of seed 1 make its steps dearer.
    for seed in (0, 1):
        options: dict[str, Any] = {"out": tmp_path, "train": TRAIN, "processes": 1}
        compare(words, ["uniform"], [seed], **options)
        described = json.loads((tmp_path / "experiment.json").read_text())
        assert described["step_cost"][f"{seed}"] == 8 * 2 * 2 * (4 + 8 * seed)
        for one in read_experiment(tmp_path).runs["uniform"]:
            assert sum(one.end["cost"].values()) == TRAIN.steps


def test_a_comparison_grows_and_keeps_what_is_finished(tmp_path: Path) -> None:
    def written() -> dict[str, bytes]:
        return {f"{path}": path.read_bytes() for path in tmp_path.rglob("*.json*")}

    run_compare(tmp_path, "uniform", CROSS)
    stores = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("il/*")}
    before = {path: of for path, of in written().items() if "runs" in path}
    longer = Variant("longer", method="rho", il="crossfit", overrides={"train.steps": 40})
    ends = run_compare(tmp_path, "uniform", CROSS, longer)
    ends = run_compare(tmp_path, "uniform", CROSS, seeds=[1])
    made = {"longer": 40, "rho": 30, "uniform": 30}
    seed_1 = {"rho-seed1": 30, "uniform-seed1": 30}
    assert {name: found["step"] for name, found in ends.items()} == {
        **{f"{name}-seed0": steps for name, steps in made.items()},
        **seed_1,
    }
    after = written()
    assert {path: after[path] for path in before} == before
    assert stores.items() <= {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("il/*")}.items()
    described = json.loads((tmp_path / "experiment.json").read_text())
    assert [one["name"] for one in described["methods"]] == ["uniform", "rho", "longer"]
    assert described["seeds"] == [0, 1]
    assert described["title"] == "uniform, rho, longer on line"
    found = read_experiment(tmp_path)
    assert found.left_out == ["longer, seed 1: no record"]


def test_one_il_serves_two_targets(tmp_path: Path) -> None:
    small = Variant("small", method="rho", il="crossfit", overrides={"task.width": 4})
    longer = Variant("longer", method="rho", il="crossfit", overrides={"il.epochs": 3})
    kept = Variant("kept", il="crossfit", keep=0.5)
    whole = Variant("whole", il="crossfit")
    ends = run_compare(tmp_path, CROSS, small, longer, kept, whole)
    stores = {p.name.partition("-seed")[0]: p for p in tmp_path.glob("il/*.safetensors")}
    assert len(stores) == 2
    # A filter has used the losses, so their cost is included; keeping all has not.
    seconds = {name.removesuffix("-seed0"): found["il_seconds"] for name, found in ends.items()}
    assert seconds["rho"] == seconds["small"] == seconds["kept"] > 0 == seconds["whole"]
    origin = json.loads((tmp_path / "runs" / "small-seed0" / "origin.json").read_text())
    found = [ILStore.load(path).info for path in stores.values()]
    losses = [[float(loss) for loss in info["holdout_loss"].split(", ")] for info in found]
    assert any(origin["il_loss"] == pytest.approx(sum(of) / 2) for of in losses)


def test_options_reach_the_selector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Selector] = []

    class Recorded(Selector):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr("rho_train.comparison.jobs.Selector", Recorded)
    own = {"scoring.micro_batch": 16, "train.label_smoothing": 0.1, "train.bf16": True}
    ends = run_compare(tmp_path, CROSS, Variant("loss", method="loss", overrides=own))
    # 40 candidates in each of 30 steps.
    assert {found["scored"] for found in ends.values()} == {1200}
    found = {(s.method, s.k, s.label_smoothing, s.scoring) for s in made}
    assert found == {("rho", 8, 0.0, Scoring(bf16=False)), ("loss", 8, 0.1, Scoring(True, 16))}


def test_a_filter_trains_on_the_examples_with_the_lowest_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, torch.Tensor] = {}

    class Recorded(Trainer):
        def __init__(self, *args: Any, name: str, **kwargs: Any) -> None:
            trained[name] = kwargs["train_ids"]
            super().__init__(*args, name=name, **kwargs)

    monkeypatch.setattr("rho_train.comparison.jobs.Trainer", Recorded)
    held = Variant("held", method="rho", il="holdout", examples="rest", keep=0.5)
    run_compare(tmp_path, "uniform", Variant("half", il="crossfit", keep=0.5), held)
    il = ILStore.load(next(tmp_path.glob("il/crossfit*.safetensors"))).il
    assert trained["uniform"].tolist() == list(range(300))
    assert len(trained["half"]) == 150
    rest = torch.ones(300, dtype=torch.bool).index_fill(0, trained["half"], False)
    assert il[trained["half"]].max() <= il[rest].min()
    known = ILStore.load(next(tmp_path.glob("il/holdout*.safetensors"))).known
    assert len(trained["held"]) == 75
    assert bool(known[trained["held"]].all())


def test_what_waits_for_a_job_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "il").write_text("in the way")
    with pytest.raises(JobsFailed) as caught:
        run_compare(tmp_path, CROSS, "uniform")
    named = re.findall(r"^(\w+)", str(caught.value), flags=re.MULTILINE)
    assert sorted(named) == ["crossfit", "rho"]
    assert end(tmp_path / "runs" / "uniform-seed0")["step"] == 30


def test_titles_may_change_and_nothing_else(tmp_path: Path) -> None:
    run_compare(tmp_path, "uniform", origin={"commit": "a"})
    run_compare(tmp_path, "uniform", "loss", origin={"commit": "b"}, title="better")
    described = json.loads((tmp_path / "experiment.json").read_text())
    assert (described["title"], described["environment"]["commit"]) == ("better", "a")
    own = json.loads((tmp_path / "runs" / "loss-seed0" / "origin.json").read_text())
    assert own["commit"] == "b"
    for changes, message in (
        ({"train": TrainConfig(steps=20)}, "train differ"),
        ({"task_options": {"swap": True}}, "task_options, data of seed 0 differ"),
        ({"seeds": [1, 0], "baseline": "other"}, "baseline, method uniform differ"),
        ({"task_options": {"width": 3}}, "model, task_options differ"),
        ({"validation": 0.1}, "validation differ"),
    ):
        own = [Variant("uniform", overrides={"train.lr": 1.0}), Variant("other")]
        methods = own if "baseline" in changes else ["uniform"]
        with pytest.raises(ValueError, match=f"holds another comparison: {message}"):
            run_compare(tmp_path, *methods, **changes)
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run_compare(tmp_path, "uniform")


def spec(seed: int, source: Any = task, **options: Any) -> SeedData:
    held = Variant("rho", method="rho", il="holdout", examples="rest")
    return SeedData.make(Spec(source, (held,), (seed,), "rho", **options), seed)


def test_no_copy_of_a_held_out_example_is_trained_on() -> None:
    for seed in range(4):
        data = spec(seed, task_options={"copies": 7}, holdout=0.4015)
        # 120 examples with all their copies, and 3 of the 7 copies of another one.
        assert len(data.held_out) == 843
        assert not set(data.groups[data.held_out].tolist()) & set(data.groups[data.rest].tolist())
        assert len(data.held_out) + len(data.rest) == 2100 - 4
    plain = spec(0)
    both = torch.cat([plain.held_out, plain.rest]).sort().values
    assert both.equal(torch.arange(300))


def test_nothing_trains_on_the_validation_split() -> None:
    data, other = (spec(seed, task_options={"copies": 3}, validation=0.25) for seed in (0, 1))
    x, y = data.eval_set.dataset.tensors
    # A quarter of the 300 examples, once each, without its copies.
    assert len(y) == 75
    train = {tuple(row) for row in data.dataset.dataset.tensors[0].tolist()}
    assert len(train) == 225
    assert not train & {tuple(row) for row in x.tolist()}
    assert len(data.dataset) == len(data.flags["noisy"]) == len(data.groups) == 3 * 225
    # As it is given: with wrong labels in the same share.
    wrong = int((y != (x[:, 0] > 0).long()).sum())
    assert 5 <= wrong <= 22
    noisy = data.flags.get("noisy")
    assert noisy is not None
    assert torch.equal(data.dataset.labels != (data.dataset.dataset.tensors[0][:, 0] > 0), noisy)
    assert not torch.equal(x, other.eval_set.dataset.tensors[0])
    with pytest.raises(ValueError, match=r"validation = 0.001 of 300 examples are 0; take more"):
        spec(0, validation=0.001)


def test_draws_of_a_seed_stay_what_they_were() -> None:
    # Whatever the default device is.
    torch.set_default_device("meta")
    try:
        data = spec(3, "letters", task_options={"noise": 0.1}, validation=0.1)
    finally:
        torch.set_default_device(None)
    drawn = (data.held_out, data.dataset.labels, data.eval_set.labels, data.rest)
    found = [hashlib.sha256(part.numpy().tobytes()).hexdigest()[:16] for part in drawn]
    assert found == DRAWN


def test_impossible_variants_are_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "../up"}, "name must be of letters, digits"),
        ({"name": ""}, "name must be of letters, digits"),
        ({"method": "best"}, "method must be one of rho, .*got 'best'"),
        ({"method": "rho"}, "method rho needs irreducible losses; choose il = holdout or"),
        ({"il": "best"}, "il must be one of none, holdout, crossfit, stored, got 'best'"),
        ({"examples": "some"}, "examples must be one of all, rest, got 'some'"),
        ({"keep": 0.0, "il": "crossfit"}, r"keep must lie in \(0, 1\], got 0.0"),
        ({"keep": 0.5}, "keep = 0.5 needs irreducible losses"),
        ({"method": "rho", "il": "holdout"}, "the held-out examples have no irreducible loss"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            Variant(**{"name": "one", **arguments})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"seeds": []}, "seeds must be different and at least one"),
        ({"baseline": "best"}, "baseline must be one of uniform, got 'best'"),
        ({"methods": ["uniform", "uniform"]}, "methods must be different"),
        ({"methods": []}, "methods must be different and at least one"),
        ({"methods": ["best"]}, "method must be one of rho, .*got 'best'"),
        ({"validation": 1.0}, r"validation must lie in \[0, 1\), got 1.0"),
        ({"holdout": 1.5}, r"holdout must lie in \(0, 1\), got 1.5"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"processes": -1}, "processes must be at least 0"),
        ({"methods": [Variant("s", method="rho", il="stored")]}, "needs the store; give its path"),
        (
            {"train": TrainConfig(large_batch=301), "methods": ["rho"]},
            r"rho: .*large_batch must lie in \[1, 300\], the train_ids, got 301",
        ),
        ({"task_options": {"color": 1}}, "task task: got an unexpected keyword argument 'color'"),
        ({"overrides": {"train.stepz": 1}}, "one: .*unexpected keyword argument 'stepz'"),
        ({"overrides": {"train.steps": 1.5}}, "variant one: .*steps must be .*, got 1.5"),
        ({"overrides": {"train.lr": -1}}, "variant one: .*lr must be positive"),
        ({"overrides": {"task.color": 1}}, "unexpected keyword argument 'color'"),
        ({"overrides": {"seeds": (1,)}}, "'seeds' is the same for all variants"),
        ({"overrides": {"task.swap": True}}, "one: its task options change the training data"),
        (
            {"cost": EqualCost("best")},
            r"one: cost: to must be one with cost=None \(uniform\), got 'best'",
        ),
        (
            {"cost": EqualCost("one")},
            r"one: cost: to must be one with cost=None \(uniform\), got 'one'",
        ),
        ({"methods": [Variant("one", cost=EqualCost("one"))]}, r"cost=None \(\), got 'one'"),
    ],
)
def test_impossible_comparisons_do_not_start(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    own = {key: options[key] for key in ("overrides", "cost") if key in options}
    methods = options.get("methods", ["uniform", Variant("one", **own)] if own else ["uniform"])
    options = {k: v for k, v in options.items() if k not in ("methods", *own)}
    with pytest.raises(ValueError, match=message):
        run_compare(tmp_path / "out", *methods, **options)
    assert not (tmp_path / "out").exists()


def test_a_task_that_processes_cannot_import_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 processes must be able to import the task .*<lambda>"):
        compare(lambda: task(0), ["uniform", "loss"], [0], out=tmp_path, train=TRAIN, processes=2)


def _started(demo: Any, out: Path) -> list[int]:
    """Wait until a run trains, and return the worker processes."""
    while not list(out.glob("runs/*/metrics.jsonl")):
        assert demo.poll() is None, demo.communicate()
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.slow
def test_workers_end_with_a_killed_parent_and_a_killed_worker_is_named(
    tmp_path: Path, table: Path
) -> None:
    endless = ("--train.steps=1000000", "--processes=2")
    demo = run(demo_arguments(table, tmp_path / "one", *endless))
    assert len(_started(demo, tmp_path / "one")) == 2
    demo.kill()
    # The workers hold the pipe of the output, so this returns when all of them have ended.
    demo.communicate()
    assert demo.returncode == -signal.SIGKILL
    demo = run(demo_arguments(table, tmp_path / "two", *endless))
    os.kill(_started(demo, tmp_path / "two")[0], signal.SIGKILL)
    _, errors = demo.communicate()
    assert demo.returncode == 1
    assert "a worker process was killed" in errors
    assert "Traceback" not in errors
