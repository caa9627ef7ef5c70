"""SelectionCallback on two ranks, for test_lightning: torchrun lightning_two_ranks.py FOLDER."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset

from rho_train import AgreementSampler, History, Selector
from rho_train.integrations.lightning import SelectionCallback
from tests.rho_train.integrations.test_lightning import Letters, N, data, fit, table, weights
from tests.rho_train.ways import by_chance

RANKS = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": True}


def run(**options: Any) -> tuple[Selector, Any, Any]:
    selector = Selector(
        il=table(), method=by_chance, ratio=0.25, history=History(N), phases=lambda step: step < 4
    )
    # Lightning saves no random state.
    return selector, *fit(selector, Letters(dropout=0.0), **RANKS, **options)


def check_resume(folder: Path) -> None:
    straight, _, module = run()
    _, trainer, _ = run(max_epochs=1)
    trainer.save_checkpoint(folder / "half.ckpt")
    resumed, _, again = run(resume=folder / "half.ckpt")
    assert torch.equal(weights(module), weights(again))
    # In mid-epoch Lightning begins with the first batch again; the Selector goes on.
    stopped, trainer, _ = run(max_steps=3)
    trainer.save_checkpoint(folder / "middle.ckpt")
    loaded, _, _ = run(max_steps=3, resume=folder / "middle.ckpt")
    for one, other, steps in ((straight, resumed, 10), (stopped, loaded, 3)):
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours["steps"] == theirs["steps"] == steps
        for name, column in ours["history"].items():
            assert torch.equal(column.nan_to_num(), theirs["history"][name].nan_to_num()), name
    ours = straight.state_dict()
    # The ranks saw other examples.
    both = ours["history"]["seen"].clone()
    dist.all_reduce(both)
    assert ours["history"]["seen"].tolist() != both.tolist() == [2] * N


def check_agreement() -> None:
    sampler, module = AgreementSampler(N, 64, steps=30), Letters(dropout=0.0)
    loader = DataLoader(data(), batch_sampler=sampler)
    fit(
        sampler, module, loader=loader, max_epochs=-1, **{**RANKS, "use_distributed_sampler": False}
    )
    state, steps = sampler.state_dict(), list[Any]([None, None])
    found = [[ids.tolist() for ids in module.steps], state["running"].tolist(), state["scored"]]
    dist.all_gather_object(steps, found)
    (first, *shared), (second, *same) = steps
    assert shared == same
    assert shared[1] > 0
    assert len(first) == len(second) == 30
    for one, other in zip(first, second, strict=True):
        assert len({*one, *other}) == 64


def check_uneven_batches() -> None:
    rank = dist.get_rank()
    loader = DataLoader(Subset(data(), range(64 + 32 * rank)), batch_size=32)
    options = {**RANKS, "use_distributed_sampler": False}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    callback = SelectionCallback(Selector(method="loss", k=8))
    trainer = lightning.Trainer(accelerator="cpu", callbacks=[callback], **options, **quiet)
    with pytest.raises(ValueError, match="the ranks have 2, 3 batches, and those with more"):
        trainer.fit(Letters(), loader)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    check_agreement()  # first: the sampler is made before the ranks meet
    check_resume(Path(sys.argv[1]))
    check_uneven_batches()
    print("both ranks agree", flush=True)
    dist.destroy_process_group()
    # DistributedDataParallel holds a thread of gloo, which now and then aborts Python's end.
    os._exit(0)
