"""The named sample inputs that all tests of the ops share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

METHODS = ("rho", "loss", "neg_il", "grad_norm", "entropy", "logsumexp")
WITHOUT_IL = ("loss", "grad_norm", "entropy", "logsumexp")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Around every vector width, the block of the kernels (1024), and a small vocabulary.
CLASSES = (1, 2, 3, 7, 16, 17, 26, 64, 100, 1000, 1001, 1024, 1025, 5000)
# Around the rows that one kernel call covers (64), and the large batch of the paper.
ROWS = (0, 1, 2, 63, 64, 65, 320)
INF, NAN = torch.inf, torch.nan


# The arguments that `select` and `score` have in common, but for `method`.
Inputs = dict[str, Any]
Row = dict[str, Any]
# `every` or `pairwise`.
Combine = Callable[..., list[Row]]


def every(**factors: Sequence[Any]) -> list[Row]:
    """Return every combination of the values; if there are over 500, one for each of the rest.

    The rest are the factors but the one with the most values.
    """
    indices = list(product(*(range(len(values)) for values in factors.values())))
    most = max(len(values) for values in factors.values()) if len(indices) > 500 else 1
    some = [row for row in indices if sum(row) % most == 0]
    return [{name: factors[name][i] for name, i in zip(factors, row, strict=True)} for row in some]


def pairwise(**factors: Sequence[Any]) -> list[Row]:
    """Return a few combinations in which any two values of two factors meet, always the same."""
    Choice = tuple[str, int]

    def pair(a: Choice, b: Choice) -> tuple[Choice, Choice]:
        return (a, b) if a < b else (b, a)

    choices = {name: [(name, i) for i in range(len(values))] for name, values in factors.items()}
    missing = {
        pair(a, b): None
        for first, second in combinations(sorted(choices, key=lambda name: -len(choices[name])), 2)
        for a, b in product(choices[first], choices[second])
    }
    rows: list[Row] = []
    while missing:
        row: list[Choice] = list(next(iter(missing)))
        for name in sorted(choices.keys() - {name for name, _ in row}):
            # The value that meets most of the pairs still missing; ties take turns.
            turned = [*choices[name][len(rows) % len(choices[name]) :], *choices[name]]
            row.append(max(turned, key=lambda c: sum(pair(c, other) in missing for other in row)))
        for a, b in combinations(row, 2):
            missing.pop(pair(a, b), None)
        rows.append({name: factors[name][i] for name, i in row})
    return rows


# A test of combinations takes few of them in the fast lane, and every one in the slow lane.
combined = pytest.mark.parametrize(
    "combine", [pairwise, pytest.param(every, marks=pytest.mark.slow)]
)


def _confident(logits: Tensor, labels: Tensor) -> Tensor:
    """Rows from not learnt at all to learnt down to the last digit of a float32."""
    margin = torch.linspace(-30, 40, len(logits), dtype=logits.dtype)
    return logits.scatter_add(1, labels[:, None], margin[:, None])


def _offset(logits: Tensor, labels: Tensor) -> Tensor:
    sign = torch.arange(len(logits)) % 2 * 2 - 1
    return logits + 1e4 * sign[:, None]


def _masked_classes(logits: Tensor, labels: Tensor) -> Tensor:
    keep = logits.gather(1, labels[:, None])
    masked = torch.where(logits > 0, -INF, logits)
    return masked.scatter(1, labels[:, None], keep)


def _masked_start(logits: Tensor, labels: Tensor) -> Tensor:
    """More than one whole block of -inf before the first finite logit."""
    masked = logits.clone()
    masked[:, : logits.shape[1] // 2] = -INF
    return masked


def _lowest_start(logits: Tensor, labels: Tensor) -> Tensor:
    """Like masked-start, with the lowest finite number in place of -inf; labels are not masked."""
    keep = logits.gather(1, labels[:, None])
    return _masked_start(logits, labels).scatter(1, labels[:, None], keep)


def _masked_label(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -INF)


def _bad_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Rows of NaN, +inf and -inf: some by one logit, some whole."""
    spoilt = logits.clone()
    spoilt[0, 0] = NAN
    spoilt[2, -1] = NAN
    spoilt[3] = NAN
    spoilt[5, labels[5]] = INF
    spoilt[7, labels[7] - 1] = INF
    spoilt[8] = -INF
    spoilt[10, -1] = -INF
    return spoilt


CONTENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "confident": _confident,
    "offset": _offset,
    "masked-classes": _masked_classes,
    "masked-start": _masked_start,
    "lowest-start": _lowest_start,
    "masked-label": _masked_label,
    "flat": lambda logits, labels: torch.zeros_like(logits),
    # No probability dwarfs the others, so the error of every exp counts.
    "narrow": lambda logits, labels: logits / 10,
    "bad-rows": _bad_rows,
}


def _padded(logits: Tensor) -> Tensor:
    wide = torch.cat([logits, torch.full_like(logits[:, :1], NAN)], 1)
    return wide[:, :-1]


def _expanded(logits: Tensor) -> Tensor:
    return logits[:1].expand(logits.shape)


def _transposed(logits: Tensor) -> Tensor:
    return logits.t().contiguous().t()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "padded": _padded,
    "expanded": _expanded,
    "transposed": _transposed,
}


@dataclass(frozen=True)
class Case:
    """One sample input, made anew and the same on every call of `inputs`."""

    name: str
    n: int = 65
    classes: int = 26
    dtype: torch.dtype = torch.float32
    content: str = ""
    layout: str = ""
    label_dtype: torch.dtype = torch.int64
    id_dtype: torch.dtype | None = torch.int64
    il_dtype: torch.dtype = torch.float32
    ignore_index: int = -100
    ignored: bool = False
    bias: bool = False
    label_smoothing: float = 0.0

    def inputs(self, device: torch.device) -> Inputs:
        """Make the tensors, with a table of 1000 examples, every 17th unknown."""
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        n = self.n
        logits = 3 * normal(n, self.classes)
        labels = torch.randint(self.classes, (n,), generator=generator)
        if self.content:
            logits = CONTENTS[self.content](logits, labels)
        logits = logits.to(self.dtype)
        if self.content == "lowest-start":
            logits = logits.clamp(min=torch.finfo(self.dtype).min)
        if self.layout:
            logits = LAYOUTS[self.layout](logits)
        examples = 1000 if self.id_dtype else n
        il = normal(examples).abs()
        il[::17] = NAN
        ids = torch.randint(examples, (n,), generator=generator) if self.id_dtype else None
        bias = normal(n).float()
        bias[::7], bias[3::14] = -INF, NAN
        if self.ignored:
            labels[::3] = self.ignore_index
        return Inputs(
            logits=logits.to(device),
            labels=labels.to(device, self.label_dtype),
            ids=None if ids is None else ids.to(device, self.id_dtype),
            il=il.to(device, self.il_dtype),
            bias=bias.to(device) if self.bias else None,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )


def short(dtype: torch.dtype | None) -> str:
    """The name of a dtype in the name of a case."""
    return str(dtype).removeprefix("torch.")


OPTIONS: dict[str, Sequence[Any]] = {
    "dtype": DTYPES,
    "label_smoothing": (0.0, 0.1, 1.0),
    # Expanded rows are one row, of which plain torch may be right by chance: FEW_CASES.
    "layout": ("", "padded", "transposed"),
    "label_dtype": (torch.int64, torch.int32),
    "id_dtype": (torch.int64, torch.int32, None),
    "il_dtype": DTYPES[:3],
    "ignored": (False, True),
    "ignore_index": (-100, 3),
    "bias": (False, True),
}


def _named(row: Row) -> Case:
    values = (short(v) if isinstance(v, torch.dtype) else v for v in row.values())
    return Case("-".join(f"{name}={value}" for name, value in zip(row, values, strict=True)), **row)


def _pairwise_cases() -> list[Case]:
    rows = pairwise(classes=CLASSES, n=(33,), **OPTIONS)
    rows += pairwise(n=ROWS, classes=(26, 100), **OPTIONS)
    rows += pairwise(content=tuple(CONTENTS), classes=(26, 3000), n=(33,), **OPTIONS)
    rows += pairwise(content=("narrow",), classes=(2, 3), n=(320,), dtype=DTYPES)
    return [_named(row) for row in rows]


