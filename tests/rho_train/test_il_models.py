"""No example is scored by a model that saw it, and the best epoch is selected."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import (
    ILRecipe,
    IndexedDataset,
    crossfit_il,
    holdout_il,
    pretrained_il,
    score_examples,
)
from rho_train.il import train_il
from rho_train.progress import Stopped
from rho_train.tasks import mlp

N = 60


def make_data(seed: int = 0) -> IndexedDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=generator)
    # The first feature is the id itself, so that a model can tell which examples it was shown.
    x[:, 0] = torch.arange(N)
    return IndexedDataset(TensorDataset(x, torch.randint(0, 3, (N,), generator=generator)))


def tensors_of(data: IndexedDataset) -> tuple[Tensor, ...]:
    assert isinstance(data.dataset, TensorDataset)
    return data.dataset.tensors


def make_model(seed: int) -> nn.Module:
    # Dropout makes it visible when training draws from the global generator.
    model = mlp(4, [16], 3, seed=seed)
    return nn.Sequential(model[0], nn.Dropout(0.3), *model[1:])


class Witness(nn.Module):
    """Remembers the ids that it trained on and the ids that it scored."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.trained: set[int] = set()
        self.scored: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        (self.trained if self.training else self.scored).update(x[:, 0].int().tolist())
        return self.layer(x / N)


