"""Errors are raised when an object is made, by name, and not hours later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    History,
    ILRecipe,
    IndexedDataset,
    OnlineModel,
    Scoring,
    Selector,
    TrainConfig,
    crossfit_il,
    holdout_il,
    pretrained_il,
)
from rho_train.il import train_il
from rho_train.methods.context import ScoringContext, Selected

from .ways import N, make_trainer

X = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
IL = torch.rand(N)


def data(labels: Tensor = Y) -> IndexedDataset:
    return IndexedDataset(TensorDataset(X, labels))


def changed(tensor: Tensor, index: int, value: float) -> Tensor:
    return tensor.index_fill(0, torch.tensor([index]), value)


class Rows(nn.Linear):
    """Returns one number a row instead of logits."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[:, 0]


def used() -> Selector:
    selector = Selector(k=8, method="loss")
    batch = data().collate(data().__getitems__(range(32)))
    selector(nn.Linear(5, 3), batch)
    return selector


def WARMUP(step: int) -> bool:
    return step < 20


def of_five_classes(context: ScoringContext) -> Selected:
    raise ValueError(f"made for 5 classes, got {context.logits.shape[1]}")


TRAINER: list[tuple[Callable[[], dict[str, Any]], type[Exception], str]] = [
    (lambda: {"train_ids": list(range(N))}, TypeError, "train_ids must be an int64.*got list"),
    (lambda: {"train_ids": Y == 0}, TypeError, r"got torch.bool \(200,\); pass mask\.nonzero"),
    (lambda: {"train_ids": torch.arange(0)}, ValueError, "train_ids must have at least one id"),
    (lambda: {"train_ids": torch.tensor([0, N])}, IndexError, r"lie in \[0, 200\).*got 200"),
    (lambda: {"train_ids": torch.arange(-1, 50)}, IndexError, r"lie in \[0, 200\).*got -1"),
    (lambda: {"train_ids": torch.arange(N) // 2}, ValueError, "must not repeat, got 100 repeats"),
    (
        lambda: {"train_ids": torch.arange(31)},
        ValueError,
        r"batch must lie in \[1, 31\], the train_ids, got 32",
    ),
    (
        lambda: {"flags": {"noisy": Y[1:] == 0}},
        ValueError,
        r"flags must be bool \(200,\), .* got 'noisy': bool tensor \(199,\)",
    ),
    (lambda: {"eval_set": TensorDataset(X, Y.float())}, ValueError, "class indices.*float32"),
    (
        lambda: {"eval_set": TensorDataset(X, Y + 1)},
        IndexError,
        r"eval_set: labels must lie in \[0, 3\).*is 3 of id 2",
    ),
    (lambda: {"eval_set": TensorDataset(X[:0], Y[:0])}, ValueError, "eval_set must have at least"),
    (lambda: {"eval_set": iter([])}, TypeError, "dataset must be map-style"),
    (
        lambda: {"eval_set": [(x, 0) for x in X]},
        ValueError,
        "list has no attribute labels or targets; pass the labels",
    ),
    (
        lambda: {"dataset": data(changed(Y, 150, 3))},
        IndexError,
        r"labels must lie in \[0, 3\), the classes, or be -100; got 1 others, the first is 3",
    ),
    (lambda: {"dataset": data(Y * 0 - 100)}, ValueError, "all 200 labels are ignore_index = -100"),
    (
        lambda: {"dataset": IndexedDataset(TensorDataset(X, Y), labels=Y.roll(1))},
        ValueError,
        "labels that IndexedDataset shows are not those of its examples",
    ),
    (
        lambda: {"dataset": IndexedDataset([{"x": x} for x in X], labels=Y)},
        ValueError,
        "Trainer: the batch has no labels: got dict with the keys 'x', 'ids'",
    ),
    (lambda: {"model": nn.Linear(4, 3)}, ValueError, "Trainer: the model cannot take the .*32x5"),
    (
        lambda: {"model": Rows(5, 3)},
        ValueError,
        r"must return logits \(32, C\).*got float32 tensor \(32,\)",
    ),
    (lambda: {"selector": used()}, ValueError, "has made 1 selections in another run"),
    (
        lambda: {"selector": Selector(il=IL[1:], k=8)},
        ValueError,
        "il has 199 rows, the data set has 200 examples",
    ),
    (
        lambda: {"selector": Selector(il=IL * torch.nan, k=8)},
        ValueError,
        "all 200 train_ids is unknown",
    ),
    (
        lambda: {"selector": Selector(il=changed(IL, 7, -torch.inf), k=8)},
        ValueError,
        "il must be finite or NaN .*infinite value at id 7",
    ),
    (
        lambda: {"selector": Selector(k=8, method="loss", history=History(199))},
        ValueError,
        "History has 199 ids, the data set has 200",
    ),
    (
        lambda: {"selector": Selector(il=OnlineModel(nn.Linear(5, 2)), k=8)},
        IndexError,
        r"labels must be in \[0, 2\)",
    ),
    # Only at step 20 would the method itself be asked.
    (
        lambda: {"selector": Selector(k=8, method=of_five_classes, phases=WARMUP)},
        ValueError,
        "made for 5 classes, got 3",
    ),
    (
        lambda: {"selector": Selector(k=8, method="loss", phases=lambda step: step < 99)},
        ValueError,
        "phases are uniform in all 30 steps",
    ),
    # Only in the last third is it no share.
    (
        lambda: {
            "selector": Selector(ratio=lambda step: 0.25 if step < 20 else 1.5, method="loss")
        },
        ValueError,
        r"ratio must lie in \(0, 1\], got 1.5 at step 20; a number is k=",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), TRAINER)
def test_a_run_that_cannot_end_well_does_not_start(
    tmp_path: Path, options: Callable[[], dict[str, Any]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_trainer(tmp_path / "run", **options())
    assert not (tmp_path / "run").exists()


def test_unknown_irreducible_losses_are_counted_when_the_run_is_made(tmp_path: Path) -> None:
    selector = Selector(il=IL.index_fill(0, torch.arange(150), torch.nan), k=8)
    with pytest.warns(UserWarning, match="of 60 of 110 train_ids is unknown.*never selected"):
        make_trainer(tmp_path, selector=selector, train_ids=torch.arange(90, N))


def test_looking_ahead_leaves_no_trace(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    proxy = OnlineModel(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)))
    state = torch.get_rng_state()
    kept = {name: value.clone() for name, value in proxy.model.state_dict().items()}
    for scorer in (None, proxy):
        scoring = Scoring(train_mode=True)
        selector = Selector(k=8, method="loss", scoring=scoring, scorer=scorer, phases=WARMUP)
        trainer = make_trainer(tmp_path / str(scorer is None), model=model, selector=selector)
        assert (selector.steps, selector.scored, selector.seconds, trainer.step) == (0, 0, 0.0, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, kept[name]) for name, value in proxy.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, fix in (("file", "not a file"), ("file/run", "parent is a folder")):
        path = tmp_path / folder
        with pytest.raises(OSError, match=f"Trainer: cannot write to the folder {path}.*{fix}"):
            make_trainer(path)
        with pytest.raises(OSError, match=f"train_il: cannot write to the folder {path}.*{fix}"):
            train_il(nn.Linear(5, 3), data(), FIRST, LAST, ILRecipe(epochs=1), folder=path)
        with pytest.raises(OSError, match=f"pretrained_il: cannot write to the folder {path}"):
            pretrained_il(nn.Linear(5, 3), data(), folder=path)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TrainConfig(steps=1e4), TypeError, "TrainConfig: steps must be an int, got 1000"),  # type: ignore[arg-type]
        (lambda: TrainConfig(steps=0), ValueError, "steps must be at least 1, got 0"),
        (
            lambda: TrainConfig(batch=64, large_batch=32),
            ValueError,
            "must not be larger than large",
        ),
        (lambda: TrainConfig(gce=1.5), ValueError, r"gce must lie in \[0, 1\], got 1.5"),
        (lambda: TrainConfig(gce=0.3, label_smoothing=0.1), ValueError, "give one of label_smooth"),
        (lambda: TrainConfig(lr=0.0), ValueError, "lr must be positive"),
        (lambda: TrainConfig(large_batch=0), ValueError, "large_batch must be at least 1, got 0"),
        (lambda: TrainConfig(workers=-1), ValueError, "workers must be at least 0, got -1"),
        (lambda: TrainConfig(lr=torch.inf), ValueError, "lr must be positive and finite, got inf"),
        (lambda: TrainConfig(weight_decay=-1.0), ValueError, "weight_decay must be finite and at"),
        (lambda: TrainConfig(schedule="step"), ValueError, "TrainConfig: schedule must be one of"),  # type: ignore[arg-type]
        (lambda: ILRecipe(schedule="step"), ValueError, "ILRecipe: schedule must be one of"),  # type: ignore[arg-type]
        (lambda: ILRecipe(epochs=1.5), TypeError, "ILRecipe: epochs must be an int, got 1.5"),  # type: ignore[arg-type]
        (lambda: ILRecipe(epochs=0), ValueError, "ILRecipe: epochs must be at least 1, got 0"),
        (lambda: ILRecipe(lr=torch.nan), ValueError, "ILRecipe: lr must be positive and finite"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


FIRST, LAST = torch.arange(50), torch.arange(50, N)
SAME = nn.Linear(5, 3)


def make_model(seed: int) -> nn.Module:
    return nn.Linear(5, 3)


def by_holdout(ids: Any = FIRST, labels: Tensor = Y) -> object:
    return holdout_il(make_model, data(labels), ids, ILRecipe(epochs=1000))


@pytest.mark.parametrize(
    ("compute", "error", "message"),
    [
        (lambda: by_holdout([1, 2]), TypeError, "holdout must be an int64 .* got list"),
        (lambda: by_holdout(Y == 0), TypeError, r"got torch.bool .* pass mask\.nonzero"),
        (lambda: by_holdout(torch.tensor([N])), IndexError, r"holdout must lie in \[0, 200\)"),
        (lambda: by_holdout(torch.arange(0)), ValueError, "holdout must have at least one id"),
        (lambda: by_holdout(FIRST // 2), ValueError, "holdout must not repeat, got 25 repeats"),
        (
            lambda: train_il(SAME, data(), FIRST, torch.arange(0), ILRecipe(epochs=1000)),
            ValueError,
            "train_il: target_ids must have at least one id",
        ),
        (lambda: by_holdout(labels=changed(Y, 3, 3)), IndexError, r"\[0, 3\).* 3 of id 3"),
        (lambda: by_holdout(labels=changed(Y, 199, 9)), IndexError, r"\[0, 3\).* 9 of id 199"),
        (
            lambda: by_holdout(labels=torch.where(torch.arange(N) < 50, Y, -100)),
            ValueError,
            "train_il: all 150 labels are ignore_index",
        ),
        (
            lambda: crossfit_il(lambda seed: SAME, data(), 2, ILRecipe(epochs=1)),
            ValueError,
            "make_model must build a new model for every fold, got one twice",
        ),
        (
            lambda: crossfit_il(SAME, data(), 2, ILRecipe(epochs=1)),  # type: ignore[arg-type]
            ValueError,
            "crossfit_il: make_model must be a function that builds a model .* a Linear; pass lam",
        ),
        (
            lambda: holdout_il(lambda: SAME, data(), FIRST, ILRecipe(epochs=1)),  # type: ignore[arg-type]
            ValueError,
            r"holdout_il: make_model must be .* from a seed, got a function \(too many .*\); pass",
        ),
        (
            lambda: crossfit_il(lambda seed: None, data(), 2, ILRecipe(epochs=1)),  # type: ignore[arg-type,return-value]
            ValueError,
            "make_model must return an nn.Module, got NoneType; return the model",
        ),
        (
            lambda: pretrained_il(nn.Linear(5, 2), data()),
            IndexError,
            r"pretrained_il: labels must lie in \[0, 2\).*66 others, the first is 2 of id 2",
        ),
    ],
)
def test_irreducible_losses_that_cannot_be_computed_are_not_begun(
    compute: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compute()
