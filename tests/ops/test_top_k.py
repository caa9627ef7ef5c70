"""The selection of many rows: floors, filters and digits, on several threads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rho_ext import reference, select

from ..backends import Backend, on
from .cases import INF, NAN, Combine, combined

# Around the sizes at which csrc/cpu/top_keys.h and csrc/cuda/plan.h change their way, the last
# one with many chunks.
SIZES = (256, 257, 3000, 20_000, 200_000)
# None, one of 200,000, and all but one among them.
SHARES = (0.0, 5e-6, 0.01, 0.1, 0.5, 1 - 5e-6, 1.0)


def misleading(n: int) -> Tensor:
    """The rows that csrc/cpu/top_keys.h samples are the best ones."""
    golden = 0x9E3779B97F4A7C15
    scores = torch.rand(n)
    scores[[(i * golden % 2**64 >> 32) * n >> 32 for i in range(1, 4097)]] += 1.0
    return scores


def masked(n: int, share: float) -> Tensor:
    scores = torch.randn(n)
    scores[torch.rand(n) < share] = -INF
    scores[torch.rand(n) < 0.01] = NAN
    return scores


SCORES = {
    "loss minus irreducible loss": lambda n: torch.empty(n).exponential_() - 0.5 * torch.rand(n),
    "one exponent": lambda n: 4.0 + 4.0 * torch.rand(n),
    "equal": lambda n: torch.full((n,), 0.25),
    "ascending": lambda n: torch.arange(n) - n / 2,
    "descending": lambda n: n / 2 - torch.arange(n),
    "few values": lambda n: torch.randint(-4, 4, (n,)).float(),
    "every exponent": lambda n: torch.randint(-(2**31), 2**31, (n,)).int().view(torch.float32),
    "half masked": lambda n: masked(n, 0.5),
    "almost all masked": lambda n: masked(n, 0.99),
    "every 16th best": lambda n: torch.rand(n) + (torch.arange(n) % 16 == 0),
    "misleading sample": misleading,
}


def check(inputs: dict[str, Any], n: int, share: float, threads: int) -> None:
    """Require the reference's rows and values."""
    k = round(share * n)
    ranked = reference.select(**inputs, k=k)
    torch.set_num_threads(threads)
    got = select(**inputs, k=k)
    torch.set_num_threads(1)
    assert torch.equal(got.indices, ranked.indices)
    assert torch.equal(got.values, ranked.values.float())


@combined
def test_order_of_many_scores(combine: Combine, threads: None, backend: Backend) -> None:
    for row in combine(
        name=tuple(SCORES),
        n=tuple(n for n in SIZES if n <= backend.most_rows),
        share=SHARES,
        threads=(1, 2, 3),
    ):
        n = row["n"]
        torch.manual_seed(n)
        scores = SCORES[row["name"]](n).to(backend.device)
        labels = torch.zeros(n, dtype=torch.int64, device=backend.device)
        inputs = {"logits": labels[:, None].float(), "labels": labels, "ids": None}
        check(inputs | {"il": -scores, "method": "neg_il"}, n, row["share"], row["threads"])


@on("cpu")
@combined
def test_order_of_many_float64_scores(combine: Combine, threads: None, backend: Backend) -> None:
    """Half the rows are ties, the others differ down to the last bit.

    Above 64, the loss of logits (x, 0) at label 1 is x itself, in any arithmetic order.
    """
    for row in combine(n=SIZES, share=SHARES, threads=(1, 2, 3)):
        n = row["n"]
        torch.manual_seed(n)
        x = 64.0 + 64.0 * torch.rand(n, dtype=torch.float64)
        x[torch.rand(n) < 0.5] = 96.5
        logits = torch.stack([x, torch.zeros_like(x)], 1).to(backend.device)
        labels = torch.ones(n, dtype=torch.int64, device=backend.device)
        il = torch.full((n,), 96.0, device=backend.device)
        inputs = {"logits": logits, "labels": labels, "ids": None, "il": il}
        check(inputs, n, row["share"], row["threads"])
