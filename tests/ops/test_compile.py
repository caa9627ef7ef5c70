"""The ops under torch.compile, opcheck and autograd."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._guards import TracingContext
from torch.autograd import forward_ad

import rho_ext
from rho_ext import _autograd, score, select
from rho_ext._library import METHODS as NUMBERS

from ..backends import Backend, on
from .cases import FEW_CASES, METHODS, Case, Combine, Inputs, combined, same_bits

OPS = ("select", "score")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()
    counters.clear()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def op_arguments(op: str, inputs: Inputs, method: str, k: int) -> tuple[Any, ...]:
    count = (k,) if op == "select" else ()
    return (
        inputs["logits"],
        inputs["labels"],
        inputs["ids"],
        *count,
        inputs["il"],
        NUMBERS[method],
        inputs["bias"],
        inputs["ignore_index"],
        inputs["label_smoothing"],
    )


@combined
def test_opcheck(combine: Combine, backend: Backend) -> None:
    # opcheck compares results, and for it no NaN equals another.
    cases = [c for c in FEW_CASES if c.content != "bad-rows" and c.dtype in backend.dtypes]
    for row in combine(case=cases, op=OPS, requires_grad=(False, True)):
        case = row["case"]
        inputs = case.inputs(backend.device)
        inputs["il"].nan_to_num_(0)
        if case.bias:
            inputs["bias"].nan_to_num_(0)
        inputs["logits"].requires_grad_(row["requires_grad"])
        method = METHODS[len(case.name) % len(METHODS)]
        arguments = op_arguments(row["op"], inputs, method, case.n // 2)
        torch.library.opcheck(backend.op(row["op"]), arguments)


def tenth(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return a tenth of the batch, as in training."""
    logits = inputs["logits"] * 2
    k = logits.shape[0] // 10
    values, indices, losses, invalid = select(**inputs | {"logits": logits}, k=k)
    scores = score(**inputs | {"logits": logits}).scores
    return values, indices, inputs["labels"][indices.clamp(min=0)], losses + 1, invalid, scores


def check(
    compiled: Callable[[Inputs], Any], plain: Callable[[Inputs], Any], inputs: Inputs
) -> None:
    for a, b in zip(compiled(inputs), plain(inputs), strict=True):
        assert a.shape == b.shape
        assert same_bits(a, b)


@pytest.mark.parametrize(("dynamic", "most"), [(True, 1), (None, 2)], ids=["dynamic", "automatic"])
def test_one_graph_serves_every_batch_size(
    dynamic: bool | None, most: int, device: torch.device
) -> None:
    compiled = torch.compile(tenth, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (320, 64, 65, 1000, 33, 320):
        check(compiled, tenth, Case(f"compiled {n}", n=n).inputs(device))
        assert 1 <= graphs() <= most, f"compiled again for n = {n}"


def test_k_is_an_input_of_the_graph(device: torch.device) -> None:
    compiled = torch.compile(select, backend="aot_eager", fullgraph=True, dynamic=True)
    inputs = Case("compiled k").inputs(device)
    for k in (32, 31, 8, 64):
        for a, b in zip(compiled(**inputs, k=k), select(**inputs, k=k), strict=True):
            assert same_bits(a, b)
    assert graphs() == 1


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor_equals_eager(device: torch.device) -> None:
    compiled = torch.compile(tenth, fullgraph=True, dynamic=True)
    for n in (320, 50):
        check(compiled, tenth, Case(f"inductor {n}", n=n).inputs(device))


def test_every_method_compiles(device: torch.device) -> None:
    case = Case("compiled method", bias=True, ignored=True, label_smoothing=0.1)
    for method in METHODS:

        def step(inputs: Inputs, method: str = method) -> tuple[Tensor, ...]:
            return select(**inputs, k=5, method=method)

        compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
        check(compiled, step, case.inputs(device))


def test_graphs_do_not_copy_the_active_table() -> None:
    """Its address is static, as AOTAutograd says to what makes CUDA graphs."""
    static = list[torch.Size]()

    def compiler(graph: Any, inputs: list[Tensor]) -> Any:
        places = TracingContext.get().fw_metadata.static_input_indices
        static.extend(inputs[place].shape for place in places)
        return graph

    compiled = torch.compile(select, backend=aot_autograd(fw_compiler=compiler), fullgraph=True)
    inputs = Case("static table").inputs(torch.device("cpu"))
    logits, labels, ids, table = (inputs[name] for name in ("logits", "labels", "ids", "il"))
    with torch.inference_mode(), rho_ext.use_il(table):
        compiled(logits, labels, ids, 5)
    assert static == [table.shape]


def test_the_active_table_inside_a_compiled_function(device: torch.device) -> None:
    def step(inputs: Inputs) -> tuple[Tensor, ...]:
        return select(inputs["logits"], inputs["labels"], inputs["ids"], 5)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    inputs = Case("compiled table").inputs(device)
    table = inputs["il"]
    for active in (table, 2 - table, 2 - table[:1000].to(torch.bfloat16), table):
        with rho_ext.use_il(active):
            check(compiled, step, inputs)
            expected = select(**inputs | {"il": active}, k=5)
            assert same_bits(compiled(inputs)[0], expected.values)


def test_use_il_inside_a_compiled_function(device: torch.device) -> None:
    def step(inputs: Inputs) -> tuple[Tensor, ...]:
        with rho_ext.use_il(inputs["il"]):
            return select(inputs["logits"], inputs["labels"], inputs["ids"], 5)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    check(compiled, step, Case("compiled use_il").inputs(device))


@on("cpu")
def test_errors_reach_the_caller_of_a_compiled_function(device: torch.device) -> None:
    inputs = Case("compiled errors").inputs(device)
    compiled = torch.compile(tenth, backend="aot_eager", fullgraph=True)
    compiled(inputs)
    inputs["labels"][7] = 26
    with pytest.raises(IndexError, match=r"labels must be in \[0, 26\)"):
        compiled(inputs)


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "autograd": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("mode", MODES)
def test_outputs_never_require_grad(mode: str, device: torch.device) -> None:
    case = Case("no gradient", bias=True)
    expected = select(**case.inputs(device), k=9), score(**case.inputs(device))
    for name in ("logits", "il", "bias"):
        inputs = case.inputs(device)
        inputs[name].requires_grad_()
        with MODES[mode]():
            got = select(**inputs, k=9), score(**inputs)
        for results, others in zip(got, expected, strict=True):
            for a, b in zip(results, others, strict=True):
                assert not a.requires_grad
                assert same_bits(a.detach(), b)


F = torch.func
# What differentiates a function of one tensor, each of which would give zeros.
DERIVATIVES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "grad": lambda f, x: F.grad(f)(x),
    "jvp": lambda f, x: F.jvp(f, (x,), (x,)),
    "hessian": lambda f, x: F.hessian(f)(x),
    "grad in vmap": lambda f, x: F.vmap(F.grad(f))(x[None]),
    "vmap in grad": lambda f, x: F.grad(lambda x: F.vmap(f)(x[None]).sum())(x),
    "vmap in jvp": lambda f, x: F.jvp(lambda x: F.vmap(f)(x[None]).sum(), (x,), (x,)),
    "compiled grad": lambda f, x: torch.compile(F.grad(f), backend="aot_eager")(x),
    "dual": lambda f, x: f(forward_ad.make_dual(x, x)),
}


