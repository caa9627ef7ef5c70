"""Options of scoring: what they keep, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    Batch,
    History,
    ILStore,
    IndexedDataset,
    OnlineModel,
    Scoring,
    Selector,
    fingerprint,
)
from rho_train.methods.registry import needs_of
from rho_train.training_step import adamw

from .ways import METHODS

N, CLASSES = 40, 5
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(N, CLASSES, generator=GENERATOR) * 3
LABELS = torch.randint(CLASSES, (N,), generator=GENERATOR)
LABELS[[3, 9]] = -100
IDS = torch.randperm(100, generator=GENERATOR)[:N]
TABLE = torch.rand(100, generator=GENERATOR)
TABLE[IDS[5]] = torch.nan
BATCH = Batch(LOGITS, LABELS, IDS)


class Widths(nn.Module):
    """Returns its inputs as logits, and remembers how many rows it saw at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x


@pytest.mark.filterwarnings("ignore:Selector. examples without a usable score")
@pytest.mark.parametrize("il", ["table", "online"])
def test_micro_batches_select_the_same_with_fewer_rows_at_a_time(il: str) -> None:
    def select(name: str, scoring: Scoring) -> tuple[Selector, Widths]:
        source = TABLE if il == "table" else OnlineModel(nn.Linear(CLASSES, CLASSES, bias=False))
        if isinstance(source, OnlineModel):
            nn.init.eye_(source.model.weight)
        selector, model = Selector(il=source, k=10, method=name, scoring=scoring, seed=4), Widths()
        selector(model, BATCH)
        return selector, model

    for name in METHODS:
        if il == "online" and "logits" in needs_of(name):
            continue
        whole, model = select(name, Scoring())
        parts, by_parts = select(name, Scoring(micro_batch=16))
        assert whole.last is not None
        assert parts.last is not None
        # A product of matrices rounds by its shape, so losses of the online model may differ.
        exact = il == "table"
        for field in ("ids", "losses", "indices", "values", "weights"):
            one, two = getattr(whole.last, field), getattr(parts.last, field)
            if isinstance(one, Tensor):
                torch.testing.assert_close(one, two, equal_nan=True, **_tolerance(exact))
            else:
                assert one is two is None, name
        assert parts.invalid == whole.invalid, name
        if name != "uniform":
            assert model.seen == [40, 10], name
            assert by_parts.seen == [16, 16, 8, 10], name


def _tolerance(exact: bool) -> dict[str, float]:
    return {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-5, "atol": 1e-6}


def test_a_history_moves_outside_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # Columns that are made in inference mode could not be counted in afterwards.
    def to(self: History, device: torch.device) -> None:
        assert not torch.is_inference_mode_enabled()
        moved.append(device)

    moved: list[torch.device] = []
    monkeypatch.setattr(History, "to", to)
    Selector(k=4, method="loss", history=History(100))(Widths(), BATCH)
    assert moved


def test_a_compiled_scorer_is_compiled_once_and_learns_with_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes: list[str | None] = []
    real: Any = torch.compile

    def count(module: nn.Module, mode: str | None) -> Any:
        modes.append(mode)
        return real(module, backend="eager")

    monkeypatch.setattr(torch, "compile", count)
    model = nn.Linear(CLASSES, CLASSES)
    plain = Selector(k=4, method="loss")
    compiled = Selector(k=4, method="loss", scoring=Scoring(compile="reduce-overhead"))
    for _ in range(3):
        one, two = plain(model, BATCH), compiled(model, BATCH)
        assert torch.equal(one.ids, two.ids)
        with torch.no_grad():
            model.weight.normal_(generator=GENERATOR)
    assert modes == ["reduce-overhead"]


TRAIN_MODE = Scoring(train_mode=True)


