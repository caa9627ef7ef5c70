"""Lanes learn what each would alone, and the comparison counts and selects as it says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rho_ext
from experiments import lanes, rival_sets, rivals, rivals_page
from experiments.lanes import AGREEMENT, BATCH, LARGE_BATCH, Data, Lanes, Method, crossfit, train
from experiments.noise import weak_labels
from keep import read_csv
from rho_train.tasks import mlp


def small(lanes_: int = 2, n: int = 448) -> Data:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n + 100, 6, generator=draw)
    y = (x[:, :3].argmax(1)).repeat(lanes_, 1)
    noisy = y.clone()
    hit = torch.rand(y.shape, generator=draw) < 0.3
    noisy[hit] = torch.randint(3, (int(hit.sum()),), generator=draw)
    return Data(
        *(x[:n], noisy[:, :n], noisy[:, :n] != y[:, :n]),
        *(x[n:], noisy[:, n:], x[n:], y[0, n:], n),
    )


def plain(data: Data, lane: int, seed: int, lr: float, steps: int, select: bool = False) -> Tensor:
    """Train one model as one would, and return its logits on the test set."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 3))
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    draw = torch.Generator().manual_seed(seed)
    step, size = 0, LARGE_BATCH if select else BATCH
    while True:
        order = torch.randperm(len(data.x), generator=draw)
        for ids in order.split(size)[: len(order) // size]:
            if step == steps:
                return model(data.test_x)
            if select:
                logits, labels = model(data.x[ids]).detach(), data.y[lane][ids]
                ids = ids[rho_ext.select(logits, labels, None, BATCH, method="loss")[1]]
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            F.cross_entropy(model(data.x[ids]), data.y[lane][ids]).backward()
            optimizer.step()
            step += 1


def test_a_lane_learns_what_it_would_alone() -> None:
    data, seeds, rates = small(), (3, 4), (0.01, 0.002)
    for method, cost in (
        (Method("uniform"), 3 * BATCH),
        (Method("loss", select="loss"), 3 * BATCH + LARGE_BATCH),
    ):
        found = train(method, data, seeds, rates, 20 * cost)
        assert found.cost == [20 * cost] * 2
        logits = lanes.logits_of(found.lanes, data.test_x)
        for lane, (seed, lr) in enumerate(zip(seeds, rates, strict=True)):
            alone = plain(data, lane, seed, lr, 20, bool(method.select))
            torch.testing.assert_close(logits[lane], alone, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found.lanes.models[lane](data.test_x), logits[lane])
    with pytest.raises(AssertionError):  # another rate is another model
        torch.testing.assert_close(logits[0], plain(data, 0, 3, 0.002, 20), rtol=1e-3, atol=1e-4)


def test_a_rate_of_zero_changes_nothing() -> None:
    before = [mlp(4, [8], 2, seed=seed) for seed in (0, 1)]
    model = Lanes(before)
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    model.step(model(x).square().sum(), (0.0, 0.1))
    for lane, (old, now) in enumerate(zip(before, model.models, strict=True)):
        pairs = zip(old.parameters(), now.parameters(), strict=True)
        same = [a.equal(b) for a, b in pairs]
        assert same == [lane == 0] * 4


def test_methods_visit_what_they_say_and_keep_to_the_budget() -> None:
    data, seeds = small(), (0, 1)
    il, cost = crossfit(data, seeds, (0.01, 0.01), 2.0)
    n = len(data.x)
    assert (il.shape, cost) == ((2, n), 7 * n)
    # Wrong labels have the higher IL: each model scores the half that it did not see.
    assert float(il[data.wrong].mean()) > float(il[~data.wrong].mean()) + 0.5
    wrong = {}
    for method in rivals.METHODS:
        budget = 3.0 * n * 8
        torch.manual_seed(0)
        shares = (0.7, 0.7)
        known = il if method.il else None
        found = train(method, data, seeds, (0.01, 0.01), budget, shares=shares, il=known)
        per_step = 3 * BATCH + (LARGE_BATCH if method.select else 0)
        if method.visits in AGREEMENT:  # what it scores again depends on what it learnt
            assert all(budget - 2 * per_step - n < cost <= budget for cost in found.cost)
        else:
            assert found.cost == [budget // per_step * per_step] * 2, method
        wrong[method.name] = sum(found.wrong) / 2
    assert wrong["true labels"] == 0
    uniform = wrong["uniform"]
    assert uniform == pytest.approx(float(data.wrong.float().mean()), abs=0.03)
    assert wrong["highest loss"] > uniform + 0.1
    assert wrong["RHO-LOSS, IL free"] < wrong["highest loss"] - 0.1
    by_il = "agreement by loss - IL, IL free"
    for name in ("agreement", "agreement by loss", by_il, "filter, IL free"):
        assert wrong[name] < uniform - 0.05, name
    assert wrong["agreement by IL - loss, IL free"] > wrong[by_il] + 0.05


def test_the_page_chooses_by_validation_and_pairs_seeds(tmp_path: Path) -> None:
    def row(method: str, passes: int, test: str, validation: str) -> dict[str, str]:
        known = {"set": "ocr", "noise": "40", "method": method, "passes": f"{passes}"}
        return {**known, "test": test, "validation": validation}

    rows = [
        *(row("uniform", 8, "70 72", "50 50"), row("uniform", 16, "60 60", "49 49")),
        *(row("GCE", 8, "80 80", "40 40"), row("agreement", 16, "73 76 90", "1 1 1")),
    ]
    ends = rivals_page.Ends(("ocr", "40"), rows)
    assert ends.best("uniform") is rows[0]
    assert ends.best("best uniform") is rows[0]
    assert ends.best("agreement", most=8) is None
    assert ends.at("uniform", 16) is rows[1]
    above = ends.above("agreement", "best uniform")
    assert above is not None
    assert (above.n, above.points) == (2, "+3.5 ± 0.5")
    assert ends.above("agreement", "ELR") is None


def test_weak_labels_err_where_classes_look_alike() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 4, generator=draw)
    y = (x[:, 0] > 0).long()
    found = weak_labels(x, y, 2, 0.6, seed=1)
    assert found.equal(weak_labels(x, y, 2, 0.6, seed=1))
    wrong = found != y
    assert 0.01 < float(wrong.float().mean()) < 0.3
    assert float(x[wrong, 0].abs().mean()) < 0.6 * float(x[~wrong, 0].abs().mean())


def test_a_stopped_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "N": 1200,
        "VALIDATION": 100,
        "SEEDS": (0, 1),
        "TUNED_AT": 2,
    }
    options |= {"GRID": (0.001, 0.003, 0.01), "SHARES": (0.6, 0.9), "IL_EPOCHS": (1, 2)}
    for name, value in options.items():
        monkeypatch.setattr(rival_sets if name in ("N", "VALIDATION") else rivals, name, value)
    rival_sets.source.cache_clear()
    origin: dict[str, object] = {"command": "rivals.py"}
    methods = [rivals.METHODS[0], rivals.METHODS[7]]

    def go() -> list[list[dict[str, str]]]:
        comparison = rivals.Comparison(
            rival_sets.Setting("web, distinct", "40"), tmp_path, tmp_path, origin
        )
        for method in methods:
            for passes in (1, 2):
                comparison.run(method, passes)
        return [read_csv(tmp_path / f"{name}.csv") for name in ("runs", "rates")]

    first = go()
    assert go() == first
    runs, rates = first
    assert [(row["method"], row["passes"]) for row in runs] == [
        *(("uniform", "1"), ("uniform", "2"), ("filter", "2"))
    ]
    assert all(len(row["test"].split()) == 2 for row in runs)
    assert float(runs[2]["cost"]) + float(runs[2]["il_cost"]) <= 2
    assert float(runs[2]["il_cost"]) == pytest.approx(0.6, abs=0.05)
    tried = {(row["share"], float(row["lr"])) for row in rates if row["method"] == "filter"}
    assert {("0.6", 0.003), ("0.9", 0.003)} < tried
    best = max(
        (row for row in rates if row["method"] == "filter"),
        key=lambda row: float(row["validation"]),
    )
    assert (runs[2]["share"], runs[2]["lr"]) == (best["share"], best["lr"])
    # The best rate is not at the edge of what was tried, or the grid was widened twice.
    near = sorted(lr for share, lr in tried if share == best["share"])
    assert len(near) == 5 or near[0] < float(best["lr"]) < near[-1]
    rival_sets.source.cache_clear()