def test_cross_fit_never_scores_an_example_with_a_model_that_saw_it() -> None:
    for folds in (2, 3, 7):
        witnesses = [Witness() for _ in range(folds)]
        recipe = ILRecipe(epochs=1, batch_size=1)
        store = crossfit_il(witnesses.__getitem__, make_data(), folds, recipe)
        assert store.known.all()
        assert store.fold is not None
        for fold, witness in enumerate(witnesses):
            members = set((store.fold == fold).nonzero().flatten().tolist())
            assert witness.scored == members
            assert witness.trained == set(range(N)) - members
            assert len(members) in (N // folds, N // folds + 1)


def test_copies_are_in_one_fold() -> None:
    data, recipe = make_data(), ILRecipe(epochs=1)
    groups = torch.arange(N) % 25 + 100
    fold = crossfit_il(make_model, data, 3, recipe, groups=groups).fold
    assert fold is not None
    assert fold.unique().tolist() == [0, 1, 2]
    assert all(len(fold[groups == group].unique()) == 1 for group in groups.unique())
    # Examples that are all different get the folds that they get without groups.
    alone = crossfit_il(make_model, data, 3, recipe, groups=torch.arange(N) + 7)
    assert torch.equal(alone.il, crossfit_il(make_model, data, 3, recipe).il)
    with pytest.raises(ValueError, match=r"groups must have shape \(60,\).* got \(3,\)"):
        crossfit_il(make_model, data, 3, recipe, groups=torch.arange(3))
    with pytest.raises(ValueError, match="3 folds need as many groups, got 2"):
        crossfit_il(make_model, data, 3, recipe, groups=torch.arange(N) % 2)


def test_holdout_scores_exactly_the_other_examples() -> None:
    held_out = torch.tensor([3, 1, 59, 20])
    witness = Witness()
    store = holdout_il(lambda seed: witness, make_data(), held_out, ILRecipe(1, batch_size=1))
    assert (~store.known).nonzero().flatten().tolist() == sorted(held_out.tolist())
    assert witness.trained == set(held_out.tolist())


def test_il_is_the_loss_of_the_final_model_at_the_example() -> None:
    data, model = make_data(), make_model(0)
    store = holdout_il(lambda seed: model, data, torch.arange(20), ILRecipe(epochs=3))
    x, y = tensors_of(data)
    model.eval()
    with torch.no_grad():
        logits = model(x[20:])
    expected = nn.functional.cross_entropy(logits, y[20:], reduction="none")
    torch.testing.assert_close(store.il[20:], expected, rtol=1e-5, atol=1e-6)
    assert store.predicted is not None
    assert store.predicted.tolist() == [-1] * 20 + logits.argmax(1).tolist()


def test_a_holdout_of_its_own_gives_every_example_the_loss_of_the_model_at_its_best(
    tmp_path: Path,
) -> None:
    data, curated, model = make_data(), make_data(seed=1), make_model(0)
    by_epoch: list[float] = []
    seen: set[int] = set()

    def watch(steps: int) -> bool:
        if steps:
            x, y = tensors_of(curated)
            model.eval()
            with torch.no_grad():
                losses = nn.functional.cross_entropy(model(x), y, reduction="none")
            model.train()
            by_epoch.append(float(losses[[i for i in range(N) if i not in seen]].mean()))
        return False

    def forward(module: nn.Module, batch: Any) -> Tensor:
        if module.training:
            seen.update(batch.x[:, 0].int().tolist())
        return module(batch.x)  # type: ignore[no-any-return]

    # One step is one epoch of four fifths of the curated examples.
    recipe = ILRecipe(epochs=30, lr=0.05)
    store = holdout_il(lambda s: model, data, curated, recipe, forward=forward, on_step=watch)
    assert len(seen) == N - N // 5
    best = 1 + by_epoch.index(min(by_epoch))
    assert 1 < best < 30
    assert store.info["best_epoch"] == f"{best}"
    assert store.info["kind"] == f"curated, {N} examples"
    x, y = tensors_of(data)
    model.eval()
    with torch.no_grad():
        wanted = nn.functional.cross_entropy(model(x), y, reduction="none")
    torch.testing.assert_close(store.il, wanted, rtol=1e-5, atol=1e-6)
    holdout_il(make_model, data, curated, ILRecipe(epochs=1), folder=tmp_path)
    x, y = tensors_of(curated)
    moved = IndexedDataset(TensorDataset(x + 1, y))
    with pytest.raises(ValueError, match="belongs to a run with another inputs"):
        holdout_il(make_model, data, moved, ILRecipe(epochs=1), folder=tmp_path)
    one = IndexedDataset(TensorDataset(torch.zeros(1, 4), torch.zeros(1).long()))
    with pytest.raises(ValueError, match="holdout has 1 examples; give two at least"):
        holdout_il(make_model, data, one, recipe)
    with pytest.raises(TypeError, match="wrap it"):
        holdout_il(make_model, data, curated.dataset, recipe)
    wide = IndexedDataset(TensorDataset(torch.zeros(5, 9), torch.zeros(5).long()))
    with pytest.raises(ValueError, match="holdout_il: the model cannot take the batch"):
        holdout_il(make_model, wide, curated, ILRecipe(epochs=10**9))


def test_the_epoch_with_the_lowest_loss_on_the_target_examples_is_used() -> None:
    data, model = make_data(), make_model(0)
    train, target = torch.arange(20), torch.arange(20, N)
    by_epoch: list[float] = []

    def watch(steps: int) -> bool:
        if steps:
            by_epoch.append(float(score_examples(model, data, target).mean()))
        return False

    # One step is one epoch of these 20 examples.
    best = train_il(model, data, train, target, ILRecipe(epochs=30, lr=0.05), on_step=watch)
    assert best.loss == min(by_epoch)
    assert best.epoch == 1 + by_epoch.index(best.loss)
    # Random labels: the model memorises, so the last epoch is not the best one.
    assert by_epoch[-1] > best.loss
    assert float(score_examples(model, data, target).mean()) == best.loss


def test_the_rate_decays_to_zero_over_all_epochs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (N,), generator=generator)
    torch.manual_seed(0)
    model = nn.Linear(4, 3, dtype=torch.float64)
    by_hand = copy.deepcopy(model)
    after: list[Tensor] = []

    def watch(steps: int) -> bool:
        if steps:
            after.append(model.weight.detach().clone())
        return False

    data, train, target = IndexedDataset(TensorDataset(x, y)), torch.arange(20), torch.arange(20, N)
    recipe = ILRecipe(epochs=3, lr=0.3, schedule="linear", weight_decay=0.0)
    train_il(model, data, train, target, recipe, on_step=watch)
    optimizer = torch.optim.AdamW(by_hand.parameters(), weight_decay=0.0)
    # One step is one epoch of these 20 examples.
    for weight, rate in zip(after, (0.3, 0.2, 0.1), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(x[:20]), y[:20]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        torch.testing.assert_close(weight, by_hand.weight)


def test_same_seed_same_bits_and_global_random_state_untouched() -> None:
    state = torch.get_rng_state()
    one = crossfit_il(make_model, make_data(), 2, ILRecipe(epochs=2))
    torch.rand(5)
    two = crossfit_il(make_model, make_data(), 2, ILRecipe(epochs=2))
    assert torch.equal(one.il, two.il)
    assert one.info["weights_sha256"] == two.info["weights_sha256"]
    torch.set_rng_state(state)
    crossfit_il(make_model, make_data(), 2, ILRecipe(epochs=1))
    assert torch.equal(torch.get_rng_state(), state)
    other = crossfit_il(make_model, make_data(), 2, ILRecipe(epochs=2, seed=1))
    assert not torch.equal(one.il, other.il)


def test_examples_without_a_label_have_no_irreducible_loss() -> None:
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    y[::4] = -100
    store = crossfit_il(make_model, IndexedDataset(TensorDataset(x, y)), 2, ILRecipe(epochs=2))
    assert torch.equal(store.known, y != -100)
    assert all(float(loss) > 0 for loss in store.info["holdout_loss"].split(", "))


def test_no_examples_have_no_losses() -> None:
    data = IndexedDataset([(torch.zeros(4), 0)], labels=[0])
    assert score_examples(make_model(0), data, torch.arange(0)).shape == (0,)


def test_a_pretrained_model_is_asked_in_eval_mode_and_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(make_model(3), nn.BatchNorm1d(3))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    store = pretrained_il(model, make_data(), batch_size=7)
    again = pretrained_il(model, make_data(), batch_size=3, folder=tmp_path)  # in pieces
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
    data = make_data().dataset
    assert isinstance(data, TensorDataset)
    with torch.no_grad():
        logits = model(data.tensors[0])
    expected = nn.functional.cross_entropy(logits, data.tensors[1], reduction="none")
    for one in (store, again):
        torch.testing.assert_close(one.il, expected, rtol=1e-5, atol=1e-6)
        assert one.predicted is not None
        assert one.predicted.tolist() == logits.argmax(1).tolist()
    losses = pretrained_il(model, make_data(), loss_fn=lambda model, batch: batch.x[:, 0])
    assert losses.predicted is None


class Augmented(TensorDataset):
    """Jitters its inputs by torch's generator."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return x + torch.tensor([0.0, 1.0, 1.0, 1.0]) * torch.randn(4), y


def test_augmentation_is_for_training_alone() -> None:
    plain = make_data()
    assert isinstance(plain.dataset, TensorDataset)
    augmented = IndexedDataset(Augmented(*plain.dataset.tensors))
    seen: list[tuple[bool, Tensor]] = []
    model = make_model(0)
    model.register_forward_pre_hook(lambda m, args: seen.append((m.training, args[0])))
    recipe = ILRecipe(epochs=2, batch_size=8)
    store = holdout_il(lambda s: model, plain, torch.arange(20), recipe, augmented=augmented)
    x = plain.dataset.tensors[0]
    assert {training for training, _ in seen} == {True, False}
    for training, inputs in seen:
        assert torch.equal(inputs, x[inputs[:, 0].long()]) is not training
    assert int(store.known.sum()) == 40
    state = torch.get_rng_state()
    for compute in (
        lambda: holdout_il(make_model, augmented, torch.arange(20), recipe),
        lambda: crossfit_il(make_model, augmented, 2, recipe),
        lambda: pretrained_il(make_model(0), augmented),
    ):
        with pytest.raises(ValueError, match="other inputs when it is read again"):
            compute()
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="augmented must have the examples and labels of dataset"):
        crossfit_il(make_model, plain, 2, recipe, augmented=make_data(seed=1))


def test_a_late_divergence_keeps_the_best_epoch() -> None:
    class Late(nn.Linear):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += self.training
            return super().forward(x / N) * (1.0 if self.steps < 2 else torch.nan)

    model = Late(4, 3)
    fit = train_il(model, make_data(), torch.arange(6), torch.arange(6, N), ILRecipe(epochs=9))
    assert fit.epoch == 1.0
    assert model.steps == 2  # no step is made in vain
    assert fit.loss < 3.0


def test_bad_input_is_refused(tmp_path: Path) -> None:
    data, model = make_data(), make_model(0)
    with pytest.raises(ValueError, match=r"1 examples are in train_ids and in target_ids.*id 5"):
        train_il(model, data, torch.arange(6), torch.arange(5, N), ILRecipe(epochs=1))
    # Again with the same folder: a rank that waits for this training must learn of it, too.
    for _ in range(2):
        recipe, rest = ILRecipe(epochs=1, lr=1e38), torch.arange(6, N)
        with pytest.raises(FloatingPointError, match="lower ILRecipe.lr"):
            train_il(make_model(0), data, torch.arange(6), rest, recipe, folder=tmp_path)
    for wrong in (torch.empty(N), torch.empty(N + 1).int(), torch.empty(2, N).int()):
        with pytest.raises(ValueError, match=r"predicted must be an int32 tensor \(60,\)"):
            score_examples(model, data, torch.arange(N), predicted=wrong)
    with pytest.raises(ValueError, match=r"folds must lie in \[2, 60\], got 1"):
        crossfit_il(make_model, data, folds=1)
    with pytest.raises(ValueError, match="all 60 examples are held out"):
        holdout_il(make_model, data, torch.arange(N))


def test_stopping_at_the_next_step() -> None:
    made: list[int] = []

    def third(steps: int) -> bool:
        made.append(steps)
        return len(made) == 3

    with pytest.raises(Stopped):
        crossfit_il(make_model, make_data(), 2, ILRecipe(epochs=9, batch_size=4), on_step=third)
    assert made == [1, 1, 1]
