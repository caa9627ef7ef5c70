"""What several processes do together, for the tests of it; one process does it alone.

Run as a program it leaves in a folder what each rank found, by name. It imports nothing of the
tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from rho_train import Batch, Selector
from rho_train.ranks import rank_and_world

DRAWING = ("uniform", "importance", "boltzmann", "selective_backprop", "bald")
N = 40


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3)
        )


def large(seed: int, n: int = N) -> Batch:
    """A large batch of points 0 to n - 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    return Batch(x, torch.randint(0, 3, (n,), generator=generator), torch.arange(n))


def draws() -> dict[str, list[list[int]]]:
    """What each method draws of the same points in three steps, by two Selectors of one seed."""
    il = torch.rand(N, generator=torch.Generator().manual_seed(9))
    model = net()
    return {
        method: [
            [i for _ in range(3) for i in selector(model, large(0)).ids.tolist()]
            for selector in (Selector(il=il, k=8, method=method, seed=3) for _ in range(2))
        ]
        for method in DRAWING
    }


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """Four steps of an own loop, each rank with points of its own."""
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


def parameters(model: nn.Module) -> Tensor:
    """All parameters in one row; of a sharded model all ranks must ask."""
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return torch.cat([p.detach().flatten() for p in whole])


def shard(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (model[0], model[4], model):  # type: ignore[index]
        fully_shard(part, mesh=mesh)
    return model


def main(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {
        "draws": draws(),
        "ddp": wrapped(DistributedDataParallel),
        "ddp, own buffers": wrapped(partial(DistributedDataParallel, broadcast_buffers=False)),
        "fsdp": wrapped(shard),
    }
    torch.save(found, out / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
