"""Selecting tokens: the share that is selected, the loss, and what has no meaning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rho_ext
from rho_train import TokenSelection, select_tokens, sequence_losses, token_losses
from rho_train.scoring import share_of
from rho_train.tokens import top_share

from ..backends import Backend, on

INF, NAN = torch.inf, torch.nan
C = 13


def drawn(
    seed: int, b: int = 4, t: int = 9, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels of which a fourth is ignored, and irreducible losses, some unknown."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(b, t, C, generator=generator)).to(dtype)
    labels = torch.randint(0, C, (b, t), generator=generator)
    labels[torch.rand(b, t, generator=generator) < 0.25] = -100
    il = 3 * torch.rand(b, t, generator=generator)
    il[torch.rand(b, t, generator=generator) < 0.1] = NAN
    return logits, labels, il


def truth(
    logits: Tensor, labels: Tensor, il: Tensor | None, ratio: float, shift: bool, per: bool
) -> tuple[Tensor, Tensor]:
    """The loss in float64 and the mask, token by token."""
    ce: dict[tuple[int, int], Tensor] = {}
    rank: dict[tuple[int, int], float] = {}
    for b in range(labels.shape[0]):
        for t in range(1 if shift else 0, labels.shape[1]):
            if labels[b, t] != -100 and (il is None or not il[b, t].isnan()):
                row = logits[b, t - 1 if shift else t][None]
                ce[b, t] = F.cross_entropy(row.double(), labels[b, t, None])
                own = rho_ext.score(row.detach(), labels[b, t, None], None, method="loss").losses
                rank[b, t] = float(own if il is None else own - il[b, t])
    groups = [[at for at in ce if at[0] == b] for b in range(len(labels))] if per else [list(ce)]
    best = [
        at
        for group in groups
        if group
        for at in sorted(group, key=lambda at: -rank[at])[: share_of(len(group), ratio)]
    ]
    mask = torch.zeros_like(labels, dtype=torch.bool)
    for at in best:
        mask[at] = True
    zero = 0.0 * logits.double().sum()
    return (torch.stack([ce[at] for at in best]).mean() if best else zero), mask


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999),
    ratio=st.sampled_from([0.01, 0.29, 0.5, 0.6, 1.0]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 9)),
)
def test_the_loss_and_its_gradient_are_those_of_the_best_tokens(
    seed: int, ratio: float, flags: tuple[bool, ...], sizes: tuple[int, int]
) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        logits, labels, known = drawn(seed, *sizes, dtype=dtype)
        il, (shift, per) = known if flags[0] else None, flags[1:]
        own, exact = logits.requires_grad_(), logits.detach().double().requires_grad_()
        found = select_tokens(own, labels.int(), il=il, ratio=ratio, shift=shift, per_sequence=per)
        wanted, mask = truth(exact, labels, il, ratio, shift, per)
        assert torch.equal(found.mask, mask)
        assert int(found.k) == int(mask.sum())
        torch.testing.assert_close(found.loss.double(), wanted, rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(found.loss, own)
        (exact_gradient,) = torch.autograd.grad(wanted, exact)
        torch.testing.assert_close(gradient, exact_gradient.to(dtype))
        at = torch.roll(mask, -1, 1) if shift else mask
        assert not gradient[~at].any()


def test_all_tokens_are_plain_training() -> None:
    logits, labels, _ = drawn(0)
    own, plain = logits.requires_grad_(), logits.detach().clone().requires_grad_()
    found = select_tokens(own, labels, ratio=1.0)
    wanted = F.cross_entropy(plain.flatten(0, 1), labels.flatten())
    found.loss.backward()
    wanted.backward()
    torch.testing.assert_close(found.loss, wanted)
    torch.testing.assert_close(own.grad, plain.grad)
    assert torch.equal(found.losses, token_losses(logits, labels))
    mean = found.losses.sum(1) / (labels != -100).sum(1)
    torch.testing.assert_close(mean, sequence_losses(logits.detach(), labels))


def test_memory_is_that_of_the_selected_tokens() -> None:
    logits, labels = torch.randn(4, 64, 500, requires_grad=True), torch.zeros(4, 64).long()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = select_tokens(logits, labels, ratio=0.25, shift=True)
    assert sum(kept.values()) < 1.2 * int(found.k) * 500 * 4


def test_without_a_token_there_is_nothing_to_learn() -> None:
    logits, labels, il = drawn(1)
    none = torch.full_like(labels, -100)
    for own, known in ((none, None), (none, il), (labels, torch.full_like(il, NAN))):
        for per in (False, True):
            leaf = logits.clone().requires_grad_()
            found = select_tokens(leaf, own, il=known, ratio=0.5, per_sequence=per)
            found.loss.backward()
            assert found.loss == 0
            assert found.k == 0
            assert leaf.grad is not None
            assert not leaf.grad.any()
    for shape in ((0, 3), (3, 0), (3, 1)):
        empty = select_tokens(
            torch.zeros(*shape, C), torch.zeros(shape).long(), ratio=1, shift=True
        )
        assert empty.loss == 0
        assert empty.mask.shape == shape


def same(found: TokenSelection, wanted: TokenSelection, logits: Tensor) -> None:
    assert torch.equal(found.mask, wanted.mask)
    assert found.k == wanted.k
    torch.testing.assert_close((found.loss, found.losses), (wanted.loss, wanted.losses))
    gradients = [torch.autograd.grad(result.loss, logits)[0] for result in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_compiled_it_is_one_graph_with_a_fixed_size() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(select_tokens, backend="aot_eager", fullgraph=True, dynamic=True)
    options: dict[str, Any] = {"ratio": 0.6, "shift": True}
    for seed, b, t in ((0, 4, 9), (1, 2, 17)):
        logits, labels, il = drawn(seed, b, t)
        labels[0] = -100
        leaf = logits.requires_grad_()
        found = compiled(leaf, labels, il=il, **options)
        same(found, select_tokens(leaf, labels, il=il, **options), leaf)


@on("cpu", "emulated", "cuda")
def test_places_past_k_change_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        logits, labels, il = (x.to(backend.device) for x in drawn(seed))
        # NaN in what is not trained on; an emulated GPU takes the path of a GPU here.
        labels[0] = -100
        logits[0] = NAN
        # A selected loss of inf, which times 0 would be NaN.
        labels[1, 0], logits[1, 0, 3], il[1, 0] = 3, -INF, 0.0
        leaf, none = logits.requires_grad_(), torch.full_like(labels, -100)
        for own, per in ((labels, False), (labels, True), (none, False)):
            wanted = select_tokens(leaf, own, il=il, ratio=0.6, per_sequence=per)
            with monkeypatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda: True)
                same(select_tokens(leaf, own, il=il, ratio=0.6, per_sequence=per), wanted, leaf)
    if backend.gpu:
        labels[2, 3] = C
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert select_tokens(leaf, labels, ratio=0.1).loss.isnan()


def test_the_loss_is_float32_whatever_the_default() -> None:
    logits, labels, il = drawn(0)
    try:
        torch.set_default_dtype(torch.float64)
        assert select_tokens(logits, labels, il=il, ratio=0.6).loss.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_broken_model_does_not_look_like_a_small_batch() -> None:
    logits, labels, il = drawn(2)
    logits[1, 2], labels[1, 2], il[1, 2] = NAN, 0, 0.5
    found = select_tokens(logits, labels, il=il, ratio=0.1)
    assert found.mask[1, 2]
    assert found.loss.isnan()


@given(
    scores=st.integers(1, 9).flatmap(
        lambda t: st.lists(
            st.lists(
                st.sampled_from([-INF, INF, -1.0, 0.0, -0.0, 2.0, NAN]), min_size=t, max_size=t
            ),
            min_size=1,
            max_size=3,
        )
    ),
    ratio=st.sampled_from([0.01, 0.25, 0.29, 0.5, 0.6, 1.0]),
)
def test_the_best_share_is_that_of_select(scores: list[list[float]], ratio: float) -> None:
    drawn = torch.tensor(scores)
    mask, positions = top_share(drawn, ratio)
    for row, own in zip(drawn, mask, strict=True):
        valid = int((row != -INF).sum())
        k = share_of(valid, ratio) if valid else 0
        # A class alone has loss 0, so that the bias is the score.
        one, zero = torch.zeros(len(row), 1), torch.zeros(len(row), dtype=torch.int64)
        bias = row.masked_fill(row.isnan(), INF)
        best = rho_ext.select(one, zero, None, k, method="loss", bias=bias).indices
        assert own.sum() == k
        # NaN ranks before +inf, and here is a tie with it.
        if row.isnan().any() and row.isposinf().any():
            assert own[row.isnan()].sum() == min(k, row.isnan().sum())
        else:
            assert torch.equal(own.nonzero()[:, 0], best.sort().values)
    assert torch.equal(positions, mask.flatten().nonzero()[:, 0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"logits": torch.zeros(8, C)},
            ValueError,
            r"\(B, T, C\) and labels \(B, T\), got float32",
        ),
        ({"labels": torch.zeros(2, 3).long()}, ValueError, r"got .* int64 tensor \(2, 3\)"),
        ({"labels": torch.full((2, 4), C)}, IndexError, r"labels must be in \[0, 13\).* at row 0"),
        ({"labels": torch.zeros(2, 4)}, ValueError, "labels must be int64 or int32, got float32"),
        ({"il": torch.zeros(8)}, ValueError, r"il must have the shape of labels, \(2, 4\), got"),
        ({"il": torch.zeros(2, 4).double()}, ValueError, "il must be float32, float16 or bfloat16"),
        ({"il": [0.1]}, TypeError, "select_tokens: il must be a tensor, got list"),
        ({"il": torch.zeros(2, 4).to_sparse()}, ValueError, "il must be a dense tensor"),
        ({"logits": [0.1]}, TypeError, "select_tokens: logits must be a tensor, got list"),
        ({"ignore_index": 0.5}, TypeError, "select_tokens: ignore_index must be an int, got 0.5"),
        ({"ratio": 0.0}, ValueError, r"select_tokens: ratio must be in \(0, 1\], got 0.0"),
        ({"ratio": 1.01}, ValueError, "got 1.01"),
        ({"ratio": NAN}, ValueError, "got nan"),
        ({"ratio": True}, ValueError, "got True"),
        ({"ratio": "half"}, ValueError, "got 'half'"),
    ],
)
def test_what_has_no_meaning_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    good = {"logits": torch.zeros(2, 4, C), "labels": torch.zeros(2, 4).long(), "ratio": 0.5}
    with pytest.raises(error, match=message):
        select_tokens(**good | change)
