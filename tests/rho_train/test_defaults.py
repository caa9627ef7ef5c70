"""torch's default dtype and device decide nothing: results are the same to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import rho_train
from rho_train import (
    Batch,
    History,
    ILRecipe,
    ILStore,
    IndexedDataset,
    LargeBatchSampler,
    OnlineModel,
    Selector,
    TrainConfig,
    Trainer,
)
from rho_train.files import read_lines
from rho_train.methods.registry import names
from rho_train.scoring import Scoring
from rho_train.trainer.evaluation import evaluate

N, CLASSES = 96, 3


def model(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        exact: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
        return nn.Sequential(
            nn.Linear(6, 8, **exact),
            nn.BatchNorm1d(8, **exact),
            nn.Dropout(0.2),
            nn.Linear(8, CLASSES, **exact),
        )


GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, 6, generator=GENERATOR), torch.randint(0, CLASSES, (N,), generator=GENERATOR)
IL, IDS = torch.rand(N, generator=GENERATOR), torch.arange(N)
HALF = IDS[: N // 2]
NOISY = Y == 0


def losses(module: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(module(batch.x), batch.y, reduction="none")


def selections(**options: Any) -> list[Any]:
    """Two selections of one Selector, and the columns of its History."""
    selector = Selector(**{"k": 9, "il": IL, "seed": 4, **options})
    found: list[Any] = []
    for _ in range(2):
        found.append(selector(model(1), Batch(X, Y, IDS)).ids)
        assert selector.last is not None
        found += [selector.last.weights, selector.last.losses]
    return [found, selector.history and selector.history.state_dict()]


def stores(folder: Path) -> list[Any]:
    """Irreducible losses of every kind, saved and loaded."""
    data, recipe = IndexedDataset(TensorDataset(X, Y)), ILRecipe(epochs=2, batch_size=16)
    found = [
        rho_train.crossfit_il(model, data, 2, recipe),
        rho_train.crossfit_il(model, data, 3, recipe, groups=IDS // 2, folder=folder / "work"),
        rho_train.holdout_il(model, data, HALF, recipe, loss_fn=losses),
        rho_train.pretrained_il(model(3), data, batch_size=20),
    ]
    for number, store in enumerate(found):
        store.save(folder / f"{number}", 7 * number)  # in one file, or in several
        loaded = ILStore.load(folder / f"{number}", data)
        assert bool(loaded.gather(IDS[::3]).isfinite().any())
        loaded.check_labels(IDS[::3], Y[IDS[::3]])
        loaded.check()
        found[number] = loaded
    lowest = found[0].lowest(0.3)
    return [[store.il, store.fold] for store in found] + [lowest]


def trained(folder: Path, way: str) -> list[Any]:
    """A run of a few steps, resumed half-way, and its records."""

    def make() -> Trainer:
        options: dict[str, Any] = {"il": IL, "history": History(N)}
        if way == "online":
            options = {"il": OnlineModel(model(5), lr=0.01), "scoring": Scoring(micro_batch=7)}
        selector = None if way == "plain" else Selector(k=8, seed=2, **options)
        data = IndexedDataset(TensorDataset(X, Y))
        config = TrainConfig(steps=6, large_batch=24, batch=8, eval_every=3, log_every=2)
        evaluation = TensorDataset(X[:20], Y[:20])
        ids, flags = IDS, {"noisy": NOISY}
        return Trainer(
            *(model(1), data, ids, evaluation, config, folder),
            name=way,
            selector=selector,
            flags=flags,
        )

    first = make()
    with pytest.raises(rho_train.Stopped):
        first.fit(lambda _: first.step == 3)
    last = make()
    last.fit()
    lines = [
        {k: v for k, v in line.items() if "seconds" not in k and k != "crc32"}
        for line in read_lines(folder / "metrics.jsonl")
    ]
    chosen = folder / "selected.json"
    return [last.model.state_dict(), lines, chosen.read_bytes() if chosen.exists() else None]


def examples() -> IndexedDataset:
    return IndexedDataset([(x, int(y)) for x, y in zip(X, Y, strict=True)], labels=Y.tolist())


def first_batch() -> Batch:
    return next(
        iter(rho_train.loader(examples(), LargeBatchSampler(list(range(N)), 8, seed=0), seed=0))
    )


def own_collate() -> Batch:
    data = IndexedDataset([(X[0], 1)], collate_fn=lambda rows: (X[: len(rows)], Y[: len(rows)]))
    batch: Batch = data.collate([data[0]])
    return batch


OTHERS: dict[str, Callable[[], Any]] = {
    "labels": lambda: [examples().labels, rho_train.fingerprint(examples())],
    "input_checksums": lambda: rho_train.input_checksums(examples()),
    "loader": lambda: list(first_batch()),
    "collate_fn": lambda: list(own_collate()),
    "sequence_losses": lambda: rho_train.sequence_losses(X.reshape(4, 24, 6), Y.reshape(4, 24)),
    "evaluate": lambda: list(evaluate(model(2), TensorDataset(X, Y))),
}
OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"method {name}": lambda name=name: {"method": name} for name in names()},  # type: ignore[misc]
    "history": lambda: {"history": History(N)},
    "micro-batches": lambda: {"history": History(N), "scoring": Scoring(micro_batch=11)},
    "loss_fn": lambda: {"loss_fn": losses},
    "loss_fn, micro-batches": lambda: {"loss_fn": losses, "scoring": Scoring(micro_batch=11)},
    "store": lambda: {"il": ILStore.of(IndexedDataset(TensorDataset(X, Y)), IL)},
    "online": lambda: {"il": OnlineModel(model(5), lr=0.01)},
    "scorer": lambda: {"scorer": model(6), "method": "loss"},
}


@contextmanager
def default(dtype: torch.dtype | None = None, device: str | None = None) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


def exact(value: Any) -> Any:
    """Bits in place of tensors."""
    if isinstance(value, Tensor):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(data).hexdigest()
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_default_dtype_and_device_change_no_bit(tmp_path: Path) -> None:
    works: dict[str, Callable[[Path], Any]] = {
        "stores": stores,
        **{name: lambda _, work=work: work() for name, work in OTHERS.items()},  # type: ignore[misc]
        **{name: lambda _, make=make: selections(**make()) for name, make in OPTIONS.items()},  # type: ignore[misc]
        **{
            f"Trainer {way}": lambda folder, way=way: trained(folder, way)  # type: ignore[misc]
            for way in ("plain", "rho", "online")
        },
    }
    defaults: dict[str, dict[str, Any]] = {
        "float64": {"dtype": torch.float64},
        "bfloat16": {"dtype": torch.bfloat16},
        "meta": {"device": "meta"},
    }
    wanted, wrong = {}, []
    for number, (name, work) in enumerate(works.items()):
        for key, options in {"float32": {}, **defaults}.items():
            folder = tmp_path / f"{key}-{number}"
            folder.mkdir()
            with default(**options):
                try:
                    found = exact(work(folder))
                except Exception as error:
                    if key == "float32":
                        raise
                    found = f"{type(error).__name__}: {error}"
            if wanted.setdefault(name, found) != found:
                wrong.append((name, key, found if isinstance(found, str) else "other bits"))
    assert not wrong, "\n".join(map(str, wrong))
