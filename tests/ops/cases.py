"""The named sample inputs that all tests of the ops share."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

METHODS = ("rho", "loss", "neg_il", "grad_norm", "entropy")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Around every vector width, the block of the kernels (1024), and a small vocabulary.
CLASSES = (1, 2, 3, 7, 16, 17, 26, 64, 100, 1000, 1001, 1024, 1025, 5000)
# Around the rows that one kernel call covers (64), and the large batch of the paper.
ROWS = (0, 1, 2, 63, 64, 65, 320)
INF, NAN = torch.inf, torch.nan
# The roundings of the float64 truth itself: a few of its ulp at the sum of a softmax, 1.
TRUTH_ERROR = 4e-15


# The arguments that `select` and `score` have in common, but for `method`.
Inputs = dict[str, Any]


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
    """As masked-start, with the lowest finite number in place of -inf; labels are not masked."""
    keep = logits.gather(1, labels[:, None])
    masked = logits.clone()
    masked[:, : logits.shape[1] // 2] = -INF
    return masked.scatter(1, labels[:, None], keep)


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
        """Make the tensors, with a table of 1000 points, every 17th unknown."""
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
        points = 1000 if self.id_dtype else n
        il = normal(points).abs()
        il[::17] = NAN
        ids = torch.randint(points, (n,), generator=generator) if self.id_dtype else None
        bias = normal(n).float()
        bias[::7] = -INF
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


def _size_cases() -> list[Case]:
    kernels = [
        Case(f"{short(d)}-C{c}-smoothing{s}", n=9, classes=c, dtype=d, label_smoothing=s)
        for d, c, s in product(DTYPES, CLASSES, (0.0, 0.1))
    ]
    return kernels + [Case(f"n{n}", n=n) for n in ROWS]


def _content_cases() -> list[Case]:
    return [
        Case(f"{content}-{short(d)}-C{c}-smoothing{s}", classes=c, dtype=d, content=content,
             label_smoothing=s, n=33)
        for content, d, (c, s) in product(CONTENTS, DTYPES, [(26, 0.0), (26, 0.1), (3000, 0.0)])
    ] + [
        Case(f"narrow-{short(d)}-C{c}", classes=c, dtype=d, content="narrow", n=320)
        for d, c in product(DTYPES, (2, 3))
    ]  # fmt: skip


def _option_cases() -> list[Case]:
    integers, tables = (torch.int64, torch.int32), DTYPES[:3]
    types = [
        Case(f"types-{short(y)}-{short(i)}-{short(t)}", label_dtype=y, id_dtype=i, il_dtype=t)
        for y, i, t in product(integers, (*integers, None), tables)
    ]
    layouts = [
        Case(f"{layout}-{short(d)}-C{c}", layout=layout, dtype=d, classes=c, n=17)
        for layout, d, c in product(LAYOUTS, DTYPES, (26, 1025))
    ]
    return [
        *types,
        *layouts,
        Case("smoothing-all", label_smoothing=1.0),
        Case("ignored", ignored=True),
        Case("ignored-is-a-class", ignored=True, ignore_index=3),
        Case("ignored-int32", ignored=True, label_dtype=torch.int32),
        Case("ignored-smoothing", ignored=True, label_smoothing=0.1),
        *[Case(f"bias-{short(d)}", bias=True, ignored=True, dtype=d) for d in DTYPES],
    ]


CASES = (*_size_cases(), *_content_cases(), *_option_cases())
# One or two of each kind, for tests in which a case costs more than a call.
FEW_CASES = tuple(
    case
    for case in CASES
    if case.name
    in {"n0", "n1", "n320", "ignored-smoothing", "types-int32-int32-bfloat16"}
    | {"types-int64-None-float32", "transposed-float32-C26", "expanded-float16-C1025"}
    | {"bias-float64", "bias-bfloat16", "bad-rows-float32-C26-smoothing0.0"}
)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit, the sign of zero included; one NaN is as good as another."""

    def bits(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        return x.masked_fill(x.isnan(), NAN).view({4: torch.int32, 8: torch.int64}[x.itemsize])

    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def assert_accurate(ours: Tensor, plain: Tensor, truth: Tensor) -> None:
    """Require at most twice the error of plain torch in float32, plus one float32 ulp.

    `truth` is float64. The error of plain torch is its largest over the batch, because a single
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
    allowed = (2 * plain_error * unit + ulp + TRUTH_ERROR).where(plain.isfinite(), INF)
    error = (ours.double() - truth).abs()
    worst = int((error / allowed).masked_fill(error <= allowed, 0).nan_to_num(INF).argmax())
    assert error[worst] <= allowed[worst], (
        f"row {int(rows[worst])}: got {ours[worst]:.9g}, truth {truth[worst]:.17g}, error "
        f"{error[worst]:.3g}, allowed {allowed[worst]:.3g}; plain torch {plain[worst]:.9g}, its "
        f"largest error {plain_error * unit[worst]:.3g}, ulp {ulp[worst]:.3g}"
    )