@on("cpu")
@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", DERIVATIVES)
def test_derivatives_are_refused(kind: str, device: torch.device) -> None:
    """They are refused as by backward(), but not where nothing of the op is differentiated."""
    inputs = Case("derivatives", n=4, classes=3, id_dtype=None, bias=True).inputs(device)
    ops = {"score": score, "select": partial(select, k=2)}
    for (op, call), name in product(ops.items(), ("logits", "il", "bias")):

        def losses(x: Tensor, call: Any = call, name: str = name) -> Tensor:
            return (x * 2).sum() + call(**inputs | {name: x}).losses.sum()

        def detached(x: Tensor, losses: Any = losses) -> Tensor:
            # As torch.inference_mode, in which torch.func.vmap fails.
            with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
                constant = losses(x)
            return (x * 2).sum() + losses(x.detach()) + constant

        with forward_ad.dual_level() if kind == "dual" else contextlib.nullcontext():
            message = f"{op}: {name} must not be differentiated .* pass {name}.detach()"
            with pytest.raises(RuntimeError, match=re.escape(message).replace(r"\.\*", ".*")):
                DERIVATIVES[kind](losses, inputs[name])
            DERIVATIVES[kind](detached, inputs[name])
            F.vmap(losses)(inputs[name][None])


def test_selecting_leaves_the_gradient_of_the_step_alone(device: torch.device) -> None:
    inputs = Case("step").inputs(device)
    logits = inputs["logits"].requires_grad_()
    indices = select(**inputs, k=9).indices
    loss = torch.nn.functional.cross_entropy(logits[indices], inputs["labels"][indices])
    (gradient,) = torch.autograd.grad(loss, logits)
    rows = gradient.abs().sum(1).nonzero()[:, 0]
    assert rows.tolist() == indices.sort().values.tolist()


def test_every_op_is_of_exactly_one_kind() -> None:
    kinds = {name: value for name, value in vars(_autograd).items() if name.isupper()}
    listed = Counter(op for ops in kinds.values() for op in ops)
    registered = {
        name.removeprefix("rho_ext::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("rho_ext::")
    }
    assert registered >= set(OPS)
    assert listed == dict.fromkeys(registered, 1)
    for op in _autograd.FALL_THROUGH:
        registrations = torch._C._dispatch_dump(f"rho_ext::{op}")
        assert re.search(r"^Autograd\[alias\].*fallthrough", registrations, re.MULTILINE)
