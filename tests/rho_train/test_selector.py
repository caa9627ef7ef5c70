"""The Selector: what it selects, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy
import sys
from collections import UserDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rho_train import Batch, History, ILStore, IndexedDataset, Scoring, Selector, fingerprint
from rho_train.methods.context import ScoringContext, Selected

# Losses by hand: logits (0, 0) cost log 2, (a, 0) cost log(1 + e^-a) for label 0.
X = torch.tensor([[9.0, 0.0], [0.0, 0.0], [-3.0, 0.0], [-9.0, 0.0]])
Y = torch.zeros(4, dtype=torch.int64)
IDS = torch.tensor([5, 2, 7, 0])
# The last example is the hardest, but its irreducible loss says that it cannot be learnt.
TABLE = torch.zeros(8).index_fill(0, torch.tensor([0]), 9.0)


@dataclass
class Named:
    x: Tensor
    y: Tensor
    ids: Tensor
    name: str = "kept"


class Noise(nn.Module):
    """Draws random numbers in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class KeywordModel(nn.Module):
    def forward(self, features: Tensor, scale: float) -> Any:
        return UserDict(logits=features * scale)


def test_selects_the_examples_with_the_largest_reducible_loss() -> None:
    small = Selector(il=TABLE, k=2)(nn.Identity(), Batch(X, Y, IDS))
    # CE - IL = (0, 0.69, 3.05, 0.00): rows 1 and 2, in the order of the large batch.
    assert small.ids.tolist() == [2, 7]
    assert torch.equal(small.x, X[[1, 2]])
    by_loss = Selector(k=2, method="loss")(nn.Identity(), Batch(X, Y, IDS))
    assert by_loss.ids.tolist() == [7, 0]


def test_a_step_takes_four_files_and_parses_the_batch_once() -> None:
    """The parser of `batch` is beside the path."""
    for micro_batch in (None, 2):
        selector = Selector(il=TABLE, k=2, scoring=Scoring(micro_batch=micro_batch))
        selector(nn.Identity(), Batch(X, Y, IDS))
        calls: list[tuple[str, str]] = []

        def record(frame: Any, event: str, _: object, calls: list[Any] = calls) -> None:
            name = frame.f_globals.get("__name__", "")
            if event == "call" and name.startswith("rho_train."):
                calls.append((name.removeprefix("rho_train."), frame.f_code.co_name))

        sys.setprofile(record)
        try:
            selector(nn.Identity(), Batch(X, Y, IDS))
        finally:
            sys.setprofile(None)
        files = {"selector", "scoring", "methods.context", "methods.registry", "batch"}
        assert {name for name, _ in calls} == files
        assert [function for _, function in calls].count("split") == 1


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y, IDS),
        [X, Y, IDS],
        Batch(X, Y, IDS),
        Named(X, Y, IDS),
        {"x": X, "labels": Y, "ids": IDS, "source": "web"},
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_structure_is_kept(batch: Any) -> None:
    small = Selector(il=TABLE, ratio=0.5)(nn.Identity(), batch)
    assert type(small) is type(batch)
    values = small.values() if isinstance(small, dict) else small
    if isinstance(small, Named):
        values = (small.x, small.y, small.ids, small.name)
    tensors = [value for value in values if isinstance(value, Tensor)]
    assert [len(value) for value in tensors] == [2, 2, 2]
    assert torch.equal(tensors[-1], IDS[[1, 2]])
    if isinstance(small, dict):
        assert small["source"] == "web"


def test_keyword_inputs_logits_in_a_mapping_and_forward() -> None:
    batch = {"features": X, "scale": 1.0, "labels": Y, "ids": IDS}
    small = Selector(il=TABLE, k=1)(KeywordModel(), batch)
    assert small["ids"].tolist() == [7]
    picked = Selector(il=TABLE, k=1, forward=lambda model, b: model(b["features"]))
    assert picked(nn.Identity(), batch)["ids"].tolist() == [7]


def test_store_and_tensor_are_the_same() -> None:
    data = IndexedDataset(TensorDataset(torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64)))
    store = ILStore(TABLE, fingerprint(data))
    one, two = Selector(il=store, k=2), Selector(il=TABLE, k=2)
    batch = Batch(X, Y, IDS)
    assert torch.equal(one(nn.Identity(), batch).ids, two(nn.Identity(), batch).ids)


def test_the_table_follows_the_batch_to_its_device_once() -> None:
    selector = Selector(il=TABLE, k=1)
    first, again = ((selector.il_of(IDS.to("meta")), selector._il_table)[1] for _ in range(2))
    assert first is not None
    assert first.device.type == "meta"
    assert again is first


