"""One table of bad inputs: the same error in eager and under fake tensors.

Those of `use_il` stand in test_use_il.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import float64, int64
from torch._subclasses.fake_tensor import FakeTensorMode

import rho_ext

from ..backends import Backend, on

N, C, EXAMPLES = 320, 10, 1000


def good(device: torch.device) -> dict[str, Any]:
    return {
        "logits": torch.zeros(N, C, device=device),
        "labels": torch.zeros(N, dtype=int64, device=device),
        "ids": torch.zeros(N, dtype=int64, device=device),
        "k": 32,
        "il": torch.zeros(EXAMPLES, device=device),
        "bias": torch.zeros(N, device=device),
    }


OPS: dict[str, Callable[..., object]] = {
    "select": rho_ext.select,
    "score": rho_ext.score,
    "reference.select": rho_ext.reference.select,
    "reference.score": rho_ext.reference.score,
}


def moved(change: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors of the CPU go to the device, with their strides; those elsewhere stay."""

    def move(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return value
        entries = value.untyped_storage().nbytes() // value.itemsize
        flat = value.as_strided((entries,), (1,)).to(device)
        return flat.as_strided(value.shape, value.stride())

    return {name: move(value) for name, value in change.items()}


def call(op: str, arguments: dict[str, Any]) -> object:
    if op.endswith("score"):
        arguments = {name: value for name, value in arguments.items() if name != "k"}
    return OPS[op](**arguments)


def prefix(op: str) -> str:
    """The name in front of an error."""
    return op.partition(".")[0]


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


LOGITS_SHAPES = "logits must have shape (n, C) or (B, T, C), got "
LOGITS_TYPES = "logits must be float32, float16, bfloat16 or float64, got "
IL_TYPES = "il must be float32, float16 or bfloat16, got "
SHARE = "; for a share of the batch use rho_train.Selector(ratio=...)"
NEEDS = "needs il; pass il=table or activate one with rho_ext.use_il(table)"
Change = dict[str, Any]

# Rules about tensors: checked in C++ and, in the same words, in the fake kernels.
TENSOR_RULES: dict[str, tuple[Change, str]] = {
    "logits 1-D": ({"logits": zeros(N)}, LOGITS_SHAPES + "(320,)"),
    "logits 4-D": ({"logits": zeros(N, 1, 2, 5)}, LOGITS_SHAPES + "(320, 1, 2, 5)"),
    "logits 0-D": ({"logits": zeros()}, LOGITS_SHAPES + "()"),
    "logits of other sequences": (
        {"logits": zeros(N, 2, 5)},
        "labels must have shape (320, 2) or (640,), got (320,)",
    ),
    "labels of other sequences": (
        {"logits": zeros(N // 2, 2, C), "labels": zeros(2, N // 2, dtype=int64)},
        "labels must have shape (160, 2) or (320,), got (2, 160)",
    ),
    "il of other sequences": (
        {"logits": zeros(N // 2, 2, C), "ids": None, "il": zeros(N // 2, 3)},
        "il must have shape (160, 2) or (320,), got (160, 3)",
    ),
    "a table of sequences": (
        {"logits": zeros(N // 2, 2, C), "il": zeros(N // 2, 4)},
        "il must have shape (N,), got (160, 4)",
    ),
    "no class of sequences": (
        {"logits": zeros(N // 2, 2, 0)},
        "logits must have at least one class, got (160, 2, 0)",
    ),
    "logits int64": ({"logits": zeros(N, C, dtype=int64)}, LOGITS_TYPES + "int64"),
    "logits bool": ({"logits": zeros(N, C, dtype=torch.bool)}, LOGITS_TYPES + "bool"),
    "logits complex": ({"logits": zeros(N, C, dtype=torch.complex64)}, LOGITS_TYPES + "complex64"),
    "logits float8": (
        {"logits": zeros(N, C).to(torch.float8_e4m3fn)},
        LOGITS_TYPES + "float8_e4m3fn",
    ),
    "logits float8_e8m0fnu": (
        {"logits": torch.empty(N, C, dtype=torch.float8_e8m0fnu)},
        LOGITS_TYPES + "float8_e8m0fnu",
    ),
    "labels int4": (
        {"labels": torch.empty(N, dtype=torch.int4)},
        "labels must be int64 or int32, got int4",
    ),
    "too many rows": (
        {"logits": zeros(1, C).expand(2**31, C)},
        "logits must have fewer than 2147483648 rows, got 2147483648",
    ),
    "no class": ({"logits": zeros(N, 0)}, "logits must have at least one class, got (320, 0)"),
    "labels short": (
        {"labels": zeros(32, dtype=int64)},
        "labels must have shape (320,), got (32,)",
    ),
    "labels one-hot": ({"labels": zeros(N, C)}, "labels must have shape (320,), got (320, 10)"),
    "labels 0-D": ({"labels": zeros(dtype=int64)}, "labels must have shape (320,), got ()"),
    "labels float32": ({"labels": zeros(N)}, "labels must be int64 or int32, got float32"),
    "labels uint16": (
        {"labels": zeros(N, dtype=torch.uint16)},
        "labels must be int64 or int32, got uint16",
    ),
    "labels elsewhere": (
        {"labels": zeros(N, dtype=int64, device="meta")},
        "labels must be on the device of logits; move it with labels.to(logits.device)",
    ),
    "ids long": ({"ids": zeros(N + 1, dtype=int64)}, "ids must have shape (320,), got (321,)"),
    "ids 2-D": ({"ids": zeros(N, 1, dtype=int64)}, "ids must have shape (320,), got (320, 1)"),
    "ids int16": ({"ids": zeros(N, dtype=torch.int16)}, "ids must be int64 or int32, got int16"),
    "ids elsewhere": (
        {"ids": zeros(N, dtype=int64, device="meta")},
        "ids must be on the device of logits; move it with ids.to(logits.device)",
    ),
    "no il": ({"il": None}, "method 'rho' " + NEEDS),
    "no il for neg_il": ({"il": None, "method": "neg_il"}, "method 'neg_il' " + NEEDS),
    "il 2-D": ({"il": zeros(EXAMPLES, 1)}, "il must have shape (N,), got (1000, 1)"),
    "il float64": ({"il": zeros(EXAMPLES, dtype=float64)}, IL_TYPES + "float64"),
    "il int64": ({"il": zeros(EXAMPLES, dtype=int64)}, IL_TYPES + "int64"),
    "il elsewhere": (
        {"il": zeros(EXAMPLES, device="meta")},
        "il must be on the device of logits; move it with il.to(logits.device)",
    ),
    "whole table without ids": ({"ids": None}, "il must have shape (320,), got (1000,)"),
    "unread il float64": (
        {"method": "loss", "il": zeros(EXAMPLES, dtype=float64)},
        IL_TYPES + "float64",
    ),
    "bias short": ({"bias": zeros(1)}, "bias must have shape (320,), got (1,)"),
    "bias float16": ({"bias": zeros(N, dtype=torch.float16)}, "bias must be float32, got float16"),
    "bias elsewhere": (
        {"bias": zeros(N, device="meta")},
        "bias must be on the device of logits; move it with bias.to(logits.device)",
    ),
    "smoothing negative": (
        {"label_smoothing": -0.1},
        "label_smoothing must be in [0, 1], got -0.1",
    ),
    "smoothing above 1": (
        {"label_smoothing": 1.0000001},
        "label_smoothing must be in [0, 1], got 1",
    ),
    "smoothing nan": (
        {"label_smoothing": float("nan")},
        "label_smoothing must be in [0, 1], got nan",
    ),
}
SELECT_RULES: dict[str, tuple[Change, str]] = {
    "k negative": ({"k": -1}, "k must be in [0, 320], the rows of logits, got -1"),
    "k above n": ({"k": N + 1}, "k must be in [0, 320], the rows of logits, got 321"),
    "k above int64": ({"k": 2**63}, f"k must be in [0, 320], the rows of logits, got {2**63}"),
}
# What csrc/cuda computes is less.
GPU_RULES: dict[str, tuple[Change, str]] = {
    "logits float64": (
        {"logits": zeros(N, C, dtype=float64)},
        "logits on a GPU must be float32, float16 or bfloat16, got float64, which only the CPU "
        "computes; convert them with logits.float()",
    ),
    "too many classes": (
        {"logits": zeros(N, 1).expand(N, 2**30 + 1)},
        "logits on a GPU must have at most 1073741824 classes, got 1073741825",
    ),
}


def tensor_rules(op: str) -> dict[str, tuple[Change, str]]:
    return TENSOR_RULES | (SELECT_RULES if op.endswith("select") else {})


def error_of(op: str, arguments: dict[str, Any]) -> tuple[type, str]:
    with pytest.raises((ValueError, IndexError)) as caught:
        call(op, arguments)
    return caught.type, str(caught.value)


def fake_error_of(op: str, arguments: dict[str, Any]) -> tuple[type, str]:
    with FakeTensorMode() as mode:
        fake = {
            name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for name, value in arguments.items()
        }
        return error_of(op, fake)


@pytest.mark.parametrize("op", OPS)
def test_tensor_rules_in_eager_and_fake(op: str, device: torch.device) -> None:
    for change, message in tensor_rules(op).values():
        arguments = good(device) | moved(change, device)
        assert error_of(op, arguments) == (ValueError, f"{prefix(op)}: {message}")
        assert fake_error_of(op, arguments) == (ValueError, f"{prefix(op)}: {message}")


@on("emulated", "cuda")
@pytest.mark.parametrize("op", ["select", "score"])
def test_gpu_rules_in_eager_and_fake(op: str, device: torch.device) -> None:
    for change, message in GPU_RULES.values():
        arguments = good(device) | moved(change, device)
        assert error_of(op, arguments) == (ValueError, f"{op}: {message}")
        assert fake_error_of(op, arguments) == (ValueError, f"{op}: {message}")
        assert call(f"reference.{op}", good(device) | {"logits": zeros(N, C).double().to(device)})


@pytest.mark.parametrize("pairs", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_of_two_faults_eager_and_fake_name_the_same(pairs: str, backend: Backend) -> None:
    rules = list((tensor_rules("select") | (GPU_RULES if backend.gpu else {})).values())
    for i, j in combinations(range(len(rules)), 2):
        # The few hold every rule with eleven others, and with those of a GPU.
        if pairs == "few" and (i + j) % 4 and j < len(tensor_rules("select")):
            continue
        a, b = rules[i], rules[j]
        arguments = good(backend.device) | moved(a[0] | b[0], backend.device)
        assert error_of("select", arguments) == fake_error_of("select", arguments), (a[1], b[1])


def test_the_good_arguments_are_good(device: torch.device) -> None:
    """Else an error above could come from what all of them share."""
    for op in ("select", "score"):
        call(op, good(device))
        call(op, good(device) | {"ids": None, "il": zeros(N).to(device)})
        call(op, good(device) | {"label_smoothing": 1})


@pytest.mark.parametrize("op", OPS)
def test_what_is_no_tensor(op: str, device: torch.device) -> None:
    wrong = list(product(("logits", "labels", "ids", "il", "bias"), ([0, 1], np.zeros(N), 0.5)))
    for name, value in [*wrong, ("logits", None), ("labels", None)]:
        with pytest.raises(TypeError) as caught:
            call(op, good(device) | {name: value})
        kind = type(value).__name__
        assert str(caught.value) == f"{prefix(op)}: {name} must be a tensor, got {kind}"
        # The schema that torch shows does not stand above it.
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("method", [6, -1])
def test_method_numbers_of_the_op(method: int, backend: Backend) -> None:
    """Whoever calls the op itself gets no undefined behaviour either."""
    g, op = good(backend.device), backend.op("score")
    arguments = (g["logits"], g["labels"], None, None, method, None, -100, 0.0)
    message = re.escape(f"score: method must be in [0, 6), got {method}")
    with pytest.raises(ValueError, match=message):
        op(*arguments)
    with FakeTensorMode() as mode, pytest.raises(ValueError, match=message):
        op(*(mode.from_tensor(t) for t in arguments[:2]), *arguments[2:])


RANGE_RULES: dict[str, tuple[str, int, str]] = {
    "label C": ("labels", C, "labels must be in [0, 10) or equal to ignore_index (-100), got 10"),
    "label -1": ("labels", -1, "labels must be in [0, 10) or equal to ignore_index (-100), got -1"),
    "label of int32": ("labels", -(2**31), "or equal to ignore_index (-100), got -2147483648"),
    "id N": ("ids", EXAMPLES, "ids must be in [0, 1000), the rows of il, got 1000"),
    "id -1": ("ids", -1, "ids must be in [0, 1000), the rows of il, got -1"),
}


@on("cpu")
@pytest.mark.parametrize("op", ["select", "score"])
def test_values_out_of_range(op: str, device: torch.device) -> None:
    for name, dtype in product(RANGE_RULES, (torch.int64, torch.int32)):
        argument, value, message = RANGE_RULES[name]
        for row in (0, 63, 64, N - 1):
            arguments = good(device)
            arguments[argument] = arguments[argument].to(dtype)
            arguments[argument][row] = value
            kind, text = error_of(op, arguments)
            assert kind is IndexError
            assert text.startswith(f"{op}: {argument} must be in [0, ")
            assert text.endswith(f"{message} at row {row}")
        # Nothing is left behind: the next call works.
        call(op, good(device))


def check_invalid(arguments: dict[str, Any], rows: list[int]) -> None:
    """Require that these rows are counted, and that nothing else changes."""
    scores, losses = rho_ext.score(**{n: v for n, v in arguments.items() if n != "k"})
    for values in (scores, losses):
        assert values.isnan().nonzero()[:, 0].tolist() == rows
    got, wanted = rho_ext.select(**arguments), rho_ext.reference.select(**arguments)
    assert got.invalid.item() == len(rows)
    assert got.indices.tolist() == wanted.indices.tolist()
    assert not set(rows) & set(got.indices.tolist())
    assert got.losses.isnan().nonzero()[:, 0].tolist() == rows


@on("emulated", "cuda")
def test_on_a_gpu_values_out_of_range_are_counted(device: torch.device) -> None:
    rows = [0, 63, 64, N - 1]
    for name, dtype in product(RANGE_RULES, (torch.int64, torch.int32)):
        argument, value, _ = RANGE_RULES[name]
        arguments = good(device) | {"k": N}
        arguments[argument] = arguments[argument].to(dtype)
        arguments[argument][rows] = value
        check_invalid(arguments, rows)
        check_invalid(good(device), [])


@on("emulated", "cuda")
def test_on_a_gpu_wide_values_are_not_cut(device: torch.device) -> None:
    values = (2**32, -(2**32), 2**62, 2**63 - 1, -(2**63))
    for argument, value in product(("ids", "labels"), values):
        arguments = good(device)
        arguments[argument][5] = value
        check_invalid(arguments, [5])


@on("emulated", "cuda")
def test_on_a_gpu_an_empty_table_makes_every_row_invalid(device: torch.device) -> None:
    check_invalid(good(device) | {"il": zeros(0).to(device)}, list(range(N)))


@on("cpu")
def test_ids_wider_than_32_bits_are_not_cut(device: torch.device) -> None:
    arguments = good(device)
    arguments["ids"][5] = 2**32
    with pytest.raises(IndexError, match=r"got 4294967296 at row 5$"):
        call("select", arguments)
    arguments = good(device)
    arguments["labels"][6] = 2**32
    with pytest.raises(IndexError, match=r"got 4294967296 at row 6$"):
        call("select", arguments)


@on("cpu")
def test_an_empty_table_has_no_id(device: torch.device) -> None:
    with pytest.raises(
        IndexError, match=r"ids must be in \[0, 0\), the rows of il, got 0 at row 0"
    ):
        call("select", good(device) | {"il": zeros(0)})


@on("cpu")
def test_the_first_bad_row_is_named_whatever_the_threads(
    threads: None, device: torch.device
) -> None:
    n = 20_000
    logits = torch.zeros(n, C, device=device)
    labels = torch.zeros(n, dtype=int64, device=device)
    ids, il = labels.clone(), torch.zeros(EXAMPLES, device=device)
    labels[[19_999, 15_003, 9_001, 3_333, 3_332]] = torch.tensor([11, 12, 13, 14, 15])
    ids[[18_000, 12_000, 3_331, 3_332]] = torch.tensor([-2, -3, -4, -5])
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        for _ in range(20):
            with pytest.raises(IndexError, match=r"ids must .* got -4 at row 3331$"):
                rho_ext.select(logits, labels, ids, 5, il=il)
            with pytest.raises(IndexError, match=r"labels must .* got 15 at row 3332$"):
                rho_ext.select(logits, labels, ids, 5, method="loss")


ONLY = "method must be one of rho, loss, neg_il, grad_norm, entropy, logsumexp, got "
AN_INT = "k must be an int, the number of rows to select, got "

# Rules about options: checked in Python.
OPTION_RULES: dict[str, tuple[Change, type[Exception], str]] = {
    "k bool": ({"k": True}, TypeError, AN_INT + "True" + SHARE),
    "k float": ({"k": 0.1}, TypeError, AN_INT + "0.1" + SHARE),
    "k whole float": ({"k": 32.0}, TypeError, AN_INT + "32.0" + SHARE),
    "k str": ({"k": "32"}, TypeError, AN_INT + "'32'" + SHARE),
    "k bool tensor": ({"k": torch.tensor(True)}, TypeError, AN_INT + "tensor(True)" + SHARE),
    "k None": ({"k": None}, TypeError, AN_INT + "None" + SHARE),
    "k numpy float": ({"k": np.float32(0.5)}, TypeError, AN_INT + "np.float32(0.5)" + SHARE),
    "k numpy bool": ({"k": np.bool_(True)}, TypeError, AN_INT + "np.True_" + SHARE),
    "k float tensor": ({"k": torch.tensor(2.0)}, TypeError, AN_INT + "tensor(2.)" + SHARE),
    "smoothing str": (
        {"label_smoothing": "0.1"},
        TypeError,
        "label_smoothing must be a number, got str",
    ),
    "ignore_index None": (
        {"ignore_index": None},
        TypeError,
        "ignore_index must be an int, got NoneType",
    ),
    "ignore_index float": (
        {"ignore_index": -100.0},
        TypeError,
        "ignore_index must be an int, got float",
    ),
    "method unknown": ({"method": "Rho"}, ValueError, ONLY + "'Rho'"),
    "method None": ({"method": None}, ValueError, ONLY + "None"),
    "method number": ({"method": 0}, ValueError, ONLY + "0"),
    "method list": ({"method": ["rho"]}, ValueError, ONLY + "['rho']"),
}


@pytest.mark.parametrize("op", OPS)
def test_option_rules(op: str, device: torch.device) -> None:
    for name, (change, kind, message) in OPTION_RULES.items():
        if op.endswith("score") and name.startswith("k "):
            continue
        with pytest.raises(kind) as caught:
            call(op, good(device) | change)
        assert str(caught.value) == f"{prefix(op)}: {message}"


def test_every_kind_of_integer_is_a_k(device: torch.device) -> None:
    for k in (np.int64(7), np.int32(7), np.uint8(7), torch.tensor(7)):
        assert len(rho_ext.select(**good(device) | {"k": k}).indices) == 7