def _wide_cases() -> list[Case]:
    """Products of what the kernels look at."""
    rows = every(dtype=DTYPES, classes=CLASSES, label_smoothing=(0.0, 0.1), n=(9,))
    rows += every(
        content=tuple(CONTENTS), dtype=DTYPES, classes=(26,), label_smoothing=(0.0, 0.1), n=(33,)
    )
    rows += every(content=tuple(CONTENTS), dtype=DTYPES, classes=(3000,), n=(33,))
    rows += every(layout=("padded", "transposed"), dtype=DTYPES, classes=(26, 1025), n=(17,))
    rows += every(**{name: OPTIONS[name] for name in ("label_dtype", "id_dtype", "il_dtype")})
    rows += every(**{name: OPTIONS[name] for name in ("dtype", "ignored", "ignore_index", "bias")})
    return [_named(row) for row in rows]


CASES, WIDE_CASES = _pairwise_cases(), _wide_cases()
# One or two of each kind, for tests in which a case costs more than a call.
FEW_CASES = (
    Case("n0", n=0),
    Case("n1", n=1),
    Case("n320", n=320),
    Case("ignored-smoothing", ignored=True, label_smoothing=0.1),
    Case("int32", label_dtype=torch.int32, id_dtype=torch.int32, il_dtype=torch.bfloat16),
    Case("aligned", id_dtype=None),
    Case("transposed", layout="transposed", n=17),
    Case("expanded", layout="expanded", dtype=torch.float16, classes=1025, n=17),
    Case("bias-float64", bias=True, ignored=True, dtype=torch.float64),
    Case("bias-bfloat16", bias=True, ignored=True, dtype=torch.bfloat16),
    Case("bad-rows", content="bad-rows", n=33),
)
cases = pytest.mark.parametrize(
    "cases", [CASES, pytest.param(WIDE_CASES, marks=pytest.mark.slow)], ids=["pairwise", "wide"]
)


def same_bits(ours: Tensor, wanted: Tensor) -> bool:
    """Equal to the last bit, the sign of zero included; any NaN of ours is torch.nan."""
    if wanted.is_floating_point():
        bits = {4: torch.int32, 8: torch.int64}[wanted.itemsize]
        wanted = wanted.masked_fill(wanted.isnan(), NAN).view(bits)
        ours = ours.view(bits)
    return ours.dtype == wanted.dtype and torch.equal(ours, wanted)


def assert_accurate(ours: Tensor, plain: Tensor, truth: Tensor, classes: int) -> None:
    """Require at most twice the error of plain torch in float32, plus one float32 ulp.

    `truth` is float64, with sums of `classes` terms, each addition of which rounds; so do ours of
    float64 logits. The error of plain torch is its largest over the batch, because a single
    row of it may be right by chance. Above 8 errors are relative, or one huge value would lend its
    error to every other. NaN and infinity must stand where the truth has them, rounded to float32;
    where only plain torch overflows, any number will do.
    """
    assert ours.dtype == torch.float32
    special = ~truth.float().isfinite()
    got, wanted = ours[special], truth[special].float()
    assert torch.allclose(got, wanted, rtol=0, atol=0, equal_nan=True), f"{got} is not {wanted}"
    rows = (~special).nonzero()[:, 0]
    if len(rows) == 0:
        return
    ours, plain, truth = ours[rows], plain[rows], truth[rows]
    size = truth.float().abs()
    ulp = (torch.nextafter(size, torch.full_like(size, INF)) - size).double()
    unit = truth.abs().clamp(min=8)
    plain_error = ((plain.double() - truth).abs() / unit).nan_to_num(0, 0).max()
    rounding = classes * torch.finfo(torch.float64).eps
    allowed = (2 * plain_error * unit + ulp + rounding).where(plain.isfinite(), INF)
    error = (ours.double() - truth).abs()
    worst = int((error / allowed).masked_fill(error <= allowed, 0).nan_to_num(INF).argmax())
    assert error[worst] <= allowed[worst], (
        f"row {int(rows[worst])}: got {ours[worst]:.9g}, truth {truth[worst]:.17g}, error "
        f"{error[worst]:.3g}, allowed {allowed[worst]:.3g}; plain torch {plain[worst]:.9g}, its "
        f"largest error {plain_error * unit[worst]:.3g}, ulp {ulp[worst]:.3g}"
    )
