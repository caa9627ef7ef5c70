"""A model that is called in its own way, on batches of its own, goes into everything."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import TensorDataset

from rho_train import (
    ILRecipe,
    ILStore,
    IndexedDataset,
    Selector,
    Task,
    TrainConfig,
    Trainer,
    crossfit_il,
    holdout_il,
    plan,
    pretrained_il,
    score_examples,
)
from rho_train.cli import main
from rho_train.il import train_il
from rho_train.il.score import warn_near_chance
from rho_train.progress import Stopped
from rho_train.tasks import mlp

N, WORDS = 120, 20
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 4, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
IDS = torch.arange(N)
RECIPE = ILRecipe(epochs=2, batch_size=16, lr=0.02)


class Texts:
    """Rows of words, as a data set of Hugging Face shows them: the first word is of the class."""

    column_names = ("input_ids", "label")

    def __init__(self) -> None:
        rows = torch.randint(1, WORDS, (N, 9), generator=torch.Generator().manual_seed(1))
        rows[:, 0] = 1 + rows[:, 0] % 4
        self.rows = [row[: 2 + i % 8].tolist() for i, row in enumerate(rows)]
        self.labels = [row[0] % 2 for row in self.rows]

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.rows[i], "label": self.labels[i]}


class Encoder(nn.Module):
    """Called with keyword arguments, returns an object, as models of transformers."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, 2)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        mask = attention_mask[:, :, None]
        found = (mask * self.words(input_ids)).sum(1) / mask.sum(1)
        return SimpleNamespace(scores=self.head(found))


