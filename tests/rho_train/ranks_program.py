"""Selections and steps of several processes, for test_ranks; one process makes them alone.

Run as a program with a folder, a rank and the number of ranks, it saves its results by name. It
imports nothing of the tests.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from rho_train import (
    AgreementSampler,
    Batch,
    History,
    IndexedDataset,
    LargeBatchSampler,
    Scoring,
    Selector,
    loader,
    register,
    vocabulary_parallel_score,
)
from rho_train.distributed import rank_and_world
from rho_train.methods.context import ScoringContext, Selected
from rho_train.methods.registry import unregister

N = 40


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3)
        )


def large(seed: int, n: int = N) -> Batch:
    """Return a large batch of examples 0 to n - 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    return Batch(x, torch.randint(0, 3, (n,), generator=generator), torch.arange(n))


def by_chance(context: ScoringContext) -> Selected:
    """Select the highest losses after noise."""
    return context.select("loss", torch.rand(len(context.ids), generator=context.generator))


def draws() -> dict[str, list[list[int]]]:
    """Return the draws of each method in three steps, by two Selectors of one seed."""
    il = torch.rand(N, generator=torch.Generator().manual_seed(9))
    model = net()
    return {
        name: [
            [i for _ in range(3) for i in selector(model, large(0)).ids.tolist()]
            for selector in (Selector(il=il, k=8, method=method, seed=3) for _ in range(2))
        ]
        for name, method in {"uniform": "uniform", "by chance": by_chance}.items()
    }


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """Take four steps of a loop, each rank with examples of its own."""
    rank, _ = rank_and_world()
    torch.manual_seed(100 + rank)  # dropout
    model = wrap(net())
    selector = Selector(il=torch.zeros(N), k=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids, moved = [], []
    for step in range(4):
        before = [buffer.clone() for buffer in model.buffers()]
        batch = selector(model, large(10 * step + rank))
        moved += [not torch.equal(*pair) for pair in zip(before, model.buffers(), strict=True)]
        loss = F.cross_entropy(model(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ids += batch.ids.tolist()
    return {"ids": ids, "moved": any(moved), "parameters": parameters(model)}


class Case(NamedTuple):
    """One selection by all ranks; of two, the first has the examples before `cut`."""

    options: dict[str, Any]
    batch: Batch
    il: Tensor
    cut: int


@register("tests_weighted", needs=["il"], pointwise=True)
def weighted(context: ScoringContext) -> Selected:
    """Select the lowest IL, with weights 1 and 2."""
    best = context.top(-context.il)
    return best._replace(weights=1.0 - best.values)


unregister("tests_weighted")


def cases() -> dict[str, Case]:
    """Return selections with ties, within a rank and between two: all logits are integers."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(0, 3, (N, 3), generator=generator).float()
    y = torch.randint(0, 3, (N,), generator=generator)
    il = torch.randint(0, 2, (N,), generator=generator).float()
    batch = Batch(x, y, torch.randperm(N, generator=generator))
    found = {
        f"{method}, {size}": Case({"method": method, **size}, batch, il, cut)
        for method in ("rho", "loss", "neg_il", "grad_norm", "entropy")
        for size in ({"k": 1}, {"ratio": 0.25}, {"k": 35}, {"k": N})
        for cut in (11,)
    }
    found["even halves"] = Case({"k": 10}, batch, il, N // 2)
    found["micro-batches"] = Case({"k": 10, "scoring": Scoring(micro_batch=7)}, batch, il, 30)
    found["weights of a method"] = Case({"k": 25, "method": weighted}, batch, il, 11)
    unknown = il.clone()
    unknown[batch.ids[:9]] = torch.nan
    found["fewer than k"] = Case({"k": 35}, batch, unknown, 12)
    found["a rank without a known IL"] = Case({"k": 6}, batch, unknown, 9)
    spoilt = batch._replace(x=x.clone(), y=y.clone())
    spoilt.x[0], spoilt.y[1] = torch.nan, -100
    found["a rank of which one example is fit to stand in"] = Case({"k": 6}, spoilt, unknown, 3)
    ignored = batch._replace(y=batch.y.clone().index_fill(0, torch.arange(0, N, 2), -100))
    found["ignored labels"] = Case({"k": 30}, ignored, il, 20)
    ordered = batch._replace(x=torch.arange(float(N))[:, None] * torch.tensor([1.0, 0.0, 0.0]))
    ordered = ordered._replace(y=torch.ones_like(y))
    found["the best on one rank"] = Case({"k": 6, "method": "loss"}, ordered, il, 20)
    return found


def select(case: Case) -> dict[str, Any]:
    """Return what this process selects: ids, weights, losses, and the counts of its Selector."""
    rank, world = rank_and_world()
    rows = slice(None) if world == 1 else [slice(case.cut), slice(case.cut, None)][rank]
    own = Batch(*(column[rows] for column in case.batch))
    selector = Selector(il=case.il, scope="global", history=History(N), **case.options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Selector: examples without a usable score")
        preview = selector.preview(nn.Identity(), own)
        small = selector(nn.Identity(), own)
    assert selector.last is not None
    assert selector.last.weights is not None
    assert selector.history is not None
    return {
        "ids": small.ids.tolist(),
        "weights": selector.last.weights.tolist(),
        "labels": small.y.tolist(),
        "losses": F.cross_entropy(small.x, small.y, reduction="none"),
        "previewed": preview.ids[preview.indices].sort().values.tolist(),
        "selected": selector.selected,
        "counted": selector.history.selected.nonzero().flatten().tolist(),
    }


def failures() -> dict[str, str]:
    """Return the errors where the ranks cannot select together."""
    rank, _ = rank_and_world()
    batch = large(rank)
    ignored = batch._replace(y=torch.full_like(batch.y, -100))
    empty = Batch(*(column[:0] for column in batch))
    tried: dict[str, tuple[dict[str, Any], Batch]] = {
        "k": ({"k": 3 + rank}, batch),
        "seed": ({"k": 3, "seed": rank}, batch),
        "empty": ({"k": 3}, empty if rank else batch),
        "too many": ({"k": 2 * N + 1}, batch),
        "no label on one": ({"k": 3}, ignored if rank else batch),
        "no label": ({"k": 3}, ignored),
    }
    said = {}
    for name, (options, own) in tried.items():
        selector = Selector(method="loss", scope="global", **options)
        try:
            selector(nn.Linear(5, 3), own)
        except (ValueError, FloatingPointError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said | agreement_failures()


def agreement_failures() -> dict[str, str]:
    """Return the errors where one rank alone errs at the end of a pass, or scores others."""
    rank, said = rank_and_world()[0], dict[str, str]()
    data = IndexedDataset(TensorDataset(torch.zeros(N, 1), torch.zeros(N).long()))
    for name in ("stray", "rescore"):
        sampler = AgreementSampler(N, N, steps=20)
        try:
            for number in range(9):
                batches: Any = [large(0)] if rank else loader(data, sampler)
                sampler.rescore(nn.Linear(5, 1), batches, forward=lambda _, batch: batch.ids / 1)
                for ids in map(torch.tensor, sampler):
                    if name == "stray" and rank and number:
                        ids[0] = N
                    sampler.update(ids, ids - N / 2)
        except ValueError as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


STEPS, LR, K, D, C = 20, 0.1, 8, 5, 3


def softmax_regression() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Linear(D, C).double()


def regression(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """Train by SGD on what all ranks select, each from a part of the same large batches."""
    rank, world = rank_and_world()
    model = wrap(softmax_regression())
    # 13 and 27 examples of two ranks.
    own = slice(None) if world == 1 else [slice(13), slice(13, None)][rank]
    selector = Selector(method="loss", k=K, scope="global")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    ids = []
    for step in range(STEPS):
        batch = large(step)
        batch = Batch(batch.x[own].double(), batch.y[own], batch.ids[own])
        batch = selector(model, batch)
        assert selector.last is not None
        losses = F.cross_entropy(model(batch.x), batch.y, reduction="none")
        loss = (selector.last.weights * losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ids.append(batch.ids[selector.last.weights > 0].tolist())
    return {"ids": ids, "parameters": parameters(model)}


def stream(
    count: int, start: int = 0, state: dict[str, Any] | None = None
) -> tuple[list[list[int]], dict[str, Any]]:
    """Return the draws from `count` large batches that the ranks share, and the state."""
    rank, world = rank_and_world()
    examples, model = large(0), softmax_regression().float()
    data = IndexedDataset(TensorDataset(examples.x, examples.y))
    sampler = LargeBatchSampler(N, 15, seed=1, start=start, rank=rank, world=world)
    selector = Selector(k=4, method="loss", scope="global")
    if state is not None:
        selector.load_state_dict(state)
    ids = []
    for batch in islice(loader(data, sampler), count):
        small = selector(model, batch)
        assert selector.last is not None
        assert selector.last.weights is not None
        ids.append(small.ids[selector.last.weights > 0].tolist())
    return ids, selector.state_dict()


def resumed() -> list[list[int]]:
    """Return the draws from six large batches, with a stop in the middle."""
    first, state = stream(3)
    return first + stream(3, 3, state)[0]


def agreement() -> tuple[list[list[int]], Tensor]:
    """Return the batches of this rank by agreement, with two stops, and its last margins."""
    values = torch.randn(60, N, generator=torch.Generator().manual_seed(6)).add(
        torch.linspace(-3, 3, N)
    )
    data = IndexedDataset(TensorDataset(torch.zeros(N, 1), torch.zeros(N).long()))
    ids: list[list[int]] = []
    state: dict[str, Any] = {}
    for stop in (7, 33, 80):
        sampler = AgreementSampler(N, 6, steps=80, seed=1)
        batches = loader(data, sampler)
        if state:
            sampler.load_state_dict(state)
        while sampler.step < stop:
            sampler.rescore(
                nn.Identity(), batches, forward=lambda _, batch: values[-len(ids) // 6, batch.ids]
            )
            for batch in islice(batches, stop - sampler.step):
                ids.append(batch.ids.tolist())
                sampler.update(batch.ids, values[len(ids) // 6, batch.ids])
        state = sampler.state_dict()
    return ids, state["running"]


def vocabulary() -> dict[str, Any]:
    """Return logits and labels, and their scores where two ranks share the classes."""
    rank, world = rank_and_world()
    logits = 3 * torch.randn(6, 8, 11, generator=torch.Generator().manual_seed(4))
    labels = torch.randint(11, (6, 8), generator=torch.Generator().manual_seed(5))
    learnt = torch.linspace(0, 30, 8) + torch.zeros(6, 1)
    logits[:4].scatter_add_(2, labels[:4, :, None], learnt[:4, :, None])
    logits[1, :, 7:] = -torch.inf  # a part of the vocabulary that is padding
    labels[1] = labels[1] % 7
    labels[2, 3] = -100
    logits[3, 0, labels[3, 0]] = -torch.inf
    logits[3, 1] = -torch.inf
    mesh = init_device_mesh("cpu", (world,))
    spread = distribute_tensor(logits, mesh, [Shard(2)])
    own = logits[..., :7] if rank == 0 else logits[..., 7:]
    small = torch.tensor([[30.0, 5.0], [4.0, 6.0]], dtype=torch.float64)
    odds = (small.flatten()[1:] - 30.0).exp().sum()
    refused = ""
    try:
        vocabulary_parallel_score(own, labels + 4)
    except IndexError as error:
        refused = str(error)
    return {
        "inputs": (logits, labels),
        "tensor": tuple(vocabulary_parallel_score(own, labels)),
        "DTensor": tuple(vocabulary_parallel_score(spread, labels)),
        "rows": tuple(vocabulary_parallel_score(own[0], labels[0])),
        "small": (
            vocabulary_parallel_score(small[rank : rank + 1], labels[:1, 0] * 0).losses,
            odds.log1p().float()[None],
        ),
        "refused": refused,
    }


def parameters(model: nn.Module) -> Tensor:
    """Return all parameters in one row; of a sharded model all ranks must ask."""
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return torch.cat([p.detach().flatten() for p in whole])


def shard(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in [*model.children(), model]:
        if list(part.parameters()):
            fully_shard(part, mesh=mesh)
    return model


def main(out: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(out / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found = {
        "draws": draws(),
        "ddp": wrapped(DistributedDataParallel),
        "ddp, own buffers": wrapped(partial(DistributedDataParallel, broadcast_buffers=False)),
        "fsdp": wrapped(shard),
        "selections": {name: select(case) for name, case in cases().items()},
        "failures": failures(),
        "resumed": resumed(),
        "agreement": agreement(),
        "regression": regression(DistributedDataParallel),
        "regression, fsdp": regression(shard),
        "vocabulary": vocabulary(),
    }
    if (out / "ranks_training.py").exists():
        from ranks_training import irreducible, runs

        found |= {"training": runs(out), "il": irreducible(out / "il")}
    torch.save(found, out / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