def test_training_mode_equals_the_algorithm_of_the_paper_by_hand() -> None:
    def make() -> nn.Module:
        torch.manual_seed(1)
        layers = nn.Linear(CLASSES, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, CLASSES)
        return nn.Sequential(*layers)

    il = TABLE.nan_to_num()
    x, y = torch.randn(4, N, CLASSES, generator=GENERATOR), LABELS.clamp_min(0)
    ours, selector = make(), Selector(il=il, k=8, scoring=TRAIN_MODE)
    optimizer = adamw(ours, lr=1e-3, weight_decay=0.01)
    for step in range(4):
        batch = selector(ours, Batch(x[step], y, IDS))
        loss = F.cross_entropy(ours(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = torch.get_rng_state()

    model = make()
    optimizer = adamw(model, lr=1e-3, weight_decay=0.01)
    for step in range(4):
        with torch.no_grad():
            losses = F.cross_entropy(model(x[step]), y, reduction="none")
        rows = (losses - il[IDS]).argsort(descending=True)[:8].sort().values
        loss = F.cross_entropy(model(x[step][rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(
        torch.equal(one, two)
        for one, two in zip(ours.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)
    # Twice a step: over the large batch and over the small one.
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 8


def test_training_mode_leaves_a_frozen_part_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm1d(CLASSES), nn.BatchNorm1d(CLASSES))
    model[1].eval()
    Selector(il=TABLE.nan_to_num(), k=8, scoring=TRAIN_MODE)(model, BATCH)
    assert [int(part.num_batches_tracked) for part in model] == [1, 0]  # type: ignore[arg-type]
    model.eval()
    with pytest.warns(UserWarning, match="the model is in eval mode; before training call"):
        Selector(il=TABLE.nan_to_num(), k=8, scoring=TRAIN_MODE)(model, BATCH)
    assert [int(part.num_batches_tracked) for part in model] == [2, 1]  # type: ignore[arg-type]
    assert not any(part.training for part in model)


def test_the_host_reads_seldom_with_check_every() -> None:
    often = Selector(il=TABLE, k=12)
    seldom = Selector(il=TABLE, k=12, check_every=3)
    with pytest.warns(UserWarning, match="irreducible loss of 1 of 40 examples is unknown"):
        often(Widths(), BATCH)
    for _ in range(2):
        assert torch.equal(seldom(Widths(), BATCH).ids, often(Widths(), BATCH).ids)
    assert seldom.invalid == 0
    with pytest.warns(UserWarning, match="unknown"):
        seldom(Widths(), BATCH)
    assert seldom.invalid == 3
    # Two examples are left and twelve are wanted: the best one fills up.
    few = BATCH._replace(y=torch.where(torch.arange(N) < 2, LABELS, -100))
    ids = seldom(Widths(), few).ids
    best, other = often(Widths(), few).ids, seldom.last
    assert other is not None
    assert sorted(set(ids.tolist())) == sorted(best.tolist())
    assert (ids == IDS[other.indices[0]]).sum() == 11
    # None is left: said at the next check.
    none = BATCH._replace(y=torch.full((N,), -100))
    seldom(Widths(), none)
    # The batch of the check is not the one that had none.
    with pytest.raises(FloatingPointError, match="1 large batches since the last check"):
        seldom(Widths(), BATCH)
    seldom.steps = 6
    seldom(Widths(), none)
    with pytest.raises(FloatingPointError, match="1 large batches since the last check"):
        seldom.state_dict()
    seldom(Widths(), BATCH)
    assert seldom.state_dict()["invalid"] == seldom.invalid == 5


def test_shards_select_as_the_store_does(tmp_path: Path) -> None:
    data = IndexedDataset(TensorDataset(torch.zeros(100, 2), torch.zeros(100).long()))
    store = ILStore(TABLE.nan_to_num(), fingerprint(data))
    store.save(tmp_path / "il", rows_a_file=17)
    shards = ILStore.load(tmp_path / "il", data)
    assert shards.table is None
    one, two = Selector(il=store, k=7), Selector(il=shards, k=7)
    assert torch.equal(one(Widths(), BATCH).ids, two(Widths(), BATCH).ids)
    assert one.last is not None
    assert two.last is not None
    assert torch.equal(one.last.values, two.last.values)
    ILStore(TABLE.nan_to_num() + 1, fingerprint(data)).save(tmp_path / "other", rows_a_file=17)
    other = Selector(il=ILStore.load(tmp_path / "other", data), k=7)
    assert two.identity() == Selector(il=shards, k=7).identity() != other.identity()


def test_history_counts_and_keeps_the_last_losses() -> None:
    history = History(6)
    for method, rows, loss in (
        ("loss", [0, 1, 2], [1.0, 2.0, 0.5]),
        ("loss", [2, 3, 0], [3.0, 1.5, 0.25]),
        ("uniform", [4, 3], [9.0, 9.0]),  # which scores nothing
    ):
        # Of two classes with logits (0, z), label 0: the loss is log(1 + e^z).
        z = torch.tensor(loss).expm1().log()
        batch = Batch(torch.stack([torch.zeros_like(z), z], 1), z.mul(0).long(), torch.tensor(rows))
        selector = Selector(k=1, method=method, history=history)
        selector.steps = int(history.step.max()) + 1
        last = selector(Widths(), batch).ids
    nan = torch.nan
    torch.testing.assert_close(
        history.loss, torch.tensor([0.25, 2.0, 3.0, 1.5, nan, nan]), equal_nan=True
    )
    assert history.step.tolist() == [1, 0, 1, 1, -1, -1]
    assert history.seen.tolist() == [2, 1, 2, 2, 1, 0]
    assert history.selected.tolist() == [0, 1, 1, int(last == 3), int(last == 4), 0]


def test_history_round_trip() -> None:
    selector = Selector(k=3, method="loss", history=History(100))
    selector(Widths(), BATCH)
    other = Selector(k=3, method="loss", history=History(100))
    other.load_state_dict(selector.state_dict())
    for one, two in zip(_columns(selector), _columns(other), strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=0.0, equal_nan=True)
    with pytest.raises(ValueError, match="the state has 100 ids, this history 99"):
        History(99).load_state_dict(selector.state_dict()["history"])


def _columns(selector: Selector) -> list[Tensor]:
    assert selector.history is not None
    return list(selector.history.state_dict().values())


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: Scoring(micro_batch=0), ValueError, "micro_batch must be at least 1, got 0"),
    (lambda: Scoring(micro_batch=0.5), TypeError, "micro_batch must be an int, got 0.5"),
    (lambda: Scoring(micro_batch=8, train_mode=True), ValueError, "train_mode.*micro_batch"),
    (lambda: History(0), ValueError, "n must be at least 1, got 0"),
    (lambda: History(2.0), TypeError, "n must be an int.*got 2.0"),
    (lambda: Selector(k=1, method="loss", history={}), TypeError, "History, got {}"),
    (
        lambda: Selector(k=1, method="loss", history=History(39))(Widths(), BATCH),
        IndexError,
        r"History: ids must lie in \[0, 39\), got \d+; make it for the whole data set",
    ),
    (
        lambda: Selector(k=1, method="loss", check_every=0),
        ValueError,
        "check_every must be at least 1, got 0",
    ),
]


def test_what_cannot_work_is_refused() -> None:
    for make, error, message in REFUSED:
        with pytest.raises(error, match=message):
            make()
