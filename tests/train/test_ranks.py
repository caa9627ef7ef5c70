"""Selection by several processes: what each keeps for itself, and what they keep together."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rho_train import History, OnlineModel, Scoring, Selector
from rho_train.schedules import UniformPhases

from . import ranks_program as program

WORLD = 2
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two processes found."""
    out = tmp_path_factory.mktemp("ranks")
    # Away from the source tree, which holds the packages without the library.
    path = shutil.copy(program.__file__, out)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORLD}"]
    process = subprocess.run(
        [sys.executable, *launcher, path, str(out)],
        cwd=sys.prefix,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return [torch.load(out / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("method", program.DRAWING)
def test_ranks_draw_apart_and_the_same_again(found: Found, method: str) -> None:
    alone = program.draws()[method]
    first, second = (rank["draws"][method] for rank in found)
    assert first[0] == first[1] == alone[0]
    assert second[0] == second[1] != first[0]


def test_a_wrapped_model_is_scored_and_trained(found: Found) -> None:
    first, second = (rank["ddp"] for rank in found)
    # Dropout and the points differ between the ranks, the parameters must not.
    assert torch.equal(first["parameters"], second["parameters"])
    assert first["ids"] != second["ids"]
    assert not first["moved"]
    assert not second["moved"]


def test_a_sharded_model_selects_and_trains_as_a_wrapped_one(found: Found) -> None:
    for rank in found:
        # FSDP2 leaves its buffers to each rank.
        ddp = rank["ddp, own buffers"]
        assert rank["fsdp"]["ids"] == ddp["ids"]
        # To the bit: of two ranks a sum has one order, and halving is exact.
        assert torch.equal(rank["fsdp"]["parameters"], ddp["parameters"])
        assert not rank["fsdp"]["moved"]


@pytest.mark.parametrize("name", program.cases())
def test_ranks_keep_together_what_one_process_keeps(found: Found, name: str) -> None:
    case = program.cases()[name]
    selector = Selector(il=case.il, **case.options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Selector: examples without a usable score")
        alone = selector(nn.Identity(), case.batch)
    assert selector.last is not None
    own = selector.last.weights
    own = torch.ones(len(alone.ids)) if own is None else own
    ranks, total = [rank["kept"][name] for rank in found], len(alone.ids)
    together: list[int] = []
    for rank in ranks:
        count = rank["selected"]
        # A rank that keeps none has one point with weight 0, so that it goes through backward too.
        scaled = own[len(together) : len(together) + count] * 2 * count / total
        assert rank["weights"] == pytest.approx(scaled.tolist() or [0.0])
        assert len(rank["ids"]) == max(1, count)
        assert rank["losses"].isfinite().all()
        assert min(rank["labels"]) >= 0
        kept = rank["ids"][:count]
        assert rank["counted"] == rank["looked"] == sorted(kept)
        together += kept
    # In the order of the large batch too.
    assert together == alone.ids.tolist()
    means = [(torch.tensor(rank["weights"]) * rank["losses"]).mean() for rank in ranks]
    mean = (own * F.cross_entropy(alone.x, alone.y, reduction="none")).mean()
    torch.testing.assert_close(torch.stack(means).mean(), mean)
    # Where there is one process, its scope does not matter.
    assert program.keep(case)["ids"] == together


def test_the_cases_reach_what_they_are_for(found: Found) -> None:
    counts = {name: [rank["kept"][name]["selected"] for rank in found] for name in program.cases()}
    assert counts["the best on one rank"] == [0, 6]
    assert counts["a rank without a known IL"] == [0, 6]
    assert counts["a rank of which one point is fit to stand in"] == [0, 6]
    assert sum(counts["fewer than k"]) == program.N - 9
    case = program.cases()["even halves"]
    scores = F.cross_entropy(case.batch.x, case.batch.y, reduction="none") - case.il[case.batch.ids]
    last = scores.sort(descending=True).values[9]
    tied = (scores == last).nonzero().flatten()
    # Ties for the last place, on both ranks.
    assert tied[0] < case.cut <= tied[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "k",
            r"ValueError.*\(0, 0, 3, 0\) on rank 0 and \(0, 0, 4, 0\) on rank 1; ratio",
        ),
        ("seed", r"ValueError.* all ranks must make the same selection"),
        ("empty", "ValueError.*the large batch of rank 1 is empty"),
        ("too many", "ValueError.*k = 81 is larger than the batch of 80"),
        ("no label on one", "FloatingPointError.*step 0: no example of rank 1 has a label"),
        ("no label", "FloatingPointError.*step 0.*all 40 examples are left out: their labels"),
    ],
)
def test_all_ranks_stop_together(found: Found, name: str, message: str) -> None:
    for rank in found:
        assert re.match(message, rank["failures"][name])


def test_ranks_that_go_on_after_a_stop_draw_as_one_process_without_one(found: Found) -> None:
    first, second = (rank["resumed"] for rank in found)
    alone, _ = program.stream(6)
    assert [one + two for one, two in zip(first, second, strict=True)] == alone


@pytest.mark.parametrize("name", ["regression", "regression, fsdp"])
def test_steps_of_all_ranks_are_those_of_one_process(found: Found, name: str) -> None:
    alone = program.regression(lambda model: model)
    first, second = (rank[name] for rank in found)
    assert torch.equal(first["parameters"], second["parameters"])
    for step, ids in enumerate(alone["ids"]):
        assert first["ids"][step] + second["ids"][step] == ids
    assert len({len(ids) for ids in first["ids"]}) > 1
    # The two differ in rounding alone, u = 2^-53 an operation: in the order of the sums over the K
    # points, their weights and the softmax (K + 10 operations), in that of the logits (D + 1), and
    # in the update. As gradient steps on a convex loss do not expand with LR below 2 over its
    # curvature, which is at most half of |(x, 1)|^2, the steps only add up.
    u = 2.0**-53
    x = max(float(program.large(step).x.abs().max()) for step in range(program.STEPS))
    norms = [program.large(step).x.square().sum(1).max() + 1 for step in range(program.STEPS)]
    assert program.LR * max(norms) / 2 < 2
    # No parameter goes further than STEPS updates of at most LR max(|x|, 1).
    start = program.parameters(program.softmax_regression())
    w = float(start.abs().max()) + program.STEPS * program.LR * x
    logit = (program.D + 1) * w * x
    gradient = x * (2 * (program.K + 10) * u + 2 * (program.D + 1) * u * logit)
    update = 2 * u * (w + 2 * program.LR * x)
    bound = program.STEPS * len(start) ** 0.5 * (program.LR * gradient + update)
    assert bound < 1e-10
    assert (first["parameters"] - alone["parameters"]).norm() <= bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scope": "all"}, "scope must be 'local' or 'global', got 'all'"),
        ({"method": "class_quota"}, "'class_quota' does not say so; choose rho or loss"),
        ({"method": "uniform"}, r"register\(name, pointwise=True\)"),
        ({"scoring": Scoring(train_mode=True)}, "scores that do not depend on the rank"),
        ({"scoring": Scoring(refresh=0.5), "history": History(4)}, "do not depend on the rank"),
        ({"il": OnlineModel(nn.Linear(1, 1))}, r"does not go with il=OnlineModel\(...\)"),
        ({"phases": UniformPhases(steps=9)}, r"does not go with phases=UniformPhases\(...\)"),
    ],
)
def test_what_ranks_cannot_choose_together_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Selector(**{"il": torch.zeros(4), "k": 1, "scope": "global", **arguments})
