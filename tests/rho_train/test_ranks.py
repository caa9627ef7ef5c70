"""Selection by several processes: from their own large batches, and from all together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from rho_train import OnlineModel, Scoring, Selector, distributed

from . import ranks_program as program
from . import ranks_training
from .ways import ending

WORLD = 2
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the findings of each of two processes."""
    out = tmp_path_factory.mktemp("ranks")
    # Away from the source tree, which holds the packages without the library.
    for name in ("ways.py", "ranks_training.py"):
        shutil.copy(Path(program.__file__).with_name(name), out)
    path = shutil.copy(program.__file__, out)
    processes = [
        subprocess.Popen(
            [sys.executable, path, str(out), str(rank), str(WORLD)],
            cwd=sys.prefix,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return [torch.load(out / f"rank{rank}.pt") | {"folder": out} for rank in range(WORLD)]


def test_ranks_draw_apart_and_the_same_again(found: Found) -> None:
    for method, alone in program.draws().items():
        first, second = (rank["draws"][method] for rank in found)
        assert first[0] == first[1] == alone[0], method
        assert second[0] == second[1] != first[0], method


def test_a_wrapped_model_is_scored_and_trained(found: Found) -> None:
    first, second = (rank["ddp"] for rank in found)
    # Dropout and the examples differ between the ranks, the parameters must not.
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


@pytest.mark.filterwarnings("ignore:Selector. examples without a usable score")
def test_ranks_select_together_what_one_process_selects(found: Found) -> None:
    for name, case in program.cases().items():
        selector = Selector(il=case.il, **case.options)
        alone = selector(nn.Identity(), case.batch)
        assert selector.last is not None
        own = selector.last.weights
        own = torch.ones(len(alone.ids)) if own is None else own
        ranks, total = [rank["selections"][name] for rank in found], len(alone.ids)
        together: list[int] = []
        for rank in ranks:
            count = rank["selected"]
            # A rank without any has one example of weight 0, so that it goes through backward too.
            scaled = own[len(together) : len(together) + count] * 2 * count / total
            assert rank["weights"] == pytest.approx(scaled.tolist() or [0.0]), name
            assert len(rank["ids"]) == max(1, count), name
            assert rank["losses"].isfinite().all(), name
            assert min(rank["labels"]) >= 0, name
            ids = rank["ids"][:count]
            assert rank["counted"] == rank["previewed"] == sorted(ids), name
            together += ids
        # In the order of the large batch too.
        assert together == alone.ids.tolist(), name
        means = [(torch.tensor(rank["weights"]) * rank["losses"]).mean() for rank in ranks]
        mean = (own * F.cross_entropy(alone.x, alone.y, reduction="none")).mean()
        torch.testing.assert_close(torch.stack(means).mean(), mean)
        # Where there is one process, its scope does not matter.
        assert program.select(case)["ids"] == together, name


def test_the_cases_reach_what_they_are_for(found: Found) -> None:
    counts = {
        name: [rank["selections"][name]["selected"] for rank in found] for name in program.cases()
    }
    assert counts["the best on one rank"] == [0, 6]
    assert counts["a rank without a known IL"] == [0, 6]
    assert counts["a rank of which one example is fit to stand in"] == [0, 6]
    assert sum(counts["fewer than k"]) == program.N - 9
    case = program.cases()["even halves"]
    scores = F.cross_entropy(case.batch.x, case.batch.y, reduction="none") - case.il[case.batch.ids]
    last = scores.sort(descending=True).values[9]
    tied = (scores == last).nonzero().flatten()
    # Ties for the last place, on both ranks.
    assert tied[0] < case.cut <= tied[-1]


def test_all_ranks_stop_together(found: Found) -> None:
    settings = r"\[0.0, 0.0, 3.0, 0.0\] on rank 0 and \[0.0, 0.0, 4.0, 0.0\] on rank 1"
    messages = {
        "k": f"ValueError.*{settings}",
        "seed": "ValueError.* all ranks must make the same selection",
        "empty": "ValueError.*the large batch of rank 1 is empty",
        "too many": "ValueError.*k = 81 is larger than the batch of 80",
        "no label on one": "FloatingPointError.*step 0: no example of rank 1 has a label",
        "no label": "FloatingPointError.*step 0.*all 40 examples are left out: their labels",
        "stray": "ValueError: AgreementSampler.update: 1 ids were not drawn",
        "rescore": "ValueError: AgreementSampler.rescore: batches must load the",
    }
    for rank in found:
        assert rank["failures"].keys() == messages.keys()
        for name, message in messages.items():
            assert re.match(message, rank["failures"][name]), name


def test_ranks_that_go_on_after_a_stop_draw_as_one_process_without_one(found: Found) -> None:
    first, second = (rank["resumed"] for rank in found)
    alone, _ = program.stream(6)
    assert [one + two for one, two in zip(first, second, strict=True)] == alone


def test_ranks_share_the_passes_of_one_process_by_agreement(found: Found) -> None:
    wanted, margins = program.agreement()
    (first, learnt), (second, learnt_too) = (rank["agreement"] for rank in found)
    assert [a + b for a, b in zip(first, second, strict=True)] == wanted
    assert len({one for ids in wanted[-8:] for one in ids}) < program.N
    for own in (learnt, learnt_too):
        torch.testing.assert_close(own, margins, rtol=0, atol=0, equal_nan=True)


def test_steps_of_all_ranks_are_those_of_one_process(found: Found) -> None:
    alone = program.regression(lambda model: model)
    for name in ("regression", "regression, fsdp"):
        assert_same_steps(*(rank[name] for rank in found), alone)


def assert_same_steps(first: Any, second: Any, alone: Any) -> None:
    assert torch.equal(first["parameters"], second["parameters"])
    for step, ids in enumerate(alone["ids"]):
        assert first["ids"][step] + second["ids"][step] == ids
    assert len({len(ids) for ids in first["ids"]}) > 1
    # The two differ in rounding alone, u = 2^-53 an operation: in the order of the sums over K
    # examples, their weights and the softmax (K + 10 operations), in that of the logits (D + 1),
    # and in the update. As gradient steps on a convex loss do not expand with LR below 2 over its
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


def test_a_trainer_on_ranks_trains_as_one_process(found: Found, tmp_path: Path) -> None:
    for name in ("together", "plain", "agreeing"):
        alone = ranks_training.RUNS[name](tmp_path / name)
        alone.fit()
        one, two = (ending(folder / name) for folder in (tmp_path, found[0]["folder"]))
        for first, second in zip(one["records"], two["records"], strict=True):
            assert first.keys() == second.keys()
            for key, value in first.items():
                # Loss and gradients are means over ranks, which rounds in another way.
                wanted = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                assert second[key] == wanted, (name, key)
        state = torch.load(found[0]["folder"] / name / "checkpoint.pt", weights_only=True)
        for key, value in alone.model.state_dict().items():
            torch.testing.assert_close(state["model"][key], value, atol=1e-6, rtol=1e-5)
    files = [folder / "together" for folder in (tmp_path, found[0]["folder"])]
    alone, joined = (json.loads((folder / "selected.json").read_text()) for folder in files)
    assert joined["never"] == alone["never"]
    for first, second in zip(alone["most_selected"], joined["most_selected"], strict=True):
        assert second == {**first, "loss": pytest.approx(first["loss"], rel=1e-5)}


def test_ranks_that_stop_together_resume_to_the_bit(found: Found) -> None:
    folder, errors = found[0]["folder"], [rank["training"] for rank in found]
    assert ending(folder / "stopped") == ending(folder / "apart")
    stopped, apart = (folder / run / "selected.json" for run in ("stopped", "apart"))
    assert stopped.read_bytes() == apart.read_bytes()
    for own in errors:
        assert own.pop("stop").startswith("Stopped: stopped at step 7 of 12; run the same")
        assert own.pop("share").startswith("ValueError: Trainer: batch = 7 is of all 2 ranks")
        assert "selects 8 of a large batch of 16 on each of 2 ranks" in own.pop("k")
        assert own.pop("first") == "ZeroDivisionError: division by zero"
        assert own.pop("not pickled") == "RuntimeError: Two: disk full"
        for name, key in (("lr", "config.lr"), ("seed", "seed"), ("ids", "train_ids")):
            message = f"ValueError: Trainer: {key} must be the same on all ranks, got"
            assert own.pop(name).startswith(message), name
        assert "an OnlineModel would become another on each of 2 ranks" in own.pop("online")
        assert "the loss does not use extra.weight, extra.bias; several" in own.pop("unused")
        assert "10 of the train_ids have the label -100" in own.pop("ignored")
        assert own.pop("one") == own.pop("both") == "OSError: no such disk"
        assert not own


def test_ranks_that_share_the_classes_score_as_one(found: Found) -> None:
    first, second = (rank["vocabulary"] for rank in found)
    logits, labels = first["inputs"]
    exact = logits.double().log_softmax(2)
    known = labels.masked_fill(labels == -100, 0)
    truth = -exact.gather(2, known[..., None])[..., 0]
    wanted = truth.masked_fill(labels == -100, 0.0)
    for name in ("tensor", "DTensor"):
        for a, b in zip(first[name], second[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        losses, logsumexp = first[name]
        torch.testing.assert_close(losses.double(), wanted, rtol=1e-6, atol=2e-7, equal_nan=True)
        sums = logits.double().logsumexp(2)
        torch.testing.assert_close(logsumexp.double(), sums, rtol=1e-6, atol=1e-6)
    # Learnt rows of float64 logits, of which one rank holds all but 1e-9 of the sum.
    losses, truth = first["small"]
    torch.testing.assert_close(losses, truth, rtol=1e-6, atol=0)
    torch.testing.assert_close(first["rows"][0], first["tensor"][0][0], rtol=0, atol=0)
    assert "labels must lie in [0, 11), the classes of all ranks" in first["refused"]


def test_ranks_share_the_folds_and_the_pieces_of_il(found: Found) -> None:
    alone = ranks_training.irreducible()
    # 2 epochs of 4 steps for each of 3 folds, of which the first rank has 2.
    assert [rank["il"]["steps"] for rank in found] == [16, 8]
    assert alone["steps"] == 24
    for rank in found:
        assert rank["il"]["info"] == alone["info"]
        for name in ("il", "pretrained"):
            assert torch.equal(rank["il"][name], alone[name]), name


def test_a_rank_that_calls_alone_hears_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **options: Any) -> None:
        assert options["group"] is None  # of the usual time
        raise RuntimeError("Timed out")

    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(distributed, "_gloo", lambda timeout: timeout)
    monkeypatch.setattr(distributed.dist, "all_gather_object", late)
    with pytest.raises(RuntimeError, match=r"Trainer: rank 0 .*all 2 ranks must call it together"):
        distributed.agree("Trainer", {})


def test_groups_end_with_the_processes_group(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    world, group = dist.group.WORLD, distributed._gloo(None)  # DistributedDataParallel keeps it
    assert distributed._gloo(None) is group
    # Else its thread aborts now and then the process that ends.
    group = weakref.ref(group)
    dist.destroy_process_group()
    assert world is not None
    assert group() is None


def test_what_ranks_cannot_select_together_is_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"scope": "all"}, "scope must be 'local' or 'global', got 'all'"),
        ({"method": "uniform"}, r"'uniform' does not say so; .* register\(name, pointwise=True\)"),
        ({"scoring": Scoring(train_mode=True)}, "does not go with train_mode="),
        ({"il": OnlineModel(nn.Linear(1, 1))}, "does not go with il=, which"),
        ({"phases": lambda step: step < 2}, "does not go with phases="),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            Selector(**{"il": torch.zeros(4), "k": 1, "scope": "global", **arguments})
