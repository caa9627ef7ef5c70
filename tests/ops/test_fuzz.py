"""Random batches, layouts and special values, held to the float64 reference.

The batches are the same on every run. `RHO_EXT_THOROUGH=1 pytest --hypothesis-seed=7` runs twelve
times as many, others for every seed, and prints what repeats a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rho_ext import Scores, reference, score, select

from ..backends import Backend
from .cases import DTYPES, INF, METHODS, NAN, Inputs, assert_accurate, same_bits

# Around the vectors of every instruction set, four of them, and the blocks of long rows.
EDGES = sorted({m + d for m in (64, 128, 256, 512, 1024, 2048, 4096) for d in (-17, -1, 0, 1, 16)})
# Judged with every batch: in few rows, the error of plain torch may be small by chance.
MORE_ROWS = 64
TABLE = 100
# Of longer rows csrc/cuda/plan.h makes the more parts, the fewer rows there are.
SHARED_ROW_BYTES = 8192

Generator = torch.Generator
RowKind = Callable[[Tensor, Generator], Tensor]


def as_integers(x: Tensor) -> Tensor:
    """The same bits: operations on halves go through float32 and lose what a NaN carries."""
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


def chosen(shape: tuple[int, ...], values: Tensor, generator: Generator) -> Tensor:
    return values[torch.randint(len(values), shape, generator=generator)]


def sprinkled(x: Tensor, values: Tensor, share: float, generator: Generator) -> Tensor:
    """Replace about this share of the entries by some of the values."""
    hit = torch.rand(x.shape, generator=generator) < share
    return torch.where(hit, chosen(x.shape, values.to(x.dtype), generator), x)


def with_one(x: Tensor, values: Tensor, generator: Generator) -> Tensor:
    """Replace one logit of each row by one of the values."""
    place = torch.randint(x.shape[1], (len(x), 1), generator=generator)
    value = as_integers(chosen((len(x), 1), values.to(x.dtype), generator))
    return as_integers(x).scatter(1, place, value).view(x.dtype)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def limits(dtype: torch.dtype) -> Tensor:
    info = torch.finfo(dtype)
    return numbers(info.max, info.min)


def finite(x: Tensor) -> Tensor:
    """Clamp to the range of float16."""
    return x.clamp(*limits(x.dtype).flip(0).tolist())


def nans(dtype: torch.dtype) -> Tensor:
    """Signalling and quiet, of both signs, with the smallest and the largest payload."""
    inf, nan, low = (as_integers(torch.tensor(v, dtype=dtype)) for v in (INF, NAN, -INF))
    return torch.stack([inf + 1, nan, low + 1, torch.full_like(nan, -1)]).view(dtype)


def shifted(x: Tensor, generator: Generator) -> Tensor:
    offsets = numbers(1e4, -1e4, 1e30, -1e30)
    return finite(x + chosen((len(x), 1), finite(offsets.to(x.dtype)), generator))


def dominated(x: Tensor, generator: Generator) -> Tensor:
    margins = 10 ** (1 + 2 * torch.rand(100, generator=generator, dtype=torch.float64))
    return with_one(x, margins, generator)


def masked_start(x: Tensor, generator: Generator) -> Tensor:
    """Whole blocks of -inf before the first finite logit; sometimes there is none."""
    first = torch.randint(x.shape[1] + 1, (len(x), 1), generator=generator)
    return torch.where(torch.arange(x.shape[1]) < first, -INF, x)


# What the rows of a batch can be made into; they start as normal numbers of scale 3.
KINDS: dict[str, RowKind] = {
    "equal": lambda x, g: x[:, :1].expand(x.shape),
    "sorted": lambda x, g: x.sort(1).values,
    "reversed": lambda x, g: x.sort(1, descending=True).values,
    "dominated": dominated,
    "shifted": shifted,
    "far apart": lambda x, g: finite(x * 1e30),
    "small": lambda x, g: x * 1e-5,
    "denormal": lambda x, g: x * (torch.finfo(x.dtype).tiny / 8),
    "zeros of both signs": lambda x, g: x * 0,
    "extreme": lambda x, g: sprinkled(x, limits(x.dtype), 0.3, g),
    "one extreme": lambda x, g: with_one(x, limits(x.dtype), g),
    "masked": lambda x, g: sprinkled(x, numbers(-INF), 0.5, g),
    "masked start": masked_start,
    "one masked": lambda x, g: with_one(x, numbers(-INF), g),
    "all masked": lambda x, g: torch.full_like(x, -INF),
    "one infinite": lambda x, g: with_one(x, numbers(INF), g),
    "one nan": lambda x, g: with_one(x, nans(x.dtype), g),
    "all nan": lambda x, g: chosen(x.shape, nans(x.dtype), g),
}


@dataclass(frozen=True)
class Batch:
    """A batch of n rows; the values follow from the seed."""

    seed: int
    n: int
    classes: int
    dtype: torch.dtype
    kinds: list[str]
    stride: int | None
    offset: int
    tail: int
    label_dtype: torch.dtype
    id_dtype: torch.dtype | None
    il_dtype: torch.dtype
    ignore_index: int
    ignored: bool
    bias: bool
    strided: bool
    label_smoothing: float

    def rows(self, n: int, classes: int, generator: Generator) -> Tensor:
        """Rows of all kinds: each kind stands next to ordinary rows and to every other."""
        rows = 3 * torch.randn((n, classes), generator=generator, dtype=torch.float64)
        rows = rows.to(self.dtype)
        kind = torch.randint(-1, len(self.kinds), (n,), generator=generator)
        for i, name in enumerate(self.kinds):
            rows[kind == i] = KINDS[name](rows[kind == i], generator)
        return rows

    def logits(self, generator: Generator) -> Tensor:
        """The rows in their layout, NaN around them; `tail` numbers follow the last logit."""
        if self.stride is None:
            return self.rows(self.n, self.classes, generator).t().contiguous().t()
        length = max(self.n - 1, 0) * self.stride + self.classes
        storage = torch.full((self.offset + length + self.tail,), NAN, dtype=self.dtype)
        shape, strides = (self.n, self.classes), (self.stride, 1)
        view = storage.as_strided(shape, strides, self.offset)
        if self.stride < self.classes:
            # Rows that overlap are windows of one long row.
            storage[self.offset :][:length] = self.rows(1, length, generator)[0]
        else:
            view.copy_(self.rows(*shape, generator))
        return view

    def inputs(self) -> tuple[Inputs, Inputs]:
        """The batch in its layout, and the same rows dense with more of their kinds behind them."""
        g = torch.Generator().manual_seed(self.seed)
        logits = self.logits(g)
        rows = torch.cat([logits, self.rows(MORE_ROWS, self.classes, g)])
        n = len(rows)

        likely = torch.tensor([0, self.classes - 1, -1])
        labels = chosen((n,), likely, g)
        anywhere = torch.randint(self.classes, (n,), generator=g)
        labels = torch.where(labels < 0, anywhere, labels)
        examples = TABLE if self.id_dtype else n
        il = torch.randn(examples, generator=g).to(self.il_dtype)
        tiny = torch.finfo(self.il_dtype).tiny / 8
        il = sprinkled(il, numbers(INF, -INF, NAN, 0.0, -0.0, tiny, -tiny), 0.2, g)
        ids = torch.randint(examples, (n,), generator=g) if self.id_dtype else None
        bias = torch.randn(n, generator=g)
        bias = sprinkled(bias, numbers(INF, -INF, NAN, 0.0, -0.0, 1e-40, 1e4), 0.2, g)
        if self.ignored:
            labels[torch.rand(n, generator=g) < 0.3] = self.ignore_index
            if ids is not None:
                ids[labels == self.ignore_index] = -5
        wide = Inputs(
            logits=rows,
            labels=labels.to(self.label_dtype),
            ids=None if ids is None else ids.to(self.id_dtype),
            il=il,
            bias=bias if self.bias else None,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        per_row = ["labels", "bias", "il" if ids is None else "ids"]
        vectors = {name: self.vector(wide[name]) for name in per_row if wide[name] is not None}
        return wide | vectors | {"logits": logits}, wide

    def vector(self, x: Tensor) -> Tensor:
        """The first n entries, sometimes with others between them."""
        return torch.stack([x, x.flip(0)], 1)[: self.n, 0] if self.strided else x[: self.n].clone()


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    classes = draw(st.one_of(st.integers(1, 70), st.sampled_from(EDGES)))
    # More rows than csrc/cpu/top_keys.h sorts by comparisons, where they cost little.
    most = 300 if classes <= 300 else 20
    sixteens = [16 * i + d for i in range(1, most // 16 + 1) for d in (-1, 0, 1)]
    strides = st.one_of(st.sampled_from([classes, 0, None]), st.integers(0, classes))
    return Batch(
        seed=draw(st.integers(0, 2**32 - 1)),
        n=draw(st.one_of(st.integers(0, most), st.sampled_from(sixteens))),
        classes=classes,
        dtype=draw(st.sampled_from(DTYPES)),
        kinds=draw(st.lists(st.sampled_from(list(KINDS)), max_size=3)),
        stride=draw(st.one_of(strides, st.integers(classes, classes + 40))),
        offset=draw(st.integers(0, 17)),
        tail=draw(st.sampled_from([0, 1, 70])),
        label_dtype=draw(st.sampled_from([torch.int64, torch.int32])),
        id_dtype=draw(st.sampled_from([torch.int64, torch.int32, None])),
        il_dtype=draw(st.sampled_from(DTYPES[:3])),
        ignore_index=draw(st.sampled_from([-100, 0, classes - 1])),
        ignored=draw(st.booleans()),
        bias=draw(st.booleans()),
        strided=draw(st.booleans()),
        label_smoothing=draw(st.sampled_from([0.0, 0.1, 0.9, 1.0])),
    )


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same layout there, and on the CPU the same memory, which ends where it should."""
    if device.type == "cpu":
        return inputs
    moved = {}
    for name, x in inputs.items():
        if isinstance(x, Tensor):
            whole = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0).to(device)
            moved[name] = whole.as_strided(x.shape, x.stride(), x.storage_offset())
    return inputs | moved


