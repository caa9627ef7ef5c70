"""Linear heads without logits: losses, gradients and selections, and what has no meaning."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import rho_ext
from rho_train import linear_cross_entropy, linear_score
from rho_train.linear import _cross_entropy, _scores
from rho_train.linear_head import Head, _band, select_rows
from rho_train.scoring import share_of
from rho_train.tokens import top_share

T, H, V = 222, 17, 301


def drawn(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Hidden states, weight, bias, labels of which a seventh are ignored, and reference losses."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias, il = (
        torch.randn(shape, generator=generator) for shape in ((T, H), (V, H), (V,), (T,))
    )
    labels = torch.randint(V, (T,), generator=generator)
    labels[::7] = -100
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), labels, il


def truth(inputs: tuple[Tensor, ...], mask: Tensor, softcap: float | None) -> tuple[Tensor, ...]:
    """Loss of the tokens in the mask by hidden, weight and bias of any dtype, and its gradients."""
    hidden, weight, bias = (tensor.detach().requires_grad_() for tensor in inputs[:3])
    logits = hidden @ weight.T + bias
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    losses = F.cross_entropy(logits, inputs[3], reduction="none")
    loss = losses[mask].mean()
    loss.backward()
    gradients = (hidden.grad, weight.grad, bias.grad)
    return (loss.detach(), losses.detach(), *(g for g in gradients if g is not None))


def test_loss_and_gradients_are_as_exact_as_those_of_torch() -> None:
    cases = [(1.0, None), (1.0, 3.0), (0.6, None), (0.6, 3.0), (0.25, None), (0.01, None)]
    for seed, (ratio, softcap) in enumerate(cases):
        hidden, weight, bias, labels, il = drawn(seed)
        own = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
        loss, selection = linear_cross_entropy(
            *(own[0], own[1], labels),
            **{"bias": own[2], "il": il, "ratio": ratio, "softcap": softcap, "chunk": 24},
        )
        loss.backward()
        assert selection.k == selection.mask.sum() == share_of(int((labels >= 0).sum()), ratio)
        found = (loss.detach(), selection.losses, *(tensor.grad for tensor in own))
        inputs = (hidden, weight, bias, labels)
        single = truth(inputs, selection.mask, softcap)
        double = (*(tensor.double() for tensor in inputs[:3]), labels)
        for a, b, exact in zip(found, single, truth(double, selection.mask, softcap), strict=True):
            assert a is not None
            ulp = float(exact.abs().max()) * torch.finfo(torch.float32).eps
            assert float((a - exact).abs().max()) <= 2 * float((b - exact).abs().max()) + ulp
        excess = (selection.losses - il).masked_fill(labels < 0, -torch.inf)
        assert excess[selection.mask].min() >= excess[~selection.mask].max()


def test_the_selection_is_that_of_select_ties_included() -> None:
    # Small integers: products and sums are exact, and equal logits have equal losses.
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        hidden = torch.randint(-1, 2, (T, 3), generator=generator).float()
        weight = torch.randint(-2, 3, (V, 3), generator=generator).float()
        labels = torch.randint(0, V, (T,), generator=generator).masked_fill(
            torch.rand(T, generator=generator) < 0.2, -100
        )
        il = torch.randint(0, 2, (T,), generator=generator).float()
        for ratio in (1.0, 0.6, 0.25):
            for size in (T, 40, 7):
                selection = linear_cross_entropy(
                    hidden, weight, labels, il=il, ratio=ratio, chunk=size
                )[1]
                k = share_of(int((labels >= 0).sum()), ratio)
                wanted = rho_ext.select(hidden @ weight.T, labels, None, k, il=il)
                assert torch.equal(selection.mask.nonzero()[:, 0], wanted.indices.sort().values)
                assert torch.equal(selection.losses, wanted.losses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_as_float32(dtype: torch.dtype) -> None:
    hidden, weight, bias, labels, il = drawn(dtype=dtype)
    own = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    loss, selection = linear_cross_entropy(
        *(own[0], own[1], labels), bias=own[2], il=il.to(dtype), ratio=0.6, chunk=50
    )
    loss.backward()
    wide = truth((hidden.float(), weight.float(), bias.float(), labels), selection.mask, None)
    torch.testing.assert_close(loss.detach(), wide[0])
    assert loss.dtype == torch.float32
    for tensor, wanted in zip(own, wide[2:], strict=True):
        assert tensor.grad is not None
        assert tensor.grad.dtype == dtype
        # Half an ulp, or the smallest subnormal of float16.
        torch.testing.assert_close(
            tensor.grad.float(), wanted, rtol=torch.finfo(dtype).eps, atol=6e-8
        )


def test_scales_of_the_loss_round_nothing() -> None:
    inputs = drawn()
    hidden, weight, labels = 1e-3 * inputs[0], inputs[1], inputs[3]
    cases = [(torch.float16, 65536.0), (torch.float16, 32768.0), (torch.bfloat16, 1 / 3)]
    for dtype, scale in cases:
        exact = [tensor.to(dtype).double().requires_grad_() for tensor in (hidden, weight)]
        (F.cross_entropy(exact[0] @ exact[1].T, labels) * scale).backward()
        for autocast in (True, False):
            own = [x.to(torch.float32 if autocast else dtype) for x in (hidden, weight)]
            leaves = [tensor.clone().requires_grad_() for tensor in own]
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            with torch.autocast("cpu", dtype=dtype, enabled=autocast):
                loss = linear_cross_entropy(*leaves, labels)[0]
            scaler.scale(loss).backward()
            for leaf, wanted in zip(leaves, (x.grad for x in exact), strict=True):
                assert leaf.grad is not None
                assert wanted is not None
                found = leaf.grad.double()
                atol = 1e-5 * float(wanted.abs().max())
                torch.testing.assert_close(found, wanted, rtol=torch.finfo(dtype).eps, atol=atol)
                assert abs(float((found * wanted).sum() / wanted.square().sum()) - 1) < 2e-4
            if autocast:
                scaler.unscale_(torch.optim.SGD(leaves))
                assert leaves[1].grad is not None
                assert leaves[1].grad.isfinite().all()


def test_a_device_that_is_not_waited_for_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def padded(scores: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        mask, places = top_share(scores, ratio)
        return mask, F.pad(places, (0, 30), value=-1)

    monkeypatch.setattr("rho_train.linear_head.top_share", padded)
    hidden, weight, bias, labels, il = drawn()
    hidden[labels < 0] = torch.nan
    for ratio, ignored in ((1.0, labels < 0), (0.6, labels < 0), (0.6, labels < V)):
        labels = labels.masked_fill(ignored, -100)
        sums, masks = [], []
        for may_wait in (True, False):
            head = Head((hidden, weight, bias), labels, None, 24, [True] * 3)
            losses, mask = select_rows(head, il, ratio, -100, may_wait)
            assert torch.equal(losses == 0, ignored)
            sums.append(head.sums)
            masks.append(mask)
        assert torch.equal(*masks)
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-4)


def test_rows_wait_until_it_is_sure_that_they_are_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    add = Head.add

    def counting(head: Head, rows: Tensor, factor: Tensor | None = None) -> None:
        counted.append(0 if factor is None else len(rows))
        add(head, rows, factor)

    monkeypatch.setattr(Head, "add", counting)
    for seed in range(20):
        hidden, weight, _, labels, il = drawn(seed)
        for ratio in (0.6, 0.25):
            linear_cross_entropy(hidden, weight.requires_grad_(), labels, il=il, ratio=ratio)
            linear_cross_entropy(hidden, weight, labels, il=il, ratio=ratio, chunk=60)
    assert len(counted) > 100
    assert sum(counted) == 0  # a correction costs three products

    ranked = []

    def band(scores: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        ranked.append(len(scores))
        return _band(scores, *others)

    monkeypatch.setattr("rho_train.linear_head._band", band)
    linear_cross_entropy(hidden, weight, labels, ratio=0.25, chunk=1)
    assert sum(ranked) < 10 * T  # it takes linear time


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an op returns."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_nothing_of_tokens_times_vocabulary_is_made() -> None:
    hidden, weight, _, labels, il = drawn()
    for ratio in (1.0, 0.6):
        with Largest() as largest:
            head = Head((hidden, weight, None), labels, None, 30, [True] * 3)
            select_rows(head, il, ratio, -100, True)
        assert largest.size == 45 * V  # a chunk, and half as many rows that wait


def step(
    hidden: Tensor, weight: Tensor, labels: Tensor, il: Tensor, bias: Tensor | None = None
) -> Tensor:
    return linear_cross_entropy(hidden, weight, labels, bias=bias, il=il, ratio=0.6, chunk=50)[0]


def gradients(function: Any, *inputs: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs[:2]]
    return list(torch.autograd.grad(function(*leaves, *inputs[2:]), leaves))


# Dynamo does so itself.
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated")
def test_it_compiles_checkpoints_and_scales() -> None:
    hidden, weight, bias, labels, il = drawn()
    inputs = (hidden, weight, labels, il, bias)
    wanted = gradients(step, *inputs)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)

    def remembered(*arguments: Any) -> Any:
        return checkpoint(step, *arguments, use_reentrant=False)

    for function in (compiled, remembered):
        for a, b in zip(gradients(function, *inputs), wanted, strict=True):
            assert torch.equal(a, b)
    for a, b in zip(gradients(lambda *given: 0.5 * step(*given), *inputs), wanted, strict=True):
        assert torch.equal(a, 0.5 * b)
    shorter = (hidden[:99], weight, labels[:99], il[:99], bias)
    for a, b in zip(gradients(compiled, *shorter), gradients(step, *shorter), strict=True):
        assert torch.equal(a, b)
    leaf = weight.clone().requires_grad_()
    loss = step(hidden, leaf, labels, il, bias)
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(leaf.grad, times * wanted[1])
    scorer = torch.compile(linear_score, backend="aot_eager", fullgraph=True)
    found = scorer(hidden, weight, labels, logsumexp=True)
    assert torch.equal(found.logsumexp, linear_score(*inputs[:3], logsumexp=True).logsumexp)


def test_the_ops_are_registered_rightly() -> None:
    hidden, weight, bias, labels, il = drawn()
    wanted = [True, False, True]
    cross = (hidden, weight, bias, labels, il, 0.6, -100, None, 50, wanted)
    utils = ("test_schema", "test_faketensor")
    torch.library.opcheck(_cross_entropy, cross, test_utils=utils)
    torch.library.opcheck(
        _scores, (hidden, weight, bias, labels, -100, None, 50, True), test_utils=utils
    )


class Tied(nn.Module):
    """A language model of one table, used at both ends."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(weight)

    def forward(self, tokens: Tensor, labels: Tensor, fused: bool) -> Tensor:
        hidden = self.table[tokens].tanh()
        if fused:
            return linear_cross_entropy(hidden, self.table, labels)[0]
        logits = F.linear(hidden, self.table)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def test_tied_weights_and_autocast_train_as_a_head_with_logits() -> None:
    _, weight, _, labels, _ = drawn()
    tokens, labels = labels.clamp(min=0).view(6, -1), labels.view(6, -1)
    models = [Tied(weight.clone()) for _ in range(2)]
    for model, fused in zip(models, (True, False), strict=True):
        model(tokens, labels, fused).backward()
    torch.testing.assert_close(models[0].table.grad, models[1].table.grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = (copy.deepcopy(models[0])(tokens, labels, fused) for fused in (True, False))
        found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_what_is_frozen_costs_no_gradient() -> None:
    hidden, weight, bias, labels, _ = drawn()
    whole = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    linear_cross_entropy(whole[0], whole[1], labels, bias=whole[2])[0].backward()
    for trained in range(3):
        own = [tensor.clone() for tensor in (hidden, weight, bias)]
        own[trained].requires_grad_()
        linear_cross_entropy(own[0], own[1], labels, bias=own[2])[0].backward()
        assert [tensor.grad is not None for tensor in own] == [i == trained for i in range(3)]
        torch.testing.assert_close(own[trained].grad, whole[trained].grad)
    with torch.no_grad():
        assert not linear_cross_entropy(whole[0], whole[1], labels)[0].requires_grad


def test_without_a_valid_token_loss_and_gradient_are_zero() -> None:
    hidden, weight, _, labels, il = drawn()
    for rows, own in ((hidden, torch.full_like(labels, -100)), (hidden[:0], labels[:0])):
        for ratio in (1.0, 0.5):
            leaf = weight.clone().requires_grad_()
            loss, selection = linear_cross_entropy(rows, leaf, own, ratio=ratio)
            loss.backward()
            assert (loss.item(), int(selection.k)) == (0.0, 0)
            assert leaf.grad is not None
            assert not leaf.grad.any()
    unknown = il.masked_fill(torch.arange(T) % 2 == 0, torch.nan)
    mask = linear_cross_entropy(hidden, weight, labels, il=unknown)[1].mask
    assert torch.equal(mask, (labels >= 0) & ~unknown.isnan())


def test_scores_are_those_of_the_logits() -> None:
    hidden, weight, bias, labels, _ = drawn()
    shaped = hidden.view(6, -1, H), weight.requires_grad_(), labels.view(6, -1)
    for softcap in (None, 3.0):
        scores = linear_score(*shaped, bias=bias, softcap=softcap, chunk=50, logsumexp=True)
        logits = hidden.double() @ weight.detach().double().T + bias.double()
        if softcap is not None:
            logits = softcap * (logits / softcap).tanh()
        losses = F.cross_entropy(logits, labels, reduction="none").float().view(6, -1)
        torch.testing.assert_close(scores.losses, losses)
        torch.testing.assert_close(scores.log_p, -losses)
        assert scores.logsumexp is not None
        torch.testing.assert_close(scores.logsumexp.flatten(), logits.logsumexp(1).float())
        assert not scores.losses.requires_grad
    assert linear_score(*shaped).logsumexp is None


def test_the_logsumexp_does_not_depend_on_the_label() -> None:
    inf = torch.inf
    logits = torch.tensor([[torch.pi, -3e4, 0.0], [1.0, -inf, 0.0], [-inf, -inf, -inf]])
    for labels in ([1, 1, 1], [0, 0, 0], [-100, 2, -100]):
        for row, label in zip(logits, labels, strict=True):
            found = linear_score(
                *(torch.zeros(1, 2), torch.zeros(3, 2), torch.tensor([label])),
                **{"bias": row, "logsumexp": True},
            ).logsumexp
            torch.testing.assert_close(found, row.double().logsumexp(0)[None].float())


def test_a_second_derivative_is_refused() -> None:
    hidden, weight, _, labels, il = drawn()
    leaf = weight.requires_grad_()
    loss = step(hidden, leaf, labels, il)
    with pytest.raises(RuntimeError, match="linear_cross_entropy: there is no second derivative"):
        torch.autograd.grad(loss, leaf, create_graph=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_has_no_meaning_is_refused() -> None:
    hidden, weight, bias, labels, il = drawn()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"labels": labels.clamp(max=9) + V - 9}, IndexError, rf"\[0, {V}\).*got {V}"),
        ({"labels": labels.clamp(min=-2)}, IndexError, "got -2"),
        ({"labels": labels.float()}, ValueError, "labels must be int64 or int32, got float32"),
        ({"labels": labels[1:]}, ValueError, rf"labels must have shape \({T},\)"),
        ({"weight": weight[:, 1:]}, ValueError, rf"hidden must have shape \(\.\.\., {H - 1}\)"),
        ({"weight": weight[0]}, ValueError, r"weight must have shape \(V, H\)"),
        ({"weight": weight.to("meta")}, ValueError, "weight .* got on the meta device"),
        ({"weight": weight.to_sparse()}, ValueError, "weight must be a dense .*sparse_coo"),
        ({"weight": weight.half()}, ValueError, "weight must be .*the same as hidden"),
        ({"weight": [1.0]}, TypeError, "weight must be a tensor, got list"),
        (
            {"hidden": hidden.double(), "weight": weight.double()},
            ValueError,
            "weight must be float32, bfloat16 or float16",
        ),
        ({"bias": bias[1:]}, ValueError, rf"bias must have shape \({V},\)"),
        *(({"softcap": x}, ValueError, "softcap must be") for x in (0.0, torch.inf, True, "a")),
        *(
            ({"chunk": x}, ValueError, "chunk must be a number of rows")
            for x in (0, 2.5, True, "a")
        ),
        ({"ignore_index": 0.5}, TypeError, "ignore_index must be an int, got 0.5"),
        # As DTensor and quantized weights, a subclass that holds tensors.
        ({"weight": TwoTensor(weight, weight)}, TypeError, r"a TwoTensor; pass full_tensor\(\)"),
        ({"hidden": torch.nested.nested_tensor([hidden])}, ValueError, "hidden .* got nested"),
    ]
    good = {"hidden": hidden, "weight": weight, "labels": labels}
    for wrong, error, message in cases:
        for function in (linear_score, linear_cross_entropy):
            with pytest.raises(error, match=f"{function.__name__}: .*{message}"):
                function(**{**good, **wrong})  # type: ignore[operator]
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match="weight must be float32, bfloat16 or float16"),
    ):
        linear_score(hidden.double(), weight.double(), labels)
    for wrong, message in (
        ({"il": il[1:]}, "il must have the shape of labels"),
        ({"il": il.double()}, "il must be float32, float16 or bfloat16"),
        ({"il": il.to_sparse()}, "il must be a dense tensor"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\], got 0.0"),
        ({"ratio": 1.5}, "got 1.5"),
        ({"ratio": float("nan")}, "got nan"),
    ):
        with pytest.raises(ValueError, match=f"linear_cross_entropy: .*{message}"):
            linear_cross_entropy(**good, **wrong)  # type: ignore[arg-type]
    for transform in (torch.func.grad, torch.vmap):
        with pytest.raises(TypeError, match=r"weight must be .* torch\.func or vmap"):
            transform(lambda own: linear_cross_entropy(hidden, own, labels)[0])(weight)
    with pytest.raises(TypeError, match="il must be a tensor, got list"):
        linear_cross_entropy(hidden, weight, labels, il=[0.0])  # type: ignore[arg-type]
