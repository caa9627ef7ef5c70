"""SelectionTrainer on several ranks, for test_transformers: torchrun two_ranks.py FOLDER."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rho_train import History, Selector, causal_lm
from rho_train.causal_lm import TokenSelector
from tests.rho_train.integrations.test_token_selector import gemma
from tests.rho_train.integrations.test_transformers import (
    Recorded,
    Trainer,
    add_il,
    arguments,
    bert,
    data,
    llama,
    lm_losses,
    losses_by_hand,
    pad,
    pad_lm,
    weights,
)
from tests.rho_train.ways import by_chance

N = 320


def run(model: nn.Module, folder: Path, selector: Any, **options: Any) -> Recorded:
    resume = options.pop("resume", None)
    language = isinstance(selector, TokenSelector) or selector.loss_fn is not None
    trainer = Recorded(
        model,
        arguments(folder, per_device_train_batch_size=16, **options),
        train_dataset=data(N).add_column("ids", list(range(N))),
        data_collator=pad_lm if language else pad,
        selector=selector,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def check_one_step(folder: Path) -> None:
    """The step is that of the mean loss over the selected examples of both ranks."""
    cases: list[tuple[Any, dict[str, Any]]] = [
        ("rho", {"scope": "global"}),
        ("rho", {}),
        ("rho", {"loss_fn": lm_losses}),
    ]
    for method, settings in cases:
        language = "loss_fn" in settings
        selector = Selector(il="il", method=method, k=4, **settings)
        options = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
        found = run(llama() if language else bert(dropout=0.0), folder, selector, **options)
        model, (small,) = llama() if language else bert(dropout=0.0), found.small
        losses = losses_by_hand(model, small)
        if "selection_weights" in small:
            losses = losses * small["selection_weights"]
        # DistributedDataParallel takes the mean of the ranks' gradients. The mean over tokens is
        # that of all ranks, equally many here or not.
        count = torch.tensor(float(len(losses)))
        dist.all_reduce(count)
        loss = losses.sum() / count if language else losses.mean() / dist.get_world_size()
        loss.backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.data -= 0.1 * parameter.grad
        torch.testing.assert_close(weights(found.model), weights(model), rtol=1e-4, atol=1e-6)


def check_tokens(folder: Path) -> None:
    """The step is that of the mean loss over the selected tokens of both ranks."""
    for make, accepts in ((llama, True), (llama, False), (gemma, True)):
        model = make()
        model.accepts_loss_kwargs = accepts
        options = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
        options["gradient_accumulation_steps"] = 2
        found, model = run(model, folder, TokenSelector(ratio=0.3), **options), make()
        # No hook of DistributedDataParallel changes what a plain head gives.
        assert (found.model.get_output_embeddings() in causal_lm._NOT_PLAIN) == (make is gemma)
        losses = [losses_by_hand(model, batch) for batch in found.small]
        chosen = torch.cat([part.topk(int(0.3 * len(part) + 0.5)).values for part in losses])
        count = torch.tensor(float(len(chosen)))
        dist.all_reduce(count)
        (chosen.sum() / count).backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.data -= 0.1 * parameter.grad
        torch.testing.assert_close(weights(found.model), weights(model), rtol=1e-4, atol=1e-6)


def check_resume(folder: Path) -> None:
    def go(where: str, **options: Any) -> tuple[Tensor, dict[str, Any]]:
        selector = Selector(
            il="il",
            method=by_chance,
            ratio=0.25,
            history=History(N),
            phases=lambda step: step < 2,
        )
        trainer = run(bert(), folder / where, selector, max_steps=4, **options)
        return weights(trainer.model), selector.state_dict()

    straight, state = go("straight", save_strategy="steps", save_steps=2)
    dist.barrier()
    resumed, again = go("resumed", resume=str(folder / "straight" / "checkpoint-2"))
    assert torch.equal(straight, resumed)
    assert state["steps"] == again["steps"] == 4
    for name, column in state["history"].items():
        assert torch.equal(column.nan_to_num(), again["history"][name].nan_to_num()), name
    # The ranks saw other examples.
    both = state["history"]["seen"].clone()
    dist.all_reduce(both)
    assert int(both.max()) == 1
    assert int(both.sum()) == 4 * 32


def check_agreement(folder: Path) -> None:
    """The ranks share the passes of one process, and go on with them."""

    def go(where: str, resume: str | None = None, **options: Any) -> Recorded:
        trainer = Recorded(
            bert(),
            arguments(folder / where, per_device_train_batch_size=8, max_steps=30, **options),
            train_dataset=data(64).remove_columns("il"),
            data_collator=pad,
            agreement=True,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight = go("straight", save_strategy="steps", save_steps=18)
    dist.barrier()
    resumed = go("resumed", str(folder / "straight" / "checkpoint-18"))
    assert torch.equal(weights(straight.model), weights(resumed.model))
    ours, theirs = straight.sampler.state_dict(), resumed.sampler.state_dict()
    assert all(torch.equal(torch.as_tensor(ours[n]), torch.as_tensor(theirs[n])) for n in ours)
    plans: list[Any] = [None, None]
    dist.all_gather_object(plans, (ours["plan"].tolist(), ours["running"].tolist()))
    assert not {*plans[0][0]} & {*plans[1][0]}
    assert plans[0][1] == plans[1][1]


def check_irreducible_losses(folder: Path) -> None:
    """Both ranks have those of one process, but for the order of the Trainer's steps."""
    rows = data(90).remove_columns("il")
    # Without a step of training the losses do not depend on the number of ranks.
    args = arguments(folder, max_steps=1, learning_rate=0.0, dataloader_drop_last=True)
    found = add_il(rows, lambda part: Trainer(bert(), args, train_dataset=part, data_collator=pad))
    model = bert().eval()
    with torch.no_grad():
        losses = [float(model(**pad([row])).loss) for row in rows]
    torch.testing.assert_close(torch.tensor(found["il"][:]), torch.tensor(losses))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    check_one_step(Path(sys.argv[1]) / "one")
    check_tokens(Path(sys.argv[1]) / "tokens")
    check_irreducible_losses(Path(sys.argv[1]) / "il")
    check_resume(Path(sys.argv[1]))
    check_agreement(Path(sys.argv[1]) / "agreement")
    print("both ranks agree", flush=True)
    dist.destroy_process_group()
    # DistributedDataParallel holds a thread of gloo, which now and then aborts Python's end.
    os._exit(0)
