"""Train small models side by side, a lane for each seed, fold or learning rate, in one process."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import rho_ext
from experiments.robust import EarlyLearning, infobatch
from rho_train import AgreementSampler, IndexedDataset, gce_losses, loader
from rho_train.tasks import mlp

BATCH, LARGE_BATCH = 64, 192
HIDDEN = (128, 128)
AGREEMENT = ("agreement", "by loss", "by excess loss")  # ways to visit


class Lanes:
    """Copies of MLPs of one shape, each with its own order and rate; torch's AdamW trains them.

    `models` are ordinary modules over the same storage. A lane learns what it would alone, up to
    the rounding of a batched matrix product.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = [copy.deepcopy(model) for model in models]
        rows = torch.stack([nn.utils.parameters_to_vector(m.parameters()) for m in self.models])
        rows, grads = rows.detach(), torch.zeros_like(rows)
        self._weights: list[Tensor] = []
        self._grads: list[Tensor] = []
        begin = 0
        for parts in zip(*(model.parameters() for model in self.models), strict=True):
            columns, shape = slice(begin, begin + parts[0].numel()), (len(rows), *parts[0].shape)
            weight = rows[:, columns].view(shape).requires_grad_()
            self._grads.append(grads[:, columns].view(shape))
            for part, lane in zip(parts, weight.detach(), strict=True):
                part.data = lane
            self._weights.append(weight)
            begin = columns.stop
        self._rows = [row.requires_grad_() for row in rows.unbind()]
        for row, grad in zip(self._rows, grads, strict=True):
            row.grad = grad
        self.restart()

    def restart(self) -> None:
        """Forget the moments of AdamW, as a new optimizer."""
        self._optimizer = torch.optim.AdamW([{"params": [row]} for row in self._rows], fused=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (lanes, m, C) of x (lanes, m, d)."""
        layers = list(zip(self._weights[::2], self._weights[1::2], strict=True))
        for weight, bias in layers[:-1]:
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT).relu_()
        weight, bias = layers[-1]
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)

    def step(self, losses: Tensor, rates: Sequence[float]) -> None:
        """Train on the sum of the lanes' losses, each at its own rate; 0 changes nothing."""
        for own, new in zip(self._grads, torch.autograd.grad(losses, self._weights), strict=True):
            own.copy_(new)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._optimizer.step()


class Data(NamedTuple):
    """Inputs x (n, d) of all lanes; labels y, and which are wrong, by lane (lanes, n).

    `unit` is the number of examples in a pass of the budget, n but where duplicates were removed.
    """

    x: Tensor
    y: Tensor
    wrong: Tensor
    validation_x: Tensor
    validation_y: Tensor
    test_x: Tensor
    test_y: Tensor
    unit: int

    def of(self, lanes: Tensor) -> Data:
        """Return the data of these lanes, which may repeat."""
        y, validation_y = self.y[lanes], self.validation_y[lanes]
        return self._replace(y=y, wrong=self.wrong[lanes], validation_y=validation_y)


@dataclass(frozen=True)
class Method:
    """A way to train.

    Args:
        name: in rows.
        loss: ce, gce, elr or infobatch.
        smoothing: of labels, for ce.
        visits: all examples, those with the lowest IL (`filter`), the true labels alone (`true`),
            or those of the AgreementSampler by logits (`agreement`), by how far losses are below
            IL, without IL below chance (`by loss`), or by how far above IL (`by excess loss`).
        select: rho or loss: score a large batch, and train on the top third.
        il: `included`: 30 % of the budget trains cross-fit IL models; `free`: they are there.
    """

    name: str
    loss: str = "ce"
    smoothing: float = 0.0
    visits: str = "all"
    select: str = ""
    il: str = ""


@dataclass
class Result:
    """The models, the cost of each, and the share of wrong labels in the last quarter."""

    lanes: Lanes
    cost: list[int]
    wrong: list[float]


def train(
    method: Method,
    data: Data,
    seeds: Sequence[int],
    rates: Sequence[float],
    budget: float,
    *,
    shares: Sequence[float] = (),
    il: Tensor | None = None,
    pools: Sequence[Tensor] | None = None,
    hidden: Sequence[int] = HIDDEN,
) -> Result:
    """Train a lane for each seed and rate, decayed over the budget; a forward pass costs 1.

    Args:
        method: see `Method`.
        data: of as many lanes.
        seeds, rates: of the lanes.
        budget: cost of a lane; a training visit costs 3, a forward pass alone 1.
        shares: of a filter: what it keeps, by lane.
        il: irreducible losses (lanes, n) of the methods that need them.
        pools: ids that each lane visits, in place of those of the method.
        hidden: widths of the hidden layers.
    """
    count, n = data.y.shape
    lane = torch.arange(count).unsqueeze(1)
    classes = int(data.test_y.max()) + 1
    lanes = Lanes([mlp(data.x.shape[1], hidden, classes, seed=seed) for seed in seeds])
    cost, late, wrong = [0] * count, torch.zeros(count), torch.zeros(count)
    last, weights = torch.full((count, n), math.inf), torch.ones(count, n)
    elr = EarlyLearning(count * n, classes) if method.loss == "elr" else None
    size = LARGE_BATCH if method.select else BATCH
    per_step = 3 * BATCH + (LARGE_BATCH if method.select else 0)
    samplers = [
        AgreementSampler(n, BATCH, steps=int(budget / (3 * BATCH)), seed=seed) for seed in seeds
    ]

    def signs(k: int, ids: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return what the sampler of a lane learns from."""
        if method.visits == "agreement":
            return logits, labels
        known = math.log(classes) if il is None else il[k, ids]
        below = known - F.cross_entropy(logits, labels, reduction="none")
        return (-below if method.visits == "by excess loss" else below,)

    def stream(k: int) -> Iterator[Tensor]:
        draw = torch.Generator().manual_seed(seeds[k])
        if method.visits in AGREEMENT:
            batches = loader(IndexedDataset(TensorDataset(data.x, data.y[k])), samplers[k])
            by_loss: Any = lambda model, of: signs(k, of.ids, model(of.x), of.y)[0]  # noqa: E731
            forward = None if method.visits == "agreement" else by_loss
            while samplers[k].step < samplers[k].steps:
                cost[k] += samplers[k].rescore(lanes.models[k], batches, forward=forward)
                yield from (torch.tensor(ids) for ids in samplers[k])
            return
        pool = torch.arange(n) if pools is None else pools[k]
        if method.visits == "filter":
            assert il is not None
            pool = il[k].argsort()[: round(shares[k] * n)]
        elif method.visits == "true":
            pool = (~data.wrong[k]).nonzero().flatten()
        while True:
            if method.loss == "infobatch":
                order, weights[k] = infobatch(last[k], cost[k] / budget, draw)
            else:
                order = pool[torch.randperm(len(pool), generator=draw)]
            yield from order[: len(order) // size * size].split(size)

    streams, idle = [stream(k) for k in range(count)], torch.arange(size)
    over: set[int] = set()
    while True:
        batches = []
        for k in range(count):
            ids = None if k in over else next(streams[k], None)
            if ids is None or cost[k] + per_step > budget:
                over.add(k)
            batches.append(idle if ids is None else ids)
        if len(over) == count:
            break
        ids = torch.stack(batches)
        if method.select:
            with torch.no_grad():
                logits = lanes(data.x[ids])
            labels = data.y.gather(1, ids)
            known = [None] * count if il is None else il.gather(1, ids)
            rows = [
                rho_ext.select(logits[k], labels[k], None, BATCH, il=known[k], method=method.select)
                for k in range(count)
            ]
            ids = ids.gather(1, torch.stack([row[1] for row in rows]))
        labels = data.y.gather(1, ids)
        logits = lanes(data.x[ids])
        flat, y = logits.flatten(0, 1), labels.flatten()
        if elr is not None:
            losses = elr.losses(flat, y, (ids + n * lane).flatten())
        elif method.loss == "gce":
            losses = gce_losses(flat, y)
        else:
            losses = F.cross_entropy(flat, y, reduction="none", label_smoothing=method.smoothing)
        if method.loss == "infobatch":
            last[lane, ids] = losses.detach().view(ids.shape)
            losses = losses * weights[lane, ids].flatten()
        decayed = [
            0.0 if k in over else rate * 0.5 * (1 + math.cos(math.pi * cost[k] / budget))
            for k, rate in enumerate(rates)
        ]
        lanes.step(losses.sum() / BATCH, decayed)
        if max(cost) > 0.75 * budget:
            now = torch.tensor([float(rate > 0) for rate in decayed])
            wrong += now * data.wrong.gather(1, ids).float().mean(1)
            late += now
        for k in range(count):
            if k not in over:
                cost[k] += per_step
                if method.visits in AGREEMENT:
                    samplers[k].update(ids[k], *signs(k, ids[k], logits[k], labels[k]))
    return Result(lanes, cost, (wrong / late.clamp(min=1)).tolist())


def crossfit(
    data: Data,
    seeds: Sequence[int],
    rates: Sequence[float],
    epochs: float,
    hidden: Sequence[int] = HIDDEN,
) -> tuple[Tensor, float]:
    """Return the IL (lanes, n) of two models a lane, each trained on a half, and its cost.

    The cost is 3 n for an epoch of both, and n for the losses, in forward passes of these models.
    """
    count, n = data.y.shape
    halves, both = [], torch.arange(count).repeat(2)
    for seed in seeds:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 7919))
        halves.append(order.split((n + 1) // 2))
    pools = [half[k] for k in (0, 1) for half in halves]
    twice = data.of(both)
    double_seeds = [seed + k * 104729 for k in (0, 1) for seed in seeds]
    both_rates, budget = [*rates, *rates], 1.5 * n * epochs
    found = train(Method("il"), twice, double_seeds, both_rates, budget, pools=pools, hidden=hidden)
    losses = losses_of(found.lanes, twice)
    il = losses[:count]
    for k, (first, _) in enumerate(halves):  # the model of the first half scores the second
        il[k, first] = losses[count + k, first]
    return il, 3.0 * n * epochs + n


def losses_of(lanes: Lanes, data: Data) -> Tensor:
    """Return the cross-entropies (lanes, n) of all examples."""
    logits = logits_of(lanes, data.x)
    losses = F.cross_entropy(logits.flatten(0, 1), data.y.flatten(), reduction="none")
    return losses.view(data.y.shape)


def logits_of(lanes: Lanes, x: Tensor) -> Tensor:
    """Return the logits (lanes, m, C) of the same x (m, d) in all lanes."""
    with torch.no_grad():
        parts = [lanes(part.expand(len(lanes.models), -1, -1)) for part in x.split(2000)]
    return torch.cat(parts, 1)
