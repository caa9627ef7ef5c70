"""Run Selector and Trainer once on a GPU, beside the CPU: no test runs them there.

python -m gpu.training --device cuda
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import rho_train
from rho_train import Batch, History, IndexedDataset, Scoring, Selector, TrainConfig, Trainer
from rho_train.methods import names

N, WIDTH, CLASSES, LARGE, SMALL = 2048, 16, 7, 256, 25
DRAWS = torch.Generator().manual_seed(0)
X, TABLE = torch.randn(N, WIDTH, generator=DRAWS), torch.rand(N, generator=DRAWS)
Y = torch.randint(CLASSES, (N,), generator=DRAWS)


def model(device: str) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Linear(WIDTH, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, CLASSES)
    return nn.Sequential(*layers).to(device)


def selected(device: str, steps: int, **settings: Any) -> Tensor:
    """Train, and return the ids that each step has selected; on a GPU most steps may not wait."""
    own, generator, found = model(device), torch.Generator().manual_seed(2), []
    selector = Selector(il=TABLE, k=SMALL, **settings)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3)
    waits = "check_every" in settings or settings.get("scoring", Scoring()).compile
    for step in range(steps):
        ids = torch.randperm(N, generator=generator)[:LARGE]
        batch = Batch(X[ids].to(device), Y[ids].to(device), ids.to(device))
        # After the checks of the first batches, and before the one of every fiftieth.
        if device == "cuda" and not waits and 10 < step < 49:
            torch.cuda.set_sync_debug_mode("error")
        try:
            small = selector(own, batch)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(small.x), small.y).backward()
        optimizer.step()
        found.append(small.ids)
    selector.state_dict()
    return torch.stack(found).cpu()


def trained(device: str) -> float:
    """Return the training loss of a run of the Trainer."""
    data = TensorDataset(X, Y)
    config = TrainConfig(steps=60, large_batch=LARGE, batch=SMALL, eval_every=30)
    with tempfile.TemporaryDirectory() as folder:
        run = Trainer(
            model(device), IndexedDataset(data), torch.arange(N), data, config, folder,
            name="rho", selector=Selector(il=TABLE, k=SMALL),
        )  # fmt: skip
        run.fit()
        assert run.step == 60
        losses = nn.functional.cross_entropy(run.model.to("cpu").eval()(X), Y)
    return float(losses.detach())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu.training", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    device = parser.parse_args(argv).device
    steps, failed = 60 if device == "cuda" else 2, 0
    print(f"rho_train {rho_train.__file__}, {device}")

    def attempt(name: str, check: Callable[[], object]) -> None:
        nonlocal failed
        try:
            outcome = check()
            if outcome is False:
                raise AssertionError("another result than on the CPU")
        except Exception as error:
            outcome, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        print(f"{name}: {outcome}", flush=True)

    for method in names():
        attempt(
            f"method {method}, first selection as on the CPU",
            lambda method=method: torch.equal(
                selected(device, steps, method=method)[0], selected("cpu", 1, method=method)[0]
            ),
        )
    options: dict[str, dict[str, Any]] = {
        "history": {"history": History(N)},
        "micro_batch": {"scoring": Scoring(micro_batch=100)},
        "bf16": {"scoring": Scoring(bf16=True)},
        "check_every=1": {"check_every": 1},
    }
    if device == "cuda":
        for mode in (True, "reduce-overhead"):
            options[f"compile={mode}"] = {"scoring": Scoring(compile=mode)}
    for name, settings in options.items():
        attempt(name, lambda settings=settings: tuple(selected(device, steps, **settings).shape))
    attempt("Trainer, loss here and on the CPU", lambda: (trained(device), trained("cpu")))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
