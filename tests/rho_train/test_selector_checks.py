"""The small batch is scored again once: fields cut wrongly are refused, all else is left alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    Batch,
    ILStore,
    IndexedDataset,
    OnlineModel,
    Scoring,
    Selector,
)
from rho_train.methods.context import ScoringContext, Selected

N, K, F_IN, CLASSES = 8, 4, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, F_IN, generator=GENERATOR)
Y = torch.arange(N) % CLASSES
IDS = torch.arange(N)
IL = torch.full((N,), 9.0).index_fill(0, torch.tensor([0, 3, 5, 6]), -9.0)
BATCH = Batch(X, Y, IDS)
LENGTHS = torch.tensor([3, 2, 5, 4, 2, 3, 4, 5])
OFFSETS = F.pad(LENGTHS.cumsum(0)[:-1], (1, 0))
TEXT = torch.randint(50, (int(LENGTHS.sum()),), generator=GENERATOR)

WORDS = torch.randn(50, CLASSES, generator=GENERATOR)


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(F_IN, CLASSES)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, CLASSES, _weight=WORDS)

    def forward(self, text: Tensor, offsets: Tensor) -> Any:
        return self.bag(text, offsets)


class Weighted(nn.Module):
    def forward(self, features: Tensor, class_weights: Tensor) -> Tensor:
        return features * class_weights


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(F_IN, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.gru(x)[0][-1]


class Noise(nn.Module):
    """Augments by random numbers of torch, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class CountsCalls(nn.Module):
    """Keeps a state that no buffer holds."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Centred(nn.Module):
    """Every example depends on the mean of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Experts(nn.Module):
    """Two experts, of which each takes the first examples that are sent to it, until it is full."""

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0] > 0
        order = torch.where(first, first.cumsum(0), (~first).cumsum(0))
        return torch.where((order <= len(x) // 4)[:, None], 3 * x, torch.zeros_like(x))


def by_function(model: nn.Module, batch: Any) -> Tensor:
    logits = model(batch["x"])
    return F.cross_entropy(logits, batch["labels"], batch["weight"], reduction="none")


def keywords(n: int = N, **fields: Any) -> dict[str, Any]:
    return {**fields, "labels": Y[:n], "ids": IDS[:n]}


W3, W4 = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 9.0, 4.0])
# In the large batch of 3, k = 1: what all examples share broadcasts, and nothing fails.
REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any], str]] = {
    "embedding bag": (
        Bag,
        keywords(text=TEXT, offsets=OFFSETS),
        {"k": 4},
        r"losses differ by up to \d.* nats.*row an example: offsets \(int64 tensor \(8,\)\), labels"
        r".*left whole: text \(int64 tensor \(28,\)\)",
    ),
    "class weights": (
        Weighted,
        keywords(4, features=X[:4], class_weights=W4),
        {"k": 2},
        "the model fails on them: RuntimeError: The size of tensor.*if the field class_weights "
        "stays whole: all examples share it",
    ),
    "one broadcasts": (
        Weighted,
        keywords(3, features=X[:3, :3], class_weights=W3),
        {"k": 1},
        "differ by up to .* nats.*but not if the field class_weights stays whole",
    ),
    "in a function": (
        linear,
        keywords(3, x=X[:3], weight=W3),
        {"k": 2, "loss_fn": by_function},
        "the model fails on them.*but not if the field weight stays whole",
    ),
    "time first, T = n": (
        TimeFirst,
        keywords(x=torch.randn(N, N, F_IN, generator=GENERATOR)),
        {"k": 4},
        r"the model fails on them: ValueError: score: .*Cut as .*: x \(float32 tensor \(8, 8, 4\)",
    ),
    "time first": (
        TimeFirst,
        (torch.randn(6, N, F_IN, generator=GENERATOR), Y, IDS),
        {"k": 4},
        r"left whole: 0 \(float32 tensor \(6, 8, 4\)\). Give every field one row",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_fields_that_are_not_one_row_an_example_are_refused(case: str) -> None:
    make, batch, options, message = REFUSED[case]
    options = {"il": IL, **options}
    for more in ({}, {"scorer": make()}):
        if more and case != "embedding bag":
            continue
        for _ in range(2):
            selector = Selector(**options, **more)
            with pytest.raises(ValueError, match=f"^Selector: .*{message}.*check_batches=False"):
                selector(make(), batch)
            assert (selector.steps, selector.scored) == (0, 0)
    Selector(**options, check_batches=False)(make(), batch)


def test_models_that_cannot_be_checked_are_named_once() -> None:
    draws = "scored twice, the same examples have other losses, so the model draws"
    mixes = "the loss of an example depends on the others of its batch"
    cases = [(Noise(), draws), (CountsCalls(), draws), (Centred(), mixes), (Experts(), mixes)]
    for model, message in cases:
        selector = Selector(il=IL, k=K)
        with pytest.warns(UserWarning, match=f"small batch cannot be checked: {message}"):
            selector(model, BATCH)
        selector(model, BATCH)
        assert selector.steps == 2


class Healthy(nn.Module):
    """All that must be left alone: dropout, BatchNorm, a buffer that eval mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(F_IN), nn.Dropout(0.5), linear()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.widths: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Any:
        assert isinstance(self.calls, Tensor)
        self.calls += 1
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        random.random()
        self.widths.append((len(x), self.training))
        return self.last(self.drop(self.norm(x)))


def weighted(context: ScoringContext) -> Selected:
    return context.top(context.losses)._replace(weights=torch.arange(1.0, context.k + 1))


def twice(context: ScoringContext) -> Selected:
    """Select by the mean of two passes, whose losses are not those of one."""
    scores = sum(context.score_logits("loss", context.forward_pass()).losses for _ in range(2))
    assert isinstance(scores, Tensor)
    return context.top(scores, scores)


HEALTHY: dict[str, tuple[dict[str, Any], list[tuple[int, bool]], list[tuple[int, bool]]]] = {
    "plain": ({}, [(8, False)], [(4, False)]),
    "bf16": ({"scoring": Scoring(bf16=True)}, [(8, False)], [(4, False)]),
    "micro-batches": ({"scoring": Scoring(micro_batch=5)}, [(5, False), (3, False)], [(4, False)]),
    # In training mode the large batch is scored in eval mode too.
    "train mode": (
        {"scoring": Scoring(train_mode=True)},
        [(8, True)],
        [(8, False), (4, False)],
    ),
    "passes": ({"method": twice}, [(8, False)] * 2, [(8, False), (4, False)]),
    "forward": ({"forward": lambda model, batch: model(batch.x)}, [(8, False)], [(4, False)]),
    "losses": (
        {"loss_fn": lambda m, b: F.cross_entropy(m(b.x), b.y, reduction="none")},
        [(8, False)],
        [(4, False)],
    ),
    "global": ({"scope": "global"}, [(8, False)], [(4, False)]),
    "weights": ({"method": weighted}, [(8, False)], [(4, False)]),
    "uniform": ({"method": "uniform"}, [], []),
}


@pytest.mark.parametrize("case", HEALTHY)
def test_one_more_pass_that_changes_nothing(case: str) -> None:
    options, scored, checked = HEALTHY[case]

    def run(check: bool) -> list[Any]:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        model, selector = Healthy(), Selector(il=IL, k=K, check_batches=check, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found: list[Any] = [selector(model, BATCH).ids.tolist() for _ in range(2)]
        first, rest = model.widths[: len(scored)], model.widths[len(scored) :]
        assert first == scored
        assert rest == (checked if check else []) + scored
        assert model.training
        found += [selector.scored, selector.selected, str(model.state_dict())]
        return [*found, torch.rand(3).tolist(), random.random(), np.random.rand()]  # noqa: NPY002

    assert run(check=True) == run(check=False)


def test_only_a_step_that_scored_is_checked() -> None:
    model = Healthy()
    selector = Selector(il=IL, k=K, phases=lambda step: step < 2)
    for _ in range(4):
        selector(model, BATCH)
    assert model.widths == [(8, False), (4, False), (8, False)]
    selector.preview(model, BATCH)
    assert len(model.widths) == 4


def test_no_graph_is_compiled_for_the_small_batch() -> None:
    sizes: list[int] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        sizes.append(len([one for one in inputs if one.ndim == 2 and one.shape[1] == F_IN][-1]))
        return graph.forward

    model = torch.compile(linear(), backend=backend, dynamic=False)
    Selector(il=IL, k=K)(model, BATCH)  # type: ignore[arg-type]
    assert sizes == [8]


def test_labels_of_other_examples_are_refused_in_the_first_selections(tmp_path: Any) -> None:
    data = IndexedDataset(TensorDataset(X, Y))
    store = ILStore.of(data, IL)
    moved = Batch(X.roll(1, 0), Y.roll(1), IDS)
    store.save(tmp_path / "il", rows_a_file=3)
    for source in (store, ILStore.load(tmp_path / "il", data)):
        selector = Selector(il=source, k=K)
        with pytest.raises(ValueError, match="labels of 8 of 8 examples are not those"):
            selector(linear(), moved)
        # Ignored labels may stand for those of the store, and others are read 8 times.
        selector(linear(), BATCH._replace(y=Y.where(IDS > 2, -100)))
        for _ in range(7):
            selector(linear(), BATCH)
        selector(linear(), moved)
        Selector(il=source, k=K, check_batches=False)(linear(), moved)
    Selector(il=IL, k=K)(linear(), moved)


def test_what_is_no_model_or_has_no_parameters_yet_is_named() -> None:
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (BATCH, linear(), TypeError, r"Module, got Batch; call selector\(model, batch\) with"),
        (linear, BATCH, TypeError, "got function; .*in place of the function"),
        (nn.Linear, BATCH, TypeError, "got the class Linear"),
        (nn.LazyLinear(3), BATCH, ValueError, "parameter weight has no shape yet"),
    ]
    for model, batch, error, message in cases:
        with pytest.raises(error, match=f"^Selector: .*{message}"):
            Selector(il=IL, k=K)(model, batch)
        if batch is BATCH:
            with pytest.raises(error, match=message):
                OnlineModel(model)


class Memory(nn.Module):
    """Attends over a memory that all examples share."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.head = nn.Linear(F_IN, CLASSES)
        nn.init.normal_(self.head.weight, std=spread, generator=torch.Generator().manual_seed(1))
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, memory: Tensor) -> Any:
        return self.head((features @ memory.T).softmax(1) @ memory)


def test_a_model_that_has_not_learnt_yet_is_checked_again() -> None:
    memory = 5 * torch.randn(N, F_IN, generator=torch.Generator().manual_seed(2))
    batch = {"features": X, "memory": memory, "labels": Y, "ids": IDS}
    model, selector = Memory(0.0), Selector(k=K, method="loss")
    for _ in range(3):  # all losses are log 3, whatever is cut
        selector(model, batch)
    model.head = Memory(1.0).head
    with pytest.raises(ValueError, match="but not if the field memory stays whole"):
        selector(model, batch)


def test_one_large_loss_does_not_hide_the_others() -> None:
    memory = 5 * torch.randn(N, F_IN, generator=torch.Generator().manual_seed(2))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        losses = F.cross_entropy(
            model(batch["features"], batch["memory"]), batch["labels"], reduction="none"
        )
        return torch.where(batch["ids"] == 7, 1e6, losses)

    batch = {"features": X, "memory": memory, "labels": Y, "ids": IDS}
    with pytest.raises(ValueError, match="not cut right"):
        Selector(k=K, method="loss", loss_fn=loss_fn)(Memory(1.0), batch)


def test_what_a_model_keeps_by_batch_size_can_be_trained_with() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.kept = linear(), dict[int, Tensor]()

        def forward(self, x: Tensor) -> Any:
            if len(x) not in self.kept:
                self.kept[len(x)] = torch.ones(len(x), 1)
            return self.linear(x) * self.kept[len(x)]

    model = Keeps()
    small = Selector(k=K, method="loss")(model, BATCH)
    F.cross_entropy(model(small.x), small.y).backward()  # type: ignore[no-untyped-call]


def test_errors_of_the_device_and_labels_changed_on_purpose_say_what_they_are() -> None:
    class Full(nn.Module):
        def forward(self, x: Tensor) -> Any:
            if len(x) < N:
                raise torch.OutOfMemoryError("out of memory")
            return x

    with pytest.raises(torch.OutOfMemoryError):
        Selector(k=K, method="loss")(Full(), BATCH)
    store = ILStore.of(IndexedDataset(TensorDataset(X, Y)), IL)
    with pytest.raises(ValueError, match=r"need Selector\(check_batches=False\)"):
        Selector(il=store, k=K)(linear(), BATCH._replace(y=Y.flip(0)))
    # Examples without a label are ignored, with a loss function too.
    some = BATCH._replace(y=Y.index_fill(0, torch.tensor([1, 2]), -100))
    losses = Selector(il=store, k=K, loss_fn=lambda model, batch: model(batch.x).square().sum(1))
    assert len(losses(linear(), some).ids) == K


def test_ids_of_none_are_no_ids() -> None:
    selector = Selector(k=K, method="loss")
    for batch in (BATCH._replace(ids=None), (X, Y, None), {"x": X, "labels": Y, "ids": None}):  # type: ignore[arg-type]
        selector(linear(), batch)
    assert selector.selected == 3 * K


def test_a_proxy_need_not_take_small_batches() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.view(N, F_IN)

    with pytest.warns(UserWarning, match="the model fails on them"):
        small = Selector(k=K, method="loss", scorer=Fixed())(linear(), BATCH)
    assert len(small.ids) == K
    with pytest.raises(ValueError, match="not cut right"):
        Selector(k=K, method="loss")(Fixed(), BATCH)