def test_scoring_leaves_the_model_and_the_random_state_alone() -> None:
    torch.manual_seed(0)
    frozen = nn.BatchNorm1d(2).eval()
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), frozen, nn.Linear(2, 2), Noise())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    random_state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="have other losses, so the model draws"):
        batch = Selector(il=TABLE, k=2)(model, Batch(X, Y, IDS))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert not frozen.training
    assert torch.equal(torch.get_rng_state(), random_state)
    # The batch must still be good for training.
    nn.functional.cross_entropy(model(batch.x), batch.y).backward()
    assert model[3].weight.grad is not None


def test_scoring_uses_eval_mode() -> None:
    seen: list[bool] = []

    class Probe(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.training or torch.is_grad_enabled())
            return x

    Selector(il=TABLE, k=1)(Probe(), Batch(X, Y, IDS))
    assert seen == [False, False]


def test_distributed_model_is_scored_unwrapped(tmp_path: Any) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        calls: list[str] = []
        model.register_forward_pre_hook(lambda *_: calls.append("wrapper"))
        model.module.register_forward_pre_hook(lambda *_: calls.append("module"))
        Selector(il=TABLE, k=1)(model, Batch(X, Y, IDS))
        assert calls == ["module", "module"]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("ratio", "n", "k"), [(0.1, 320, 32), (0.29, 100, 29), (0.001, 10, 1), (1.0, 7, 7), (0.5, 5, 3)]
)
def test_ratio_rounds_and_keeps_at_least_one(ratio: float, n: int, k: int) -> None:
    assert Selector(ratio=ratio, method="loss").size(n) == k


def test_fewer_usable_examples_than_k() -> None:
    labels = torch.tensor([-100, 0, -100, 0])
    selector = Selector(il=TABLE, k=3)
    assert selector(nn.Identity(), Batch(X, labels, IDS)).ids.tolist() == [2, 0]
    assert selector.selected == 2


def test_examples_without_a_usable_score_are_named_once() -> None:
    table = TABLE.clone()
    table[7] = torch.nan
    selector = Selector(il=table, k=2)
    with pytest.warns(UserWarning, match=r"irreducible loss of 1 of 4 examples is unknown"):
        small = selector(nn.Identity(), Batch(X, Y, IDS))
    assert small.ids.tolist() == [5, 2]
    selector(nn.Identity(), Batch(X, Y, IDS))
    assert selector.invalid == 2


def test_autocast_of_the_caller_is_kept_unless_told() -> None:
    seen: list[torch.dtype] = []

    def forward(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(model(batch.x).dtype)
        return batch.x

    for bf16 in (None, True, False):
        with torch.autocast("cpu", torch.bfloat16):
            selector = Selector(il=TABLE, k=1, scoring=Scoring(bf16=bf16), forward=forward)
            selector(nn.Linear(2, 2), Batch(X, Y, IDS))
    # The second pass of each is the check of the small batch.
    assert seen == [torch.bfloat16] * 4 + [torch.float32] * 2


def test_identity_tells_selectors_apart() -> None:
    one = Selector(il=TABLE, k=2)
    assert one.identity() == Selector(il=TABLE.clone(), k=2).identity()
    early, late = (Selector(il=TABLE, k=2, phases=lambda t, n=n: t < n) for n in (5, 9))  # type: ignore[misc]
    assert early.identity(6) != late.identity(6)
    assert early.identity(5) == late.identity(5)  # in so many steps they do the same
    others = [
        Selector(il=TABLE + 1, k=2),
        Selector(il=TABLE, k=3),
        Selector(il=TABLE, ratio=0.5),
        Selector(il=TABLE, k=2, method="neg_il"),
        Selector(il=TABLE, k=2, label_smoothing=0.1),
        Selector(il=TABLE, k=2, ignore_index=0),
    ]
    assert all(other.identity() != one.identity() for other in others)


def test_state_round_trip() -> None:
    selector = Selector(il=TABLE, k=2)
    selector(nn.Identity(), Batch(X, Y, IDS))
    other = Selector(il=TABLE, k=2)
    other.load_state_dict(selector.state_dict())
    assert (other.steps, other.scored, other.selected, other.invalid) == (1, 4, 2, 0)


class Learning(nn.Module):
    """A method whose state is a module: prefers what it has selected least."""

    needs = ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(8))

    def forward(self, context: ScoringContext) -> Selected:
        return context.select("loss", self.bias[context.ids])

    def update(self, context: ScoringContext, selected: Selected) -> None:
        self.bias[context.ids[selected.indices]] -= 100