def cut(dense: Inputs, n: int) -> Inputs:
    """The first n rows."""
    names = ("logits", "labels", "bias", "il" if dense["ids"] is None else "ids")
    return dense | {name: None if dense[name] is None else dense[name][:n] for name in names}


def table_rows(inputs: Inputs) -> Tensor:
    """The IL of every row; that of an ignored row means nothing."""
    ids, il = inputs["ids"], inputs["il"].float()
    return il if ids is None else il[ids.long().clamp(min=0)]


def check_scores(inputs: Inputs, method: str) -> Scores:
    """Hold losses and scores to the truth, and return them."""
    got, classes = score(**inputs, method=method), inputs["logits"].shape[1]
    free = inputs | {"bias": None}
    exact = free | {"logits": inputs["logits"].double()}
    plain, truth = reference.score(**free, method=method), reference.score(**exact, method=method)
    assert_accurate(got.losses, plain.losses, truth.losses, classes)
    ignored = inputs["labels"] == inputs["ignore_index"]
    in_double = inputs["logits"].dtype == torch.float64
    scores = score(**free, method=method).scores
    if in_double or method in ("grad_norm", "entropy", "logsumexp"):
        assert_accurate(scores, plain.scores, truth.scores, classes)
    else:
        row_il = table_rows(inputs)
        parts = {"rho": got.losses - row_il, "loss": got.losses, "neg_il": -row_il}
        assert same_bits(scores, parts[method].masked_fill(ignored, -INF))
    if inputs["bias"] is not None:
        before = truth.scores if in_double else scores
        scores = (before + inputs["bias"]).masked_fill(ignored, -INF)
    if in_double:
        assert_accurate(got.scores, scores, scores, classes)
    else:
        assert same_bits(got.scores, scores)
    return got


