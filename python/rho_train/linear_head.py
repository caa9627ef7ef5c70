"""Blocks of logits of a linear head: the losses of rows, the best rows, and their gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import rho_ext
from rho_train.tokens import top_share

# Logits in memory at a time. Every block reads the weight twice and its gradient once, so that
# small ones are slow.
_CPU_BLOCK, _GPU_BLOCK, _CPU_ROWS = 88_000_000, 2**28, 1024


class Head:
    """The logits of rows of `hidden`, in one buffer, and sums of the gradients of their losses.

    `sums` are those of hidden, weight and bias, in float32; `wanted` says which are added to.
    """

    def __init__(
        self,
        inputs: tuple[Tensor, Tensor, Tensor | None],
        labels: Tensor,
        softcap: float | None,
        chunk: int | None,
        wanted: list[bool],
    ) -> None:
        hidden, weight, bias = inputs
        on_cpu = hidden.device.type == "cpu"
        # Few CPUs have fast products of halves.
        self.dtype = torch.float32 if on_cpu else hidden.dtype
        self.hidden, self.weight = hidden, weight.to(self.dtype)
        self.bias = None if bias is None else bias.to(self.dtype)
        self.labels, self.softcap, self.wanted = labels, softcap, wanted
        room = min(_CPU_BLOCK // len(weight), _CPU_ROWS) if on_cpu else _GPU_BLOCK // len(weight)
        self.rows = min(chunk or max(room, 16), max(len(hidden), 1))
        # On the CPU with room for rows that wait, which takes no memory where none do.
        kept = self.rows // 2 if on_cpu else 0
        self.buffer = hidden.new_empty(self.rows + kept, len(weight), dtype=self.dtype)
        self.sums = [
            tensor.new_zeros(tensor.shape if needed else 0, dtype=torch.float32)
            for tensor, needed in zip((hidden, weight, weight[:, 0]), wanted, strict=True)
        ]

    def logits(self, rows: Tensor, kept: int = 0) -> Tensor:
        """Return the logits of rows, in the buffer after `kept` others."""
        hidden = self.hidden[rows].to(self.dtype)
        out = self.buffer[kept : kept + len(rows)]
        if self.bias is None:
            torch.mm(hidden, self.weight.T, out=out)
        else:
            torch.addmm(self.bias, hidden, self.weight.T, out=out)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
        return out

    def move(self, places: Tensor) -> None:
        """Move the logits in these ascending places to the beginning of the buffer."""
        for to, place in enumerate(places.tolist()):
            if to != place:
                self.buffer[to] = self.buffer[place]

    def add(self, rows: Tensor, factor: Tensor | None = None) -> None:
        """Add the gradients of rows, times `factor`; the buffer begins with their logits."""
        logits = self.buffer[: len(rows)]
        slope = None if self.softcap is None else 1 - (logits / self.softcap).square()
        in_place = logits if self.dtype == torch.float32 else None
        error = torch.softmax(logits, 1, dtype=torch.float32, out=in_place)
        # Only labels of rows with factor 0, and wrong ones on CUDA, are outside.
        labels = self.labels[rows].clamp(0, len(self.weight) - 1)
        error[torch.arange(len(rows), device=rows.device), labels] -= 1
        if slope is not None:
            error.mul_(slope)
        if factor is not None:
            # Rows with factor 0 may hold NaN.
            error.mul_(factor[:, None]).masked_fill_(factor[:, None] == 0, 0.0)
        if self.wanted[2]:
            self.sums[2] += error.sum(0)
        error = error.to(self.dtype)
        if self.wanted[0]:
            self.sums[0].index_add_(0, rows, (error @ self.weight).float())
        if self.wanted[1]:
            hidden = self.hidden[rows].to(self.dtype)
            if factor is not None:
                hidden.masked_fill_(factor[:, None] == 0, 0.0)
            if self.dtype == torch.float32:
                self.sums[1].addmm_(error.T, hidden)
            else:
                self.sums[1] += error.T @ hidden


def _band(scores: Tensor, ratio: float, n: int) -> tuple[Tensor, Tensor]:
    """Return the least scores that are surely, and perhaps, in the best share of all n.

    Scores come in random order. The band is three standard deviations to each side.
    """
    seen = len(scores)
    middle = ratio * seen + 0.5
    margin = 3 * math.sqrt(ratio * (1 - ratio) * seen * (1 - seen / n))
    ranked = torch.cat((scores.new_full((1,), torch.inf), scores.sort(descending=True).values))
    return ranked[max(int(middle - margin), 0)], ranked[min(int(middle + margin) + 1, seen)]


def select_rows(
    head: Head, il: Tensor | None, ratio: float, ignore_index: int, may_wait: bool
) -> tuple[Tensor, Tensor]:
    """Return losses and the mask of the best share of them, and add its gradients to `head`.

    While the logits of a row are there its gradient costs two products, later a third one. So the
    logits of rows that may be selected wait in the buffer until this is sure; what is wrong in the
    end is corrected. If the host may not wait for scores, only a ratio of 1 is added at once.
    """
    labels, wanted = head.labels, any(head.wanted)
    n = len(labels)
    scores = torch.full((n,), -torch.inf, dtype=torch.float32, device=labels.device)
    losses, added = torch.zeros_like(scores), torch.zeros_like(scores, dtype=torch.bool)
    order = torch.arange(n, device=labels.device)
    if may_wait:
        order = (labels != ignore_index).nonzero()[:, 0]
        if ratio < 1:
            seed = torch.Generator(device="cpu").manual_seed(0)
            order = order[torch.randperm(len(order), generator=seed, device="cpu")]
    kept, at, size, due = order[:0], 0, head.rows, 0
    options: Any = {"method": "loss" if il is None else "rho", "ignore_index": ignore_index}

    def add(places: Tensor) -> None:
        """Add the rows that wait in these places of the buffer."""
        head.move(places)
        added[kept[places]] = True
        head.add(kept[places])

    while at < len(order):
        rows = order[at : at + size]
        own_il, logits = None if il is None else il[rows], head.logits(rows, len(kept))
        scores[rows], losses[rows] = rho_ext.score(logits, labels[rows], None, il=own_il, **options)
        at += len(rows)
        if wanted and ratio == 1:
            added[rows] = True
            head.add(rows, None if may_wait else (scores[rows] != -torch.inf).float())
        elif wanted and may_wait:
            kept = torch.cat((kept, rows))
            if at == len(order):
                break
            if at >= due:  # when an eighth more is known, so that sorting takes linear time
                sure, possible = _band(scores[order[:at]], ratio, len(order))
                due = at + at // 8
            own = scores[kept]
            wait = (own >= possible).nonzero()[:, 0]
            if 2 * len(wait) <= size:
                head.move(wait)
            else:
                wait = wait[own[wait] < sure]
                wait = wait[own[wait].sort(descending=True).indices[: size // 2]]
                saved = head.buffer[wait]
                add((own >= sure).nonzero()[:, 0])
                head.buffer[: len(wait)] = saved
            kept = kept[wait]
    mask, places = top_share(scores[None], ratio)
    mask = mask[0]
    if may_wait:
        add(mask[kept].nonzero()[:, 0])
        places = (mask != added).nonzero()[:, 0]
    if wanted and (len(places) if may_wait else ratio < 1):
        rows = places.clamp(min=0)
        factor = (2.0 * mask[rows].float() - 1.0).masked_fill(places < 0, 0.0)
        for part, by in zip(torch.split(rows, size), torch.split(factor, size), strict=True):
            head.logits(part)
            head.add(part, by)
    return losses, mask