def test_what_a_method_has_learnt_is_in_the_state() -> None:
    batch, one, other = Batch(X, Y, IDS), *(Selector(k=2, method=Learning()) for _ in range(2))
    assert one(nn.Identity(), batch).ids.tolist() == [7, 0]
    other.load_state_dict(one.state_dict())
    assert other(nn.Identity(), batch).ids.tolist() == [5, 2]
    with pytest.raises(ValueError, match="the state and this Selector differ in .*: history; give"):
        Selector(k=2, method=Learning(), history=History(8)).load_state_dict(one.state_dict())


def test_a_checkpoint_forgets_what_came_after_it() -> None:
    selector, batch = Selector(il=TABLE, k=2, check_every=3), Batch(X, Y, IDS)
    selector(nn.Identity(), batch)
    state = selector.state_dict()
    selector(nn.Identity(), batch._replace(x=X * torch.nan))
    selector.load_state_dict(state)
    for _ in range(3):
        selector(nn.Identity(), batch)
    assert (selector.steps, selector.invalid) == (4, 0)


def test_settings_cannot_be_changed() -> None:
    selector = copy.deepcopy(Selector(il=TABLE, k=2))
    for name, value in {"k": 3, "method": "loss", "scoring": Scoring(micro_batch=1)}.items():
        with pytest.raises(AttributeError, match=f"Selector: {name} cannot be changed"):
            setattr(selector, name, value)
    assert selector(nn.Identity(), Batch(X, Y, IDS)).ids.tolist() == [2, 7]
    assert len({selector, selector}) == 1


def test_what_it_did_can_enter_a_loss() -> None:
    selector = Selector(il=TABLE, k=2)
    selector(nn.Identity(), Batch(X, Y, IDS))
    for last in (selector.last, selector.preview(nn.Identity(), Batch(X, Y, IDS))):
        assert last is not None
        assert last.losses is not None
        weight = torch.ones(4, requires_grad=True)
        (weight * last.losses)[last.indices].mul(last.values).sum().backward()
        assert weight.grad is not None
        wanted = last.losses[last.indices] * last.values
        assert torch.equal(weight.grad, torch.zeros(4).index_put_((last.indices,), wanted))


BAD_ARGUMENTS: list[tuple[Any, type[Exception], str]] = [
    ({"ratio": 0.0}, ValueError, r"ratio must lie in \(0, 1\].*got 0.0"),
    ({"ratio": 1.5}, ValueError, r"ratio must lie in \(0, 1\].*got 1.5"),
    ({"ratio": float("nan")}, ValueError, "ratio must lie in"),
    ({}, ValueError, "either ratio or k"),
    ({"ratio": 0.1, "k": 3}, ValueError, "either ratio or k"),
    ({"k": 0}, ValueError, "k must be at least 1"),
    ({"k": 0.1}, TypeError, "k must be an int"),
    ({"k": True}, TypeError, "k must be an int"),
    ({"k": 1, "method": "best"}, ValueError, "method must be one of rho, loss"),
    (
        {"k": 1, "method": 3},
        TypeError,
        "method must be a name or be called with ScoringContext",
    ),
    ({"k": 1, "method": Learning}, TypeError, "of a class pass an object"),
    ({"ratio": "0.1"}, TypeError, "ratio must be a number or a function of the step, got '0.1'"),
    ({"k": 1, "label_smoothing": 1.5}, ValueError, r"label_smoothing must lie in \[0, 1\]"),
    ({"k": 1, "phases": 100}, TypeError, "phases must be a function of the step, got 100"),
    ({"k": 1, "seed": 0.5}, TypeError, "seed must be an int, got 0.5"),
    ({"k": 1, "il": TABLE[None]}, TypeError, r"tensor \(N,\) of .*got float32 tensor \(1, 8\)"),
    ({"k": 1, "il": TABLE.double()}, TypeError, r"of float32.*got float64 tensor \(8,\)"),
    ({"k": 1, "il": None}, ValueError, "needs irreducible losses; pass il="),
    ({"k": 1, "il": "store.safetensors"}, TypeError, "got 'store.safetensors'; a file is read"),
]


def test_bad_arguments_fail_at_construction() -> None:
    for arguments, error, message in BAD_ARGUMENTS:
        with pytest.raises(error, match=message):
            Selector(**{"il": TABLE, **arguments})


