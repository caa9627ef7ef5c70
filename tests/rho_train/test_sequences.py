"""Examples that are no classification: sequences of tokens, and losses by a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    Batch,
    ILRecipe,
    ILStore,
    IndexedDataset,
    OnlineModel,
    Scoring,
    Selector,
    TrainConfig,
    Trainer,
    crossfit_il,
    pretrained_il,
    score_examples,
    sequence_losses,
)
from rho_train.methods.context import ScoringContext, Selected

N, T, C = 40, 7, 11


def drawn(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits (N, T, C) and labels (N, T), a third of them ignored and row 3 wholly."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, T, C, generator=generator)
    labels = torch.randint(0, C, (N, T), generator=generator)
    labels[torch.rand(N, T, generator=generator) < 1 / 3] = -100
    labels[3] = -100
    return logits.to(dtype), labels


def truth(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of the tokens of each sequence in float64, token by token."""
    log_p = logits.double().log_softmax(2)
    rows = []
    for row, own in zip(log_p, labels, strict=True):
        losses = [-row[t, label] for t, label in enumerate(own.tolist()) if label != -100]
        rows.append(torch.stack(losses).mean() if losses else torch.tensor(torch.nan).double())
    return torch.stack(rows)


@pytest.mark.parametrize("grad", [False, True])
def test_the_loss_of_a_sequence_is_the_mean_of_its_tokens(grad: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for kind in (torch.int64, torch.int32):
            logits, labels = drawn(dtype=dtype)
            found = sequence_losses(logits.requires_grad_(grad), labels.to(kind))
            assert found.requires_grad == grad
            wanted = truth(logits, labels).float()
            torch.testing.assert_close(found.detach(), wanted, equal_nan=True)
    logits, labels = drawn()
    found = sequence_losses(logits.requires_grad_(grad), labels, shift=True).detach()
    wanted = truth(logits[:, :-1], labels[:, 1:]).float()
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_a_sequence_without_tokens_has_no_part_in_the_gradient() -> None:
    logits, labels = drawn()
    own, wanted = logits.requires_grad_(), logits.detach().double().requires_grad_()
    sequence_losses(own, labels).nanmean().backward()
    known = truth(wanted, labels)
    known[~known.isnan()].mean().backward()
    assert own.grad is not None
    assert wanted.grad is not None
    assert not own.grad[3].any()
    torch.testing.assert_close(own.grad, wanted.grad.float())


class Table(nn.Module):
    """Logits (n, T, C) of the sequences whose numbers it is called with."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.widths: list[int] = []

    def forward(self, numbers: Tensor) -> Tensor:
        self.widths.append(len(numbers))
        return self.logits[numbers]


def losses(model: nn.Module, batch: Any) -> Tensor:
    return sequence_losses(model(batch.x), batch.y)


def large(rows: Tensor) -> tuple[Batch, Tensor]:
    """A large batch of sequences whose ids are 100 and more, and the losses of its rows."""
    logits, labels = drawn()
    return Batch(rows, labels[rows], rows + 100), truth(logits, labels)[rows]


IL = torch.rand(N + 100, generator=torch.Generator().manual_seed(5)) * 4
ROWS = torch.randperm(N, generator=torch.Generator().manual_seed(6))[:24]


@pytest.mark.filterwarnings("ignore:Selector. examples without a usable score")
@pytest.mark.parametrize(("method", "micro_batch"), [("rho", 5), ("loss", None), ("neg_il", 5)])
def test_a_selector_selects_the_best_sequences(method: str, micro_batch: int | None) -> None:
    # The sequence without a loss has the lowest IL.
    batch, ce = large(torch.where(ROWS == 12, 3, ROWS))
    assert ce.isnan().sum() == 1
    table = IL.clone()
    table[batch.ids[ce.isnan()]] = -1.0
    il = table.double()[batch.ids]
    scores = {"rho": ce - il, "loss": ce, "neg_il": -il}[method].nan_to_num(-torch.inf)
    scores[ce.isnan()] = -torch.inf
    model = Table(drawn()[0])
    state = torch.get_rng_state()
    selector = Selector(
        il=table, k=6, method=method, loss_fn=losses, scoring=Scoring(micro_batch=micro_batch)
    )
    small = selector(model, batch)
    assert set(small.ids.tolist()) == set(batch.ids[scores.topk(6).indices].tolist())
    assert small.y.shape == (6, T)
    assert torch.equal(torch.get_rng_state(), state)
    # The last ones are the small batch, which is checked once.
    assert model.widths == ([24, 6] if micro_batch is None else [5, 5, 5, 5, 4, 5, 1])
    assert selector.last is not None
    assert selector.last.losses is not None
    torch.testing.assert_close(selector.last.losses, ce.float(), equal_nan=True)


def test_a_sequence_without_tokens_is_counted_and_never_selected() -> None:
    batch, ce = large(torch.tensor([1, 3, 5]))
    assert ce.isnan().tolist() == [False, True, False]
    selector = Selector(k=3, method="loss", loss_fn=losses)
    with pytest.warns(UserWarning, match="1 of 3 losses are NaN"):
        small = selector(Table(drawn()[0]), batch)
    assert small.ids.tolist() == [101, 105]
    assert selector.invalid == 1


def test_uniform_selection_draws_sequences() -> None:
    small = Selector(k=5, method="uniform", loss_fn=losses)(Table(drawn()[0]), large(ROWS)[0])
    assert len(small.ids.unique()) == 5


def test_a_function_without_a_mean_is_plain_classification() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randn(30, 5, generator=generator),
        torch.randint(0, 3, (30,), generator=generator),
        torch.arange(30),
    )
    model = nn.Linear(5, 3)

    def own(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.x), batch.y, reduction="none")

    ids = [Selector(il=IL, k=9, loss_fn=fn)(model, batch).ids.tolist() for fn in (None, own)]
    assert ids[0] == ids[1]


class Bigrams(nn.Module):
    """Logits of the next token by the token before it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.table = nn.Embedding(C, C)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.table(tokens)
        return found


def next_token(model: nn.Module, batch: Any) -> Tensor:
    return sequence_losses(model(batch.x), batch.x, shift=True)


def texts(seed: int = 0) -> tuple[IndexedDataset, Tensor]:
    """Sequences that count on from a token, and at odd places tokens that follow no rule."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, C, (400, 1), generator=generator)
    tokens = (starts + torch.arange(12)) % C
    noisy = torch.arange(400) % 2 == 1
    tokens[noisy] = torch.randint(0, C, (200, 12), generator=generator)
    return IndexedDataset(TensorDataset(tokens, tokens)), noisy


RECIPE = ILRecipe(epochs=4, batch_size=20, lr=0.1)


def test_irreducible_losses_of_sequences_tell_noise_from_what_can_be_learnt(
    tmp_path: Path,
) -> None:
    data, noisy = texts()
    store = crossfit_il(Bigrams, data, 2, RECIPE, loss_fn=next_token)
    assert store.known.all()
    assert store.info["loss_function"] == f"{__name__}.next_token"
    # Random tokens cost log C, the others next to nothing.
    assert float(store.il[noisy].min()) > float(store.il[~noisy].max())
    selector = Selector(il=store, ratio=0.25, loss_fn=next_token)
    ids = torch.arange(400)
    batch = Batch(data.dataset.tensors[0], data.dataset.tensors[1], ids)
    fresh = Bigrams(seed=9)
    assert not noisy[selector(fresh, batch).ids].any()
    assert noisy[Selector(k=100, method="loss", loss_fn=next_token)(fresh, batch).ids].any()
    path = tmp_path / "il.safetensors"
    store.save(path)
    assert torch.equal(ILStore.load(path, data).il, store.il)
    with pytest.raises(ValueError, match="examples differ"):
        ILStore.load(path, texts(seed=1)[0])


def test_the_labels_of_data_without_classes_are_part_of_what_a_store_is_of(tmp_path: Path) -> None:
    tokens = texts()[0].dataset.tensors[0]
    store = pretrained_il(
        Bigrams(0), IndexedDataset(TensorDataset(tokens, tokens)), loss_fn=next_token
    )
    store.save(tmp_path / "il.safetensors")
    # The first half is a prompt now.
    answers = tokens.index_fill(1, torch.arange(6), -100)
    for labels, refused in ((tokens, False), (answers, True)):
        data = IndexedDataset(TensorDataset(tokens, labels))
        if refused:
            with pytest.raises(ValueError, match="64 of 64 examples differ"):
                ILStore.load(tmp_path / "il.safetensors", data)
        else:
            assert ILStore.load(tmp_path / "il.safetensors", data).known.all()


def test_a_finished_model_scores_sequences_in_pieces(tmp_path: Path) -> None:
    data, _ = texts()
    model = Bigrams(seed=3)
    tokens = data.dataset.tensors[0]
    wanted = truth(model(tokens)[:, :-1].detach(), tokens[:, 1:])
    store = pretrained_il(model, data, loss_fn=next_token, batch_size=7, folder=tmp_path)
    torch.testing.assert_close(store.il, wanted.float())
    again = score_examples(
        model, data, torch.arange(400), loss_fn=next_token, batch_size=7, folder=tmp_path
    )
    assert torch.equal(again, store.il)
    # Pieces of another function are not its own.
    with pytest.raises(ValueError, match="another loss_function"):
        score_examples(
            model, data, torch.arange(400), loss_fn=losses, batch_size=7, folder=tmp_path
        )


def test_an_online_model_learns_by_the_same_losses() -> None:
    data, _ = texts()
    tokens = data.dataset.tensors[0]
    online = OnlineModel(Bigrams(seed=1), lr=0.1, weight_decay=0.0)
    twin = Bigrams(seed=1)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.0, fused=True)
    selector = Selector(il=online, k=20, loss_fn=next_token)
    for step in range(3):
        rows = torch.arange(100) + 100 * step
        small = selector(Bigrams(seed=2), Batch(tokens[rows], tokens[rows], rows))
        optimizer.zero_grad()
        next_token(twin, small).mean().backward()
        optimizer.step()
    assert torch.equal(twin.table.weight, online.model.table.weight)  # type: ignore[union-attr]


def mean(model: nn.Module, batch: Any) -> Tensor:
    return losses(model, batch).nanmean()


def asks_for_logits(context: ScoringContext) -> Selected:
    return context.top(context.logits.sum(1))


def of_classes(context: ScoringContext) -> Selected:
    return context.top(context.labels.float())


of_classes.needs = ("classes",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sequence_losses(torch.zeros(2, 3), torch.zeros(2)), ValueError, r"\(n, T, C\)"),
        (lambda: Selector(k=1, method="loss", loss_fn=3), TypeError, "got 3"),
        (
            lambda: Selector(k=1, method="grad_norm", loss_fn=losses),
            ValueError,
            "method 'grad_norm' needs logits",
        ),
        (
            lambda: Selector(k=1, method=of_classes, loss_fn=losses),
            ValueError,
            "needs classes",
        ),
        (
            lambda: Selector(k=1, method="loss", loss_fn=losses, label_smoothing=0.1),
            ValueError,
            "leave label_smoothing out",
        ),
        (
            lambda: Selector(k=1, method="loss", loss_fn=losses, forward=losses),
            ValueError,
            "leave forward out",
        ),
        (
            lambda: Selector(k=1, method="loss", loss_fn=mean)(Table(drawn()[0]), large(ROWS)[0]),
            ValueError,
            r"floating point \(24,\), got float32 tensor \(\)",
        ),
        (
            lambda: Selector(k=1, method=asks_for_logits, loss_fn=losses)(
                Table(drawn()[0]), large(ROWS)[0]
            ),
            ValueError,
            "loss_fn= gives losses, the method wants logits",
        ),
        (
            lambda: Selector(il=IL[:120], k=1, loss_fn=losses)(Table(drawn()[0]), large(ROWS)[0]),
            IndexError,
            r"ids must lie in \[0, 120\), got 138; il must have one row an example",
        ),
        (
            lambda: crossfit_il(Bigrams, texts()[0], 2, RECIPE, loss_fn=mean),
            ValueError,
            r"train_il: loss_fn must return the loss of each example, floating point \(20,\)",
        ),
        (
            lambda: pretrained_il(
                Bigrams(0),
                texts()[0],
                loss_fn=lambda _, batch: torch.full((len(batch.x),), torch.nan),
            ),
            ValueError,
            "none of the losses of the first 32 examples is finite",
        ),
        (
            lambda: crossfit_il(Bigrams, texts()[0], 2, RECIPE),
            ValueError,
            r"must return logits \(20, C\).*got .* \(20, 12, 11\); without classes give loss_fn=",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_trainer_is_for_classifiers(tmp_path: Path) -> None:
    data = IndexedDataset(TensorDataset(torch.randn(8, 2), torch.arange(8) % 2))
    with pytest.raises(ValueError, match="call a Selector with loss_fn= in a loop of your own"):
        Trainer(
            nn.Linear(2, 2),
            data,
            torch.arange(8),
            data,
            TrainConfig(steps=1, large_batch=4, batch=2),
            tmp_path,
            name="x",
            selector=Selector(k=2, method="loss", loss_fn=losses),
        )
