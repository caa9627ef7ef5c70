"""Compare a model with the labels: margins by example, and those that it contradicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rho_train.batch import describe
from rho_train.checks import check_labels
from rho_train.distributed import on_all

_BOUND = 0.5  # of the mean positive margin: examples below minus this are contradicted
_FEW = 0.1  # share of contradicted examples below which none is left out
_RARE = 0.5  # of how surprising the class of an example is, added to its margin
_HELD, _HELD_NUMBERS = 32, 1 << 20  # batches, and numbers, that are read at once
_PENDING, UNKNOWN = -math.inf, math.inf
TABLES = ("running", "labels", "news")


class Margins:
    """The running margin of each of `size` examples, and the news of the pass that is made.

    `running` and `labels` are on the CPU, NaN and -1 where nothing is known. `news` has both for
    this pass, (size, 2) on the device of the logits: _PENDING for examples without an update,
    UNKNOWN for those that were not drawn. `strays` counts updates that had no place.
    """

    def __init__(self, size: int) -> None:
        self.running = torch.full((size,), torch.nan, dtype=torch.float32, device="cpu")
        self.labels = torch.full((size,), -1, dtype=torch.int32, device="cpu")
        self.news = self._nothing()
        self.strays = torch.zeros((), dtype=torch.int64, device="cpu")
        self._held: list[tuple[Tensor, ...]] = []

    def state(self) -> dict[str, Tensor]:
        """Return copies on the CPU."""
        return {name: getattr(self, name).to("cpu", copy=True) for name in TABLES}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take copies of what `state` returned, and forget all else."""
        for name in TABLES:
            setattr(self, name, state[name].to("cpu", copy=True))
        self.strays.zero_()
        self._held.clear()

    def _nothing(self) -> Tensor:
        nothing = torch.tensor([UNKNOWN, -1], dtype=torch.float32, device="cpu")
        return nothing.repeat(len(self.running), 1)

    def expect(self, ids: Tensor) -> None:
        """Begin a pass over these examples."""
        self.news[ids.to(self.news.device), 0] = _PENDING

    def awaited(self, ids: Tensor) -> Tensor:
        """Return which of the ids had no update yet."""
        self.settle()
        return (self.news[ids.to(self.news.device), 0] == _PENDING).cpu()

    def hold(self, ids: Tensor, outputs: Tensor, labels: Tensor | None) -> None:
        """Take the outputs on a batch; several are cheaper to read at once."""
        parts = (ids, outputs) if labels is None else (ids, outputs, labels)
        if self._held and [t.shape[1:] for t in self._held[0]] != [t.shape[1:] for t in parts]:
            self.learn()
        with torch.no_grad():  # copies, because the caller may change them
            self._held.append(tuple(part.clone() for part in parts))
        if len(self._held) == _HELD or len(self._held) * outputs.numel() > _HELD_NUMBERS:
            self.learn()

    def learn(self) -> None:
        """Enter the margins of the batches that are held; nothing waits for CUDA."""
        if not self._held:
            return
        ids, *rest = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        self._held.clear()
        values = margins("AgreementSampler.update", ids, *rest)
        if self.news.device != values.device:
            self.news, self.strays = self.news.to(values.device), self.strays.to(values.device)
        news, ids = self.news, ids.to(values.device, torch.int64, non_blocking=True)
        inside = ids.clamp(0, len(news) - 1)
        before = news.index_select(0, inside)
        pending = (inside == ids) & (before.select(1, 0) == _PENDING)
        self.strays += len(ids) - pending.sum() + ids.sort().values.diff().eq(0).sum()
        news.index_copy_(0, inside, torch.where(pending.unsqueeze(1), values, before))
        if not news.is_cuda:
            self.settle()

    def settle(self) -> None:
        """Enter all margins and refuse ids that had no place; waits for CUDA."""
        self.learn()
        if strays := int(self.strays):
            raise ValueError(
                f"AgreementSampler.update: {strays} ids were not drawn in this pass, or were "
                "updated before; pass each batch of this sampler once, with the ids (in "
                f"[0, {len(self.running)})) that it was loaded with"
            )

    def absorb(self, world: int) -> None:
        """Enter the news of the pass that ended, those of all ranks, into the running margins."""
        on_all(self.settle)
        news = self.news
        if world > 1:  # where a rank has no margin it holds _PENDING, the lowest
            news = news.cuda() if dist.get_backend() == "nccl" else news
            dist.all_reduce(news, op=dist.ReduceOp.MAX)
        margin, (new, labels) = self.running, news.cpu().unbind(1)
        mean = torch.where(margin.isnan(), new, (margin + new) / 2)
        self.running = torch.where(new.isinf(), margin, mean)
        self.labels = torch.where(labels < 0, self.labels, labels.int())
        self.news = self._nothing()

    def contradicted(self) -> Tensor:
        """Return which examples the model keeps contradicting, bool (size,)."""
        margin, known = self.running, self.labels >= 0
        if known.any():
            p = self.labels[known].bincount().double()
            p /= p.sum()
            surprise = -p.log() - torch.special.entr(p).sum()  # mean 0
            margin = margin + torch.where(known, _RARE * surprise[self.labels], 0.0).float()
        # All bad: the bound is NaN, and none is contradicted.
        return margin <= -_BOUND * margin[margin > 0].double().mean()

    def left_out(self) -> Tensor:
        """Return which examples are left out: those contradicted, unless they are few."""
        found = self.contradicted()
        return found & (found.sum() >= _FEW * (~self.running.isnan()).sum())


