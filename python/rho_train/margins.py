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
TABLES = ("running", "labels", "news", "plan")


class Margins:
    """The running margin of each of `size` examples, and the news of the pass that is made.

    `running` and `labels` are on the CPU, NaN and -1 where nothing is known. `news` has both for
    this pass, (size, 2) on the device of the logits: _PENDING for examples without an update,
    UNKNOWN for those that were not drawn. `plan`: those that this rank draws, `missing` of them
    without an update.
    """

    def __init__(self, size: int) -> None:
        self.running = torch.full((size,), torch.nan, dtype=torch.float32, device="cpu")
        self.labels = torch.full((size,), -1, dtype=torch.int32, device="cpu")
        self._kind: list[Any] = []
        self._copies: list[Tensor] = []  # of the batches that are held
        self._places: list[tuple[Tensor, ...]] = []  # of each batch in them
        self._held = 0
        self.expect(torch.empty(0, dtype=torch.int64, device="cpu"))

    def state(self) -> dict[str, Tensor]:
        """Return copies on the CPU."""
        self.settle()
        return {name: getattr(self, name).to("cpu", copy=True) for name in TABLES}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take copies of what `state` returned, and forget all else."""
        for name in TABLES:
            setattr(self, name, state[name].to("cpu", copy=True))
        self._held = 0
        self.missing = len(self._pending())

    def expect(self, drawn: Tensor, rank: int = 0, world: int = 1, share: int = 1) -> None:
        """Begin a pass over these examples, of which each rank draws its share of every batch."""
        nothing = torch.tensor([UNKNOWN, -1], dtype=torch.float32, device="cpu")
        self.news = nothing.repeat(len(self.running), 1)
        self.news[drawn, 0] = _PENDING
        self.plan = drawn.view(-1, world, share)[:, rank].flatten()
        self.missing = len(self.plan)

    def hold(self, ids: Tensor, outputs: Tensor, labels: Tensor | None) -> None:
        """Copy the outputs on a batch; several are cheaper to read at once."""
        parts = [ids, outputs.detach()] if labels is None else [ids, outputs.detach(), labels]
        kind = [(part.shape, part.device) for part in parts]
        if kind != self._kind:
            self.learn()
            size = max(1, min(_HELD, _HELD_NUMBERS // max(outputs.numel(), 1)))
            dtypes = (torch.int64, torch.float32, torch.int64)
            self._copies = [
                torch.empty(size, *shape, dtype=dtype, device=device)
                for (shape, device), dtype in zip(kind, dtypes, strict=False)
            ]
            places = (copies.unbind() for copies in self._copies)
            self._kind, self._places = kind, [*zip(*places, strict=True)]
        for place, part in zip(self._places[self._held], parts, strict=True):
            place.copy_(part)
        self._held, self.missing = self._held + 1, self.missing - len(ids)
        if self._held == len(self._places):
            self.learn()

    def learn(self) -> None:
        """Enter the margins of the batches that are held; nothing waits for CUDA."""
        held, self._held = self._held, 0
        if not held:
            return
        ids, *rest = (copies[:held].flatten(0, 1) for copies in self._copies)
        values = margins("AgreementSampler.update", ids, *rest)
        self.news = news = self.news.to(values.device, non_blocking=True)
        ids = ids.to(values.device, non_blocking=True)
        inside = ids.clamp(0, len(news) - 1)
        known = (inside == ids).unsqueeze(1)
        news.index_copy_(0, inside, torch.where(known, values, news.index_select(0, inside)))

    def _pending(self) -> Tensor:
        """Return the examples of the plan without an update, in order; waits for CUDA."""
        return self.plan[(self.news[self.plan.to(self.news.device), 0] == _PENDING).cpu()]

    def settle(self) -> Tensor:
        """Enter all margins, refuse ids that had no place, and return those without an update."""
        self.learn()
        pending = self._pending()
        if strays := len(pending) - self.missing:
            raise ValueError(
                f"AgreementSampler.update: {strays} ids were not drawn in this pass, or were "
                "updated before; pass each batch of this sampler once, with the ids (in "
                f"[0, {len(self.running)})) that it was loaded with"
            )
        return pending

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
        self.expect(self.plan[:0])

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
    integers = (torch.int64, torch.int32)
    for name, part in (("ids", ids), ("labels", ids if labels is None else labels)):
        if not isinstance(part, Tensor) or part.ndim != 1 or part.dtype not in integers:
            raise TypeError(f"{where}: {name} must be an int64 tensor (m,), got {describe(part)}")
    shape = outputs.shape if isinstance(outputs, Tensor) else ()
    if len(shape) != 1 + (labels is not None) or not outputs.is_floating_point():
        wanted = "a number an example, (m,); pass labels too" if labels is None else "logits (m, C)"
        raise TypeError(
            f"{where}: outputs must be floating point, {wanted}; got {describe(outputs)}"
        )
    if shape[:1] != ids.shape or (labels is not None and labels.shape != ids.shape):
        raise ValueError(
            f"{where}: ids, outputs and labels must have one row an example, got {len(ids)} ids, "
            f"outputs {tuple(shape)}" + ("" if labels is None else f" and {len(labels)} labels")
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
    if not labels.is_cuda and not known.all() and (labels[~known] != -100).any():
        check_labels(where, labels, ids, classes)  # names the first
    column = labels.clamp(0, classes - 1).unsqueeze(1)
    own, others = values.gather(1, column), values.scatter(1, column, -math.inf)
    values = torch.where(known, own.squeeze(1) - others.amax(1), math.nan)
    found = torch.stack([values, torch.where(known, labels, -1).float()], 1)
    return found.nan_to_num(UNKNOWN, posinf=UNKNOWN)
