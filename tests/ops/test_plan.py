"""Plans of a GPU launch, cut into blocks: every plan gives the same results.

What blocks and threads do to each other is tested without torch: tests/emulator/test_kernels.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import rho_ext
from rho_ext import _C, reference, score, select
from rho_ext._library import METHODS as NUMBERS

from ..backends import Backend, on
from .cases import CONTENTS, METHODS, Case, Combine, assert_accurate, combined, same_bits
from .test_select import check

on_gpus = on("emulated", "cuda")

sizes = st.one_of(st.integers(1, 3000), st.integers(1, 2**31 - 1))
wide = st.one_of(st.integers(1, 3000), st.integers(1, 2**30))


@given(
    n=sizes, classes=wide, size=st.sampled_from([2, 4]), k=st.floats(0, 1), p=st.integers(1, 200)
)
def test_any_sizes_have_a_plan(n: int, classes: int, size: int, k: float, p: int) -> None:
    kept = round(k * n)
    plan = _C.launch_plan(n, classes, size, kept, p)
    assert plan == _C.launch_plan(n, classes, size, kept, p)
    threads, lanes, slices, blocks = (plan[key] for key in ("threads", "lanes", "slices", "blocks"))
    assert threads in (32, 64, 128, 256, 512)
    # Never more than run at a time, with 1024 threads a processor, and none without a row.
    assert 1 <= blocks <= p * 1024 // threads
    packs = -(-classes * size // 16)
    if plan["regime"] == "lane_groups":
        assert lanes in (1, 2, 4, 8, 16, 32)
        assert slices == 1
        assert blocks <= -(-n * lanes // threads)
    else:
        assert lanes == threads
        assert 1 <= slices <= packs
        assert blocks <= n * slices
        # More slices than blocks only add work to the last one.
        assert slices == 1 or n * slices <= 4 * p * 1024 // threads + n
    assert plan["shared_bytes"] <= 48 * 1024
    # The keys; the parts of rows; the winners twice, with their rows.
    least = 4 * n + (24 * n * slices if slices > 1 else 0)
    assert least <= plan["scratch_bytes"] <= least + 16 * (kept + 1) + 32
    scoring = _C.launch_plan(n, classes, size, -1, p)
    assert {**scoring, "top_k_stage": 0, "shared_bytes": 0, "scratch_bytes": 0} == {
        **plan, "top_k_stage": 0, "shared_bytes": 0, "scratch_bytes": 0
    }  # fmt: skip
    assert scoring["top_k_stage"] == "none"
    assert scoring["shared_bytes"] == 0


@given(n=sizes, classes=wide, size=st.sampled_from([2, 4]), p=st.integers(1, 200))
def test_more_rows_never_get_fewer_blocks_beyond_one(
    n: int, classes: int, size: int, p: int
) -> None:
    few, many = (_C.launch_plan(rows, classes, size, 0, p) for rows in (n, min(2 * n, 2**31 - 1)))
    if few["regime"] == "lane_groups":
        assert many["regime"] == "lane_groups"
        assert many["blocks"] >= few["blocks"]
    assert many["slices"] <= few["slices"]


REGIMES: dict[str, dict[str, Any]] = {
    "lane_groups": {"regime": "lane_groups"},
    "rows": {"regime": "slices", "slices": 1},
    "slices": {"regime": "slices", "slices": 5},
}
BLOCKS = ((64, 1), (128, 3), (512, 2), (64, 40))


@on_gpus
@combined
def test_every_plan_is_right(combine: Combine, backend: Backend) -> None:
    for row in combine(
        regime=tuple(REGIMES),
        content=("", *CONTENTS),
        method=METHODS,
        shape=BLOCKS,
        dtype=backend.dtypes,
        top_k_stage=("last_block", "grid"),
    ):
        method, content = row["method"], row["content"]
        case = Case(f"plan {content}", n=33, classes=137, dtype=row["dtype"], content=content)
        inputs = replace(case, bias=True).inputs(backend.device)
        exact = inputs | {"logits": inputs["logits"].double()}
        plain, truth = (reference.score(**i, method=method) for i in (inputs, exact))
        threads, blocks = row["shape"]
        launch = REGIMES[row["regime"]] | {"threads": threads, "blocks": blocks}
        with backend.plan(**launch):
            scores, losses = score(**inputs, method=method)
        assert_accurate(losses, plain.losses, truth.losses, 137)
        assert_accurate(scores, plain.scores, truth.scores, 137)
        with backend.plan(**launch, top_k_stage=row["top_k_stage"], sort_tile=8):
            selection = select(**inputs, k=20, method=method)
        check(selection, scores, 20)
        assert same_bits(selection.losses, losses)


@on_gpus
@combined
def test_selecting_from_equal_scores_is_equal_whatever_the_plan(
    combine: Combine, backend: Backend
) -> None:
    n, device = 700, backend.device
    generator = torch.Generator().manual_seed(0)
    scores = {
        "equal": torch.full((n,), 0.25),
        "few values": torch.randint(-3, 3, (n,), generator=generator).float(),
        "masked": torch.randn(n, generator=generator).masked_fill(
            torch.arange(n) % 3 > 0, -torch.inf
        ),
        "distinct": torch.randn(n, generator=generator),
    }
    labels = torch.zeros(n, dtype=torch.int64, device=device)
    inputs = {"logits": labels[:, None].float(), "labels": labels, "ids": None, "method": "neg_il"}
    for row in combine(
        content=tuple(scores),
        k=(1, 65, 300, n),
        shape=BLOCKS,
        top_k_stage=("last_block", "grid"),
        sort_tile=(8, 64, 0),
    ):
        il = -scores[row["content"]].to(device)
        wanted = reference.select(**inputs, il=il, k=row["k"])
        threads, blocks = row["shape"]
        with backend.plan(
            threads=threads,
            blocks=blocks,
            top_k_stage=row["top_k_stage"],
            sort_tile=row["sort_tile"],
        ):
            got = select(**inputs, il=il, k=row["k"])
        assert torch.equal(got.indices, wanted.indices)
        assert torch.equal(got.values, wanted.values)


def arguments_of(backend: Backend, n: int, k: int) -> tuple[Any, ...]:
    inputs = Case("workspace", n=n, classes=10).inputs(backend.device)
    vectors = inputs["logits"], inputs["labels"], inputs["ids"]
    return *vectors, k, inputs["il"], NUMBERS["rho"], None, -100, 0.0


@on_gpus
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("stage", ["last_block", "grid"])
def test_a_workspace_is_zero_again_after_every_call(
    stage: str, regime: str, backend: Backend
) -> None:
    workspace = rho_ext.workspace(backend.device)
    for n, blocks in ((65, 3), (3, 8), (1, 1), (300, 2), (0, 1)):
        for k in {0, n // 2, n}:
            arguments = arguments_of(backend, n, k)
            with backend.plan(
                **REGIMES[regime], top_k_stage=stage, threads=64, blocks=blocks, sort_tile=8
            ):
                got = backend.op("select.workspace")(*arguments, workspace=workspace)
                without = backend.op("select")(*arguments)
            assert not workspace.any()
            for a, b in zip(got, without, strict=True):
                assert same_bits(a, b)


@on_gpus
def test_what_is_no_workspace(backend: Backend) -> None:
    arguments, op = arguments_of(backend, 65, 5), backend.op("select.workspace")
    right = {"dtype": torch.int32, "device": backend.device}
    for wrong, got in (
        (torch.zeros(6207, **right), "int32 of shape (6207,)"),
        (torch.zeros(6209, **right), "int32 of shape (6209,)"),
        (torch.zeros(6208, **right).long(), "int64 of shape (6208,)"),
        (torch.zeros(1, 6208, **right), "int32 of shape (1, 6208)"),
        (torch.zeros(2 * 6208, **right)[::2], "int32 of shape (6208,)"),
    ):
        message = re.escape(
            f"select: workspace must come from rho_ext.workspace(device), got {got}"
        )
        with pytest.raises(ValueError, match=message):
            op(*arguments, workspace=wrong)
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments]
            with pytest.raises(ValueError, match=message):
                op(*fake, workspace=mode.from_tensor(wrong))


@on_gpus
def test_opcheck_of_the_op_with_a_workspace(backend: Backend) -> None:
    arguments = arguments_of(backend, 65, 5)
    arguments[4].nan_to_num_(0)
    workspace = {"workspace": rho_ext.workspace(backend.device)}
    torch.library.opcheck(backend.op("select.workspace"), arguments, workspace)


@on("cpu", "emulated")
@pytest.mark.parametrize("classes", [10, 5000])
def test_rows_may_lie_more_than_32_bits_apart(classes: int, backend: Backend) -> None:
    """Three rows in 8 GiB, of which only their own pages are ever touched."""
    stride = 2**31 + 5
    memory = torch.empty(2 * stride + classes, dtype=torch.bfloat16, device=backend.device)
    logits = memory.as_strided((3, classes), (stride, 1))
    inputs = Case("far", n=3, classes=classes, dtype=torch.bfloat16).inputs(backend.device)
    dense = inputs["logits"]
    logits.copy_(dense)
    for a, b in zip(select(**inputs | {"logits": logits}, k=3), select(**inputs, k=3), strict=True):
        assert same_bits(a, b)