def check_rows(where: str, ids: Tensor, outputs: Tensor, labels: Tensor | None) -> None:
    """Refuse what has not one row an example, or another type."""
    if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{where}: ids must be an int64 tensor (m,), got {describe(ids)}")
    wanted = "a number for each example, (m,)" if labels is None else "logits (m, C)"
    shape = outputs.shape if isinstance(outputs, Tensor) else ()
    if len(shape) != 1 + (labels is not None) or not outputs.is_floating_point():
        fix = "pass labels too" if labels is None else "C classes in the last dimension"
        raise TypeError(
            f"{where}: outputs must be {wanted}, floating point, got {describe(outputs)}; {fix}"
        )
    if labels is not None and getattr(labels, "dtype", None) not in (torch.int64, torch.int32):
        raise TypeError(f"{where}: labels must be int64 or int32 (m,), got {describe(labels)}")
    if shape[:1] != ids.shape or (labels is not None and labels.shape != ids.shape):
        raise ValueError(
            f"{where}: ids, outputs and labels must have one row an example, got {len(ids)} ids, "
            f"outputs {tuple(shape)}" + ("" if labels is None else f", {describe(labels)} labels")
        )


def margins(where: str, ids: Tensor, outputs: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return logits[label] - max(other logits) beside the label, float32 (m, 2).

    Without labels `outputs` beside -1. NaN, and examples with the label -100, become UNKNOWN.
    """
    values = outputs.float()
    if labels is None:
        return torch.stack([values, -torch.ones_like(values)], 1).nan_to_num(UNKNOWN, UNKNOWN)
    labels, classes = labels.to(values.device, torch.int64, non_blocking=True), values.shape[1]
    known = (labels >= 0) & (labels < classes)
    if not labels.is_cuda and bool((labels[~known] != -100).any()):
        check_labels(where, labels, ids, classes)  # names the first
    column = labels.clamp(0, classes - 1).unsqueeze(1)
    own, others = values.gather(1, column), values.scatter(1, column, -math.inf)
    values = torch.where(known, own.squeeze(1) - others.amax(1), math.nan)
    found = torch.stack([values, torch.where(known, labels, -1).float()], 1)
    return found.nan_to_num(UNKNOWN, posinf=UNKNOWN)