def check_selection(inputs: Inputs, method: str, k: int, from_scores: Scores) -> None:
    """Require the rows that a stable sort of the op's own scores puts first."""
    got = select(**inputs, k=k, method=method)
    assert same_bits(got.losses, from_scores.losses)
    scores = from_scores.scores
    n = len(scores)
    labels = torch.zeros(n, dtype=torch.int64, device=scores.device)
    nothing = labels[:, None].float(), labels, None
    wanted = reference.select(*nothing, k, il=-scores, method="neg_il")
    assert got.invalid == wanted.invalid
    assert torch.equal(got.values, wanted.values)
    if inputs["logits"].dtype == torch.float64:
        # Ordered in float64: rows that are equal in float32 may stand in any order.
        rows = got.indices[got.indices >= 0]
        assert len(rows) == (wanted.indices >= 0).sum()
        assert len(rows.unique()) == len(rows)
        assert torch.equal(scores[rows] + 0.0, wanted.values[: len(rows)])
        assert (got.indices[len(rows) :] == -1).all()
    else:
        assert torch.equal(got.indices, wanted.indices)


def check_batch(backend: Backend, batch: Batch, method: str, share: float) -> None:
    assume(batch.dtype in backend.dtypes)
    inputs, dense = (on_device(inputs, backend.device) for inputs in batch.inputs())
    wanted = check_scores(dense, method)
    # Neither the layout nor the rows around it change a bit of a row.
    got = score(**inputs, method=method)
    if backend.gpu and dense["logits"][0].nbytes > SHARED_ROW_BYTES:
        wanted = score(**cut(dense, batch.n), method=method)
    assert same_bits(got.scores, wanted.scores[: batch.n])
    assert same_bits(got.losses, wanted.losses[: batch.n])
    check_selection(inputs, method, round(share * batch.n), got)


any_batch = given(batch=batches(), method=st.sampled_from(METHODS), share=st.floats(0, 1))


@settings(max_examples=6 * settings.default.max_examples)
@any_batch
def test_any_batch(backend: Backend, batch: Batch, method: str, share: float) -> None:
    check_batch(backend, batch, method, share)


@pytest.mark.slow
@settings(max_examples=20 * settings.default.max_examples)
@any_batch
def test_any_batch_of_many(backend: Backend, batch: Batch, method: str, share: float) -> None:
    check_batch(backend, batch, method, share)
