"""Logits (B, T, C): the same bits as of their rows, whatever the strides, and no copy."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rho_ext import reference, score, select

from ..backends import Backend, on
from .cases import METHODS, Inputs, same_bits


def cut(logits: Tensor, first: int, last: int, step: int) -> Tensor:
    """Some tokens of every second sequence, as strides of a larger tensor."""
    b, t, c = logits.shape
    whole = torch.full((2 * b, first + step * t + last, c), torch.nan, dtype=logits.dtype)
    view = whole[::2, first : first + step * t : step]
    return view.copy_(logits)


def inputs(b: int, t: int, c: int, dtype: torch.dtype, seed: int, table: bool) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, t, c, generator=generator)
    labels = torch.randint(0, c, (b, t), generator=generator)
    labels[torch.rand(b, t, generator=generator) < 0.2] = -100
    ids = torch.randint(0, 50, (b, t), generator=generator) if table else None
    il = torch.rand((50,) if table else (b, t), generator=generator)
    il[il < 0.1] = torch.nan
    bias = torch.randn(b, t, generator=generator)
    return {"logits": logits.to(dtype), "labels": labels, "ids": ids, "il": il, "bias": bias}


def flattened(arguments: Inputs) -> Inputs:
    return {
        name: value if value is None or value.ndim == 1 else value.flatten(0, 1).contiguous()
        for name, value in arguments.items()
    }


def on_device(arguments: Inputs, device: torch.device) -> Inputs:
    return {
        name: value if value is None or value.device == device else value.to(device)
        for name, value in arguments.items()
    }


def check(results: Any, wanted: Any) -> None:
    for a, b in zip(results, wanted, strict=True):
        assert a.shape == b.shape
        assert same_bits(a, b)


@given(data=st.data())
def test_sequences_are_their_rows(backend: Backend, data: st.DataObject) -> None:
    small = st.integers(1, 5)
    b, t = data.draw(small), data.draw(st.sampled_from([1, 2, 5, 70]))
    c = data.draw(st.sampled_from([1, 7, 17, 300, 1100]))
    dtype, seed = data.draw(st.sampled_from(backend.dtypes)), data.draw(st.integers(0, 99))
    own = inputs(b, t, c, dtype, seed, data.draw(st.booleans()))
    rows = flattened(own)
    own["logits"] = cut(own["logits"], data.draw(small) - 1, data.draw(small) - 1, data.draw(small))
    # Any of those that are (B, T) may be flat, or a view of something larger.
    for name in ("labels", "ids", "il", "bias"):
        form = data.draw(st.sampled_from(["flat", "view", "whole"]))
        value = own[name]
        if form != "whole" and value is not None and value.ndim == 2:
            wide = torch.nn.functional.pad(value, (1, 0))[:, 1:]
            own[name] = rows[name] if form == "flat" else wide
    own, rows = on_device(own, backend.device), on_device(rows, backend.device)
    method, k = data.draw(st.sampled_from(METHODS)), data.draw(st.integers(0, b * t))
    check(select(**own, k=k, method=method), select(**rows, k=k, method=method))
    check(score(**own, method=method), score(**rows, method=method))
    check(reference.select(**own, k=k, method=method), reference.select(**rows, k=k, method=method))


def test_sequences_that_lie_anyhow(device: torch.device) -> None:
    own = inputs(4, 6, 33, torch.float32, 0, False)
    views = {
        "expanded batch": lambda x: x[:1].expand(4, 6, 33),
        "expanded tokens": lambda x: x[:, :1].expand(4, 6, 33),
        "tokens first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        "classes first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "reversed order of rows": lambda x: x.transpose(0, 1).reshape(4, 6, 33),
        "a token": lambda x: x[:, 2:3],
        "a sequence": lambda x: x[1:2],
        "none": lambda x: x[:0],
        "no token": lambda x: x[:, :0],
    }
    for name, view in views.items():
        logits = view(own["logits"].to(device))
        b, t = logits.shape[:2]
        rest = {n: v[:b, :t].to(device) for n, v in own.items() if n in ("labels", "il", "bias")}
        flat = {n: v.flatten() for n, v in rest.items()}
        k = b * t // 2
        wanted = select(logits.reshape(-1, 33), ids=None, k=k, **flat)
        check(select(logits, ids=None, k=k, **rest), wanted), name


def test_the_logits_are_not_copied(backend: Backend) -> None:
    logits = torch.randn(2, 9, 1000, device=backend.device)
    labels = torch.zeros(2, 9, dtype=torch.int64, device=backend.device)
    with torch.profiler.profile(profile_memory=True) as profile:
        score(logits[:, :-1], labels[:, 1:], None, method="loss")
    sizes = [event.cpu_memory_usage + event.device_memory_usage for event in profile.key_averages()]
    assert max(sizes) < 2 * 9 * 1000


@on("cpu")
def test_one_graph_serves_every_number_of_tokens(device: torch.device) -> None:
    def step(logits: Tensor, labels: Tensor, il: Tensor) -> tuple[Tensor, ...]:
        k = labels[:, 1:].numel() // 4
        shifted, tokens = (2 * logits)[:, :-1], labels[:, 1:]
        scores = score(shifted, tokens, None, il=il[:, 1:])
        return *select(shifted, tokens, None, k, il=il[:, 1:]), *scores

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    graphs = torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    graphs.clear()
    for b, t in ((4, 9), (3, 17), (8, 5), (2, 30)):
        own = on_device(inputs(b, t, 50, torch.float32, b, False), device)
        arguments = own["logits"], own["labels"], own["il"]
        check(compiled(*arguments), step(*arguments))
    assert graphs["unique_graphs"] == 1


def test_opcheck_of_sequences(backend: Backend) -> None:
    own = on_device(inputs(3, 8, 20, torch.float32, 0, False), backend.device)
    logits, labels = own["logits"][:, :-1], own["labels"][:, 1:].flatten()
    il = own["il"].nan_to_num(0.5)[:, 1:].flatten()
    rest = (0, None, -100, 0.0)
    torch.library.opcheck(backend.op("score"), (logits, labels, None, il, *rest))
    torch.library.opcheck(backend.op("select"), (logits, labels, None, 5, il, *rest))