def padded(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Join examples as a collator that knows nothing of ids."""
    assert all(set(row) == {"input_ids", "label"} for row in rows)
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels = torch.tensor([row["label"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def encoded(model: nn.Module, batch: Any) -> Tensor:
    scores: Tensor = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).scores
    return scores


def encoded_losses(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(encoded(model, batch), batch["labels"], reduction="none")


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("not compiled in tests")

    monkeypatch.setattr(torch, "compile", fail)


def texts() -> Task:
    """Also by `--task`."""
    made: dict[str, Any] = {"train": Texts(), "test": Texts(), "make_model": Encoder}
    return Task(name="texts", **made, collate_fn=padded, forward=encoded)


def texts_without_classes() -> Task:
    made: dict[str, Any] = {"train": Texts(), "test": Texts(), "make_model": Encoder}
    return Task(name="texts", **made, collate_fn=padded, loss_fn=encoded_losses)


def net(seed: int) -> nn.Module:
    return nn.Sequential(mlp(4, [8], 2, seed=seed), nn.BatchNorm1d(2))


def test_the_same_work_by_other_functions_has_the_same_bits(tmp_path: Path) -> None:
    plain = IndexedDataset(TensorDataset(X, Y))
    rows = [{"features": x, "class": y} for x, y in zip(X, Y, strict=True)]

    def collate(rows: list[Any]) -> dict[str, Tensor]:
        features, labels = (torch.stack([row[key] for row in rows]) for key in rows[0])
        return {"features": features, "labels": labels}

    def forward(model: nn.Module, batch: Any) -> Tensor:
        found: Tensor = model(batch["features"])
        return found

    dicts, own = IndexedDataset(rows, labels=Y, collate_fn=collate), {"forward": forward}
    ways: list[tuple[IndexedDataset, dict[str, Any]]] = [(plain, {}), (dicts, own)]
    found = []
    for number, (data, functions) in enumerate(ways):
        model, folder = net(0), tmp_path / f"{number}"
        fit = train_il(model, data, IDS[:60], IDS[60:], RECIPE, **functions)
        stores = [
            pretrained_il(model, data, folder=folder / "il", **functions),
            holdout_il(net, data, IDS[:60], RECIPE, **functions),
            crossfit_il(net, data, 2, RECIPE, **functions),
        ]
        il = [*(store.il for store in stores), score_examples(model, data, IDS, **functions)]
        selector = Selector(il=stores[2], k=8, **functions)
        config = TrainConfig(steps=6, large_batch=32, batch=8)
        arguments = (model, data, IDS, data, config, folder)
        Trainer(*arguments, name="", selector=selector, **functions).fit()
        found.append((fit.loss, *il, *model.state_dict().values()))
    for one, other in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(one).nan_to_num(), torch.as_tensor(other).nan_to_num())


def test_examples_are_padded_to_the_longest_of_each_batch(without_compiling: None) -> None:
    data = texts().dataset()
    assert data.labels.tolist() == Texts().labels
    found = plan(Encoder(), data, batch=8, ratios=[3], forward=encoded, seconds=0.1)
    assert "plain" in {row.option for row in found.rows}
    plan(Encoder(), data, batch=8, ratios=[3], loss_fn=encoded_losses, seconds=0.1)
    by_loss = {"loss_fn": encoded_losses}
    for functions in ({"forward": encoded}, by_loss):
        longer = ILRecipe(epochs=6, batch_size=16, lr=0.1)
        store = crossfit_il(Encoder, data, 2, longer, **functions)
        assert float(store.il.mean()) < 0.5  # learnt, from log 2 on
        model = Encoder()
        holdout_il(lambda seed, one=model: one, data, IDS[:60], RECIPE, **functions)  # type: ignore[misc]
        il = pretrained_il(model.eval(), data, **functions).il
        for i in (0, 7, 50):
            alone = padded([Texts()[i]])
            torch.testing.assert_close(il[i], encoded_losses(model, alone)[0].detach())


def test_commands_take_such_a_task(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    without_compiling: None,
) -> None:
    monkeypatch.setattr("rho_train.cli.write_report", lambda out: out)
    for name in ("texts", "texts_without_classes"):
        task, path = f"--task={__name__}:{name}", tmp_path / name
        assert main(["il", "compute", task, f"--out={path}", "--recipe.epochs=1"]) == 0
        assert len(ILStore.load(path, texts().dataset())) == N
        assert main(["plan", task, "--ratios=[2]", "--seconds=0.1", "--train.batch=8"]) == 0
        small = ["--train.steps=4", "--train.large_batch=16", "--train.batch=4"]
        status = main(["train", task, f"--il={path}", f"--out={path}-run", *small])
        assert status == 2 * (name != "texts")
    error = capfd.readouterr().err
    assert "has a loss_fn, and runs are compared by accuracy; use `rho-ext il compute`" in error


def test_examples_with_a_loss_need_no_labels(without_compiling: None) -> None:
    data = IndexedDataset([{"x": x} for x in X])

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch["x"]) - batch["x"]).square().mean(1)

    def model(seed: int) -> nn.Module:
        return mlp(4, [3], 4, seed=seed)

    store = crossfit_il(model, data, 2, RECIPE, loss_fn=losses)
    il = pretrained_il(model(0), data, loss_fn=losses).il
    assert store.fingerprint["labels"] == "none"
    torch.testing.assert_close(il, losses(model(0), {"x": X}).detach())
    batch = data.collate(data.__getitems__(range(40)))
    small = Selector(il=store, k=5, loss_fn=losses)(model(1), batch)
    assert torch.equal(small["x"], X[small["ids"]])
    del batch["ids"]
    batch["il"] = store.il[:40]
    assert torch.equal(Selector(il="il", k=5, loss_fn=losses)(model(1), batch)["x"], small["x"])
    plan(model(0), data, batch=8, ratios=[3], loss_fn=losses, seconds=0.1)
    with pytest.raises(ValueError, match="has no labels: .*for examples that have none give loss_"):
        pretrained_il(model(0), data)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


FINE = ILRecipe.finetune(epochs=2, batch_size=8, evals_per_epoch=3, scoring_batch=N)


def test_the_rate_rises_and_decays_and_the_best_evaluation_is_used() -> None:
    rates, seen = [], list[Tensor]()
    made: list[Any] = []

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made.append(sgd(model))
        return made[0]  # type: ignore[no-any-return]

    def on_step(steps: int) -> bool:
        if steps:
            rates.append(made[0].param_groups[0]["lr"])
        else:
            seen.append(score_examples(model, data, IDS[60:]).mean())
        return False

    data, model = IndexedDataset(TensorDataset(X, Y)), mlp(4, [8], 2, seed=0)
    options: dict[str, Any] = {"optimizer": optimizer, "on_step": on_step}
    fit = train_il(model, data, IDS[:60], IDS[60:], replace(FINE, warmup=0.3), **options)
    # 14 steps, of which 4 warm up; the rates after each.
    assert FINE.steps(60) == 14
    rising, decaying = [i / 5 for i in range(2, 5)], [1 - i / 10 for i in range(11)]
    assert rates == pytest.approx([0.3 * share for share in rising + decaying])
    assert fit.loss == float(score_examples(model, data, IDS[60:]).mean()) == float(min(seen))
    assert len(seen) == 6
    # Evaluations after steps 2, 4, 7, 9, 11 and 14, of 7 an epoch.
    assert fit.epoch == (2, 4, 7, 9, 11, 14)[seen.index(min(seen))] / 7
    for bad in ({"warmup": 1.0}, {"warmup": -0.1}, {"evals_per_epoch": 0}):
        with pytest.raises(ValueError, match=rf"ILRecipe: {next(iter(bad))} must"):
            ILRecipe.finetune(**bad)
    # An epoch of fewer steps than evaluations has one after each.
    few = ILRecipe(epochs=2, batch_size=60, evals_per_epoch=3)
    assert train_il(mlp(4, [8], 2, seed=0), data, IDS[:60], IDS[60:], few).epoch in (1, 2)


def test_work_resumes_in_mid_epoch_and_is_that_of_its_functions(tmp_path: Path) -> None:
    data = texts().dataset()
    options: dict[str, Any] = {"forward": encoded, "optimizer": sgd}
    wanted = holdout_il(Encoder, data, IDS[:60], FINE, **options)
    calls, stops = 0, 0

    def often(steps: int) -> bool:
        nonlocal calls
        calls += 1
        return calls % 5 == 0

    while True:
        try:
            store = holdout_il(
                Encoder, data, IDS[:60], FINE, folder=tmp_path, on_step=often, **options
            )
            break
        except Stopped:
            stops += 1
    assert stops > 2
    assert torch.equal(store.il.nan_to_num(), wanted.il.nan_to_num())
    assert store.info["best_epoch"] == wanted.info["best_epoch"]
    for key, name in (("forward", "encoded"), ("optimizer", "sgd"), ("collate_fn", "padded")):
        assert store.info[key] == f"{__name__}.{name}"
    other = IndexedDataset(Texts(), collate_fn=lambda rows: padded(rows))
    work: tuple[Any, ...] = Encoder, data, IDS[:60], FINE
    changed: dict[str, Any] = {"optimizer": None, "forward": lambda m, batch: encoded(m, batch)}
    for what, function in changed.items():
        with pytest.raises(ValueError, match=f"belongs to a run with another {what}"):
            holdout_il(*work, folder=tmp_path, **options | {what: function})
    with pytest.raises(ValueError, match="belongs to a run with another collate_fn"):
        holdout_il(Encoder, other, *work[2:], folder=tmp_path, **options)


def test_losses_near_chance_are_named() -> None:
    y = torch.arange(200) % 10 // 7  # 70 % and 30 %: 0.611 nats
    chance = 0.6108643
    for share, warns in ((0.94, False), (0.96, True), (1.5, True)):
        il = torch.full((200,), share * chance)
        il[:50] = torch.nan
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warn_near_chance("here", il, y)
        assert len(found) == warns
    said = f"{found[0].message}"
    assert "here: the mean irreducible loss is 0.916 nats, and guessing" in said
    assert "labels has 0.611: such losses are mostly noise" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_near_chance("one class", torch.ones(200), torch.zeros(200).long())
        warn_near_chance("few", torch.ones(99), torch.arange(99) % 2)
    data, blind = IndexedDataset(TensorDataset(X, Y)), nn.Linear(4, 2)
    nn.init.zeros_(blind.weight)
    with pytest.warns(UserWarning, match="pretrained_il: the mean irreducible loss is"):
        pretrained_il(blind, data)
    with pytest.warns(UserWarning, match="crossfit_il: the mean irreducible loss is"):
        crossfit_il(lambda s: mlp(4, [8], 2, seed=s), data, 2, ILRecipe(epochs=1, lr=1e-9))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    data, model = texts().dataset(), Encoder()
    both: dict[str, Any] = {"forward": encoded, "loss_fn": encoded_losses}
    config = TrainConfig(steps=2, large_batch=16, batch=4)
    run: tuple[Any, ...] = model, data, IDS, data, config, tmp_path
    selector = Selector(method="loss", k=4)
    parts: dict[str, Any] = {"train": Texts(), "test": Texts(), "make_model": Encoder}
    for call, message in (
        (lambda: pretrained_il(model, data, **both), "pretrained_il: give forward= or loss_fn="),
        (lambda: score_examples(model, data, IDS, **both), "score_examples: give forward= or"),
        (
            lambda: pretrained_il(model, data, forward=lambda m, b: m(**b)),
            "unexpected keyword argument 'labels'",
        ),
        (
            lambda: pretrained_il(model, data, forward=lambda m, b: encoded(m, b).mean(1)),
            r"forward= must return logits \(32, C\), got float32 tensor \(32,\)",
        ),
        (
            lambda: pretrained_il(model, IndexedDataset(Texts(), collate_fn=list)),
            "what collate_fn returns must be .x, y. pairs or dicts, got list of 32 elements",
        ),
        (
            lambda: pretrained_il(
                model, IndexedDataset(Texts(), collate_fn=lambda rows: {"ids": rows})
            ),
            "what collate_fn returns must not have a key 'ids' already",
        ),
        (
            lambda: Trainer(*run, name="", selector=selector, forward=encoded),
            "forward= must be the same for the Trainer and for its Selector",
        ),
        (
            lambda: Task(name="t", **parts, **both),
            "Task t: give forward or loss_fn",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


ROWS = [{"a": row, "target": row.sum()} for row in X]


def to_target(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch["a"]).squeeze(1) - batch["target"]).square()


def stacked(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in ("a", "target")}


def test_every_factory_is_a_function_of_its_seed(tmp_path: Path) -> None:
    data = IndexedDataset(ROWS)

    def il(**more: Any) -> ILStore:
        torch.rand(int(torch.randint(9, ())))  # as after another start of the program
        return crossfit_il(lambda _: nn.Linear(4, 1), data, 2, RECIPE, loss_fn=to_target, **more)

    whole, steps = il(), 0
    before = torch.get_rng_state()

    def stop(made: int) -> bool:
        nonlocal steps
        steps += made
        return steps == 10  # in the second fold

    with pytest.raises(Stopped):
        il(folder=tmp_path, on_step=stop)
    assert torch.equal(il(folder=tmp_path).il, whole.il)
    torch.set_rng_state(before)
    task = Task(name="plain", train=ROWS, test=ROWS, make_model=Encoder, loss_fn=to_target)
    assert task.model(0) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_collate_fn_that_sorts_is_refused() -> None:
    model = nn.Linear(4, 1)
    for order in (
        lambda rows: sorted(rows, key=lambda row: float(row["target"])),
        lambda rows: rows[::-1],
    ):
        data = IndexedDataset(ROWS, collate_fn=lambda rows, order=order: stacked(order(rows)))
        with pytest.raises(ValueError, match="collate_fn gives the examples in another order"):
            pretrained_il(model, data, loss_fn=to_target)
    data = IndexedDataset(ROWS, collate_fn=stacked)
    assert pretrained_il(model, data, loss_fn=to_target).known.all()

    def mixing(model: nn.Module, batch: Any) -> Tensor:
        return to_target(model, batch) - to_target(model, batch).mean()

    with pytest.warns(UserWarning, match="depends on the others of its batch"):
        pretrained_il(model, data, loss_fn=mixing)


def test_gradients_of_nan_are_named() -> None:
    rows = [{**row, "none": torch.tensor(i % 4 == 0)} for i, row in enumerate(ROWS)]

    def naive(model: nn.Module, batch: Any) -> Tensor:
        target = torch.where(batch["none"], torch.nan, batch["target"])
        return to_target(model, {**batch, "target": target})

    def right(model: nn.Module, batch: Any) -> Tensor:
        return torch.where(batch["none"], torch.nan, to_target(model, batch))

    data, frequent = IndexedDataset(rows), replace(RECIPE, batch_size=2, evals_per_epoch=20)
    for recipe in (RECIPE, frequent):
        with pytest.raises(FloatingPointError, match=r"leave NaN out before the arithmetic"):
            crossfit_il(lambda _: nn.Linear(4, 1), data, 2, recipe, loss_fn=naive)
        store = crossfit_il(lambda _: nn.Linear(4, 1), data, 2, recipe, loss_fn=right)
        assert int(store.known.sum()) == N * 3 // 4


class Pair(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), 1


def wrong(kind: str = "") -> Task:
    """By `--task`: what users give by mistake."""
    rows: Any = TensorDataset(X, Y)
    if kind == "three":
        rows = [(x, y, 1.0) for x, y in zip(X, Y, strict=True)]
    elif kind == "names":
        rows = [{"feats": x, "name": "n", "label": y} for x, y in zip(X, Y, strict=True)]
    parts: dict[str, Any] = {"train": rows, "test": rows, "labels": Y, "test_labels": Y}
    model = Pair if kind == "pair" else nn.Linear
    return Task(name="wrong", **parts, make_model=lambda _: model(4, 2))


def test_mistakes_are_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"--task={__name__}:wrong"
    for kind, said in (
        ("pair", "the model returned tuple, wanted .*; give forward= to pick them"),
        ("three", r"must be \(x, y\) pairs or dicts"),
        ("names", "cannot take the batch .* with the keys 'feats', 'name', .*; give forward="),
    ):
        out = f"--out={tmp_path / kind}"
        assert main(["il", "compute", given, f"--task.kind={kind}", out]) == 2
        found = capsys.readouterr().err
        assert re.search(f"rho-ext: error: .*{said}", found), found
        assert "Selector" not in found


def test_a_rate_may_rise_to_the_last_step() -> None:
    recipe = replace(RECIPE, warmup=0.999)
    data = IndexedDataset(TensorDataset(X, Y))
    assert holdout_il(lambda _: nn.Linear(4, 2), data, IDS[:16], recipe).known.any()