BAD_BATCHES: list[tuple[Any, type[Exception], str]] = [
    ((X, Y), ValueError, "no ids.*IndexedDataset"),
    ({"x": X, "y": Y}, ValueError, "no ids.*'ids'"),
    (
        Batch(X[:1], Y[:1], IDS[:1]),
        ValueError,
        "k = 2 is larger than the batch of 1.*drop_last",
    ),
    (Batch(X, Y, IDS.float()), TypeError, "ids must be an int64 or int32"),
    (Batch(X, Y, IDS + 8), IndexError, r"ids must be in \[0, 8\).*got 13 at row 0"),
    (Batch(X, Y + 7, IDS), IndexError, r"labels must be in \[0, 2\)"),
    (
        Batch(X * torch.nan, Y, IDS),
        FloatingPointError,
        "4 of 4 losses.*diverged.*learning rate",
    ),
    (Batch(X, Y - 100, IDS), FloatingPointError, "ignore_index"),
    (Batch(X, Y[:, None], IDS), ValueError, r"labels must have.*got \(4, 1\).*give loss_fn="),
    ((X, Y, IDS.clamp_max(5)), ValueError, "third element of a tuple repeats.*Batch"),
]


def test_bad_batches() -> None:
    for batch, error, message in BAD_BATCHES:
        with pytest.raises(error, match=message):
            Selector(il=TABLE, k=2)(nn.Identity(), batch)


def test_smoothed_losses_are_not_set_against_plain_ones() -> None:
    data = IndexedDataset(TensorDataset(torch.zeros(8, 2), torch.arange(8) % 2))
    store = ILStore(TABLE, fingerprint(data))
    with pytest.raises(ValueError, match="label_smoothing = 0.1, and the losses in the store"):
        Selector(il=store, k=1, label_smoothing=0.1)
    Selector(il=store, k=1, method="loss", label_smoothing=0.1)


def test_unknown_irreducible_losses_are_named() -> None:
    with pytest.raises(FloatingPointError, match=r"of 4 of 4 examples is unknown.*held out"):
        Selector(il=torch.full((8,), torch.nan), k=2)(nn.Identity(), Batch(X, Y, IDS))


def test_a_model_without_logits_is_named() -> None:
    with pytest.raises(ValueError, match="Selector: the model returned list, .* give forward="):
        Selector(il=TABLE, k=2, forward=None)(_returns_list(), Batch(X, Y, IDS))


def _returns_list() -> nn.Module:
    class Listy(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x]

    return Listy()


def test_evaluations_are_refused() -> None:
    selector, model, batch = Selector(il=TABLE, k=2), nn.Identity().eval(), Batch(X, Y, IDS)
    with torch.no_grad(), pytest.raises(ValueError, match="autograd is off, as in an evaluation"):
        selector(model, batch)
    with pytest.warns(UserWarning, match=r"before training call model.train\(\)"):
        selector(model, batch)
    with torch.no_grad():
        selector.preview(model, batch)
        selector(model.train(), batch)  # as of a loop that wraps its scoring
    assert selector.steps == 2


def test_a_third_element_is_no_ids_where_none_are_needed() -> None:
    for third in (torch.tensor([0.5, 1.0, 0.5, 1.0]), torch.tensor([3, 3, 3, 3]), list("abcd")):
        small = Selector(k=2, method="loss")(nn.Identity(), (X, Y, third))
        assert torch.equal(small[0], X[[2, 3]])
        assert list(small[2]) == [third[2], third[3]]
        with pytest.raises((TypeError, ValueError), match=r"ids must be|holds no ids"):
            Selector(il=TABLE, k=2)(nn.Identity(), (X, Y, third))


def test_texts_are_short() -> None:
    data = IndexedDataset(TensorDataset(torch.zeros(8, 2), torch.arange(8) % 2))
    store = ILStore(TABLE.index_fill(0, torch.tensor([1]), torch.nan), fingerprint(data))
    assert repr(data) == "IndexedDataset(8 examples of TensorDataset)"
    assert repr(store) == "ILStore(8 examples, mean 1.29)"


def test_ratio_one_is_the_plain_loop_to_the_bit() -> None:
    x, y = torch.randn(320, 4, generator=torch.Generator().manual_seed(0)), torch.arange(320) % 3
    runs = []
    for selector in (None, Selector(il=torch.rand(320), ratio=1.0)):
        torch.manual_seed(0)
        hidden = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)]
        model = nn.Sequential(*hidden, nn.Linear(8, 3))
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        for ids in torch.arange(320).split(16):
            batch = Batch(x[ids], y[ids], ids)
            small = batch if selector is None else selector(model, batch)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(small.x), small.y).backward()
            optimizer.step()
        runs.append(model.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
