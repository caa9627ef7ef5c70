"""Selection without a scoring pass: visit what the model can learn and has not learnt yet."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from rho_train.batch import split, to
from rho_train.checks import check_counts, check_ids
from rho_train.dataset import SeededIndices
from rho_train.distributed import on_all, rank_and_world
from rho_train.margins import TABLES, Margins, check_rows, margins
from rho_train.rng import generator
from rho_train.scoring import ForwardFunction, check_module, device_of, output_of, scoring_mode

_WARMUP = 0.15  # share of the steps, rounded to whole passes, that visit every example
_SKIPPED = 0.5  # chance that an example above the mean margin is skipped in a pass
_RESCORED = 2  # passes after which the examples left out are scored again
_RESCORING = 4  # batches of training in a batch of a forward pass without gradients
_STATE = ("passes", "scored", "_updated", "_rescored")


class AgreementSampler(Sampler[list[int]]):
    """A batch sampler that leaves out examples that the model keeps contradicting.

    The margin of an example is its logit[label] - max(other logits) in the training pass, positive
    where the model agrees with the label; M is its running mean (M + margin) / 2, plus half of
    -log p - H: p is the share of the class, H the mean of -log p, so that rare classes, which look
    wrong to the model, stay. Each iteration is one pass. The first passes, 15 % of the steps, visit
    every example. Then examples with M <= -0.5 * mean(M where M > 0) are left out, unless they are
    less than a tenth of all: then this is uniform sampling, as on data with right labels. Every
    second pass `rescore` replaces their margins, and they may come back. Of the others, those
    with a margin above the mean are skipped in half of the passes: the model has learnt them.

    A pass is drawn when its iteration begins, so workers may load ahead. An iteration that was left
    early goes on with the examples without an `update`, also after `load_state_dict`. Batches are
    full; up to a batch of each pass is dropped at random. Passes differ in length, so a loader has
    no `len`: `steps` says how long the training is.

    Under torch.distributed each rank takes its part of every batch and learns from the margins of
    all: the ids are those of one process. An example takes 8 bytes on the device of the logits, 12
    on the CPU and, with ids of your own, 8 more. `update` never waits for a GPU.

    Args:
        ids_or_n: the number of examples n, fewer than 2^31, with the ids 0 to n - 1; or the ids of
            those to draw from, int64 (n,); tables have as many rows as the highest id.
        batch_size: examples of a batch, of all ranks together.
        steps: batches of the whole training; the last pass stops there. The learning rate should
            decay over all of them. Give at least 6 passes, 6 * n / batch_size.
        seed: of the order and the skips; the global generators are never touched.
        parts: into which each rank's share of a batch is cut, for gradient accumulation.
        rescoring_cost: of an example, in parts of what training on it costs. The steps become fewer
            by it, so that uniform steps would cost as much; about 1 / 3. 0: it takes no steps.

    Raises:
        TypeError: an argument is no int.
        ValueError: batch_size is larger than n, or no multiple of ranks times parts; or
            rescoring_cost is negative or not finite.
        IndexError: an id is negative, or 2^31 or more.
        RuntimeError: when iterated, `rescore` was left out, or `update` in two passes.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> from rho_train import IndexedDataset, loader
        >>> data = IndexedDataset(TensorDataset(torch.randn(64, 3), torch.arange(64) % 2))
        >>> model = nn.Linear(3, 2)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        >>> sampler = AgreementSampler(len(data), 8, steps=80)
        >>> batches = loader(data, sampler)
        >>> while sampler.step < sampler.steps:
        ...     scored = sampler.rescore(model, batches)
        ...     for batch in batches:
        ...         logits = model(batch.x)
        ...         nn.functional.cross_entropy(logits, batch.y, label_smoothing=0.3).backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...         sampler.update(batch.ids, logits, batch.y)
        >>> sampler.step
        80
    """

    def __init__(
        self,
        ids_or_n: int | Tensor,
        batch_size: int,
        *,
        steps: int,
        seed: int = 0,
        parts: int = 1,
        rescoring_cost: float = 0.0,
    ) -> None:
        self._ids: Tensor | None = None
        if isinstance(ids_or_n, int):
            size = self.n = ids_or_n
        else:
            some = isinstance(ids_or_n, Tensor) and ids_or_n.numel() > 0
            size = min(1 + int(ids_or_n.max()), 2**31) if some else 0
            check_ids("AgreementSampler", "ids_or_n", ids_or_n, size)
            # A copy, so that the stream does not change when the caller's tensor does.
            self._ids, self.n = ids_or_n.to("cpu", copy=True), len(ids_or_n)
        self.batch_size, self.seed, self.parts = batch_size, seed, parts
        self._steps, self._rescoring_cost, self.world = steps, rescoring_cost, 1
        self.scored = 0
        """Examples that this rank has scored again."""
        if not 0.0 <= rescoring_cost < math.inf:
            got = f"got {rescoring_cost}; take about 1 / 3"
            raise ValueError(f"AgreementSampler: rescoring_cost must be finite, at least 0, {got}")
        check_counts(self, "n", "batch_size", "steps", "parts")
        if batch_size > self.n:
            got = f"{batch_size} for {self.n} examples"
            raise ValueError(f"AgreementSampler: batch_size must be at most n, got {got}")
        self._settings = {
            name: getattr(self, name) for name in ("n", "batch_size", "seed", "parts")
        }
        self._settings |= {"steps": steps, "rescoring_cost": rescoring_cost}
        self._join()
        self.passes = self._updated = self._rescored = self._unanswered = 0
        self._warmup = max(1, round(_WARMUP * steps * batch_size / self.n))
        self._margins = Margins(size)
        self._scoring: Tensor | None = None

    def _join(self) -> None:
        """Take this rank's part of each batch; frameworks start their ranks late."""
        self.rank, self.world = rank_and_world()
        if self.batch_size % (self.world * self.parts):
            wanted = f"a multiple of {self.world} ranks times {self.parts} parts"
            got = f"got {self.batch_size}; it is of all of them together"
            raise ValueError(f"AgreementSampler: batch_size must be {wanted}, {got}")
        self._share = self.batch_size // self.world
        ids = 0 if self._ids is None else zlib.crc32(self._ids.numpy().data)
        self._settings |= {"rank": self.rank, "world": self.world, "ids": ids}

    @property
    def steps(self) -> int:
        """Batches of the whole training, fewer by what `rescore` has cost."""
        spent = self.scored * self.world * self._rescoring_cost / self.batch_size
        return self._steps - math.ceil(spent)

    @property
    def step(self) -> int:
        """Batches that `update` has seen."""
        return self._updated // self._share

    def metrics(self) -> dict[str, float]:
        """Return numbers for any logger, as `Selector.metrics`; what the next pass leaves out."""
        out = int(self._margins.left_out().sum()) / self.n
        found = {"passes": self.passes, "scored": self.scored, "left_out": out}
        return {f"selection/{name}": float(value) for name, value in found.items()}

    def __iter__(self) -> Iterator[list[int]]:
        if self.passes == 0:
            self._join()
        part = self._share // self.parts
        if self._scoring is not None:
            return self._batches(self._scoring, _RESCORING * part, "rescoring", self.passes)
        left = max(self.steps - self.step, 0)
        if left > 0 and self._unanswered > 1:
            fix = "call sampler.update(batch.ids, logits, labels) for every batch"
            raise RuntimeError(f"AgreementSampler: two passes ended without an update; {fix}")
        if left > 0 and self._margins.missing <= 0:
            self._draw()
        plan = self._margins.settle()[: left * self._share]
        return self._batches(plan, part, "transforms", self._updated // part)

    def _batches(self, ids: Tensor, size: int, stream: str, first: int) -> Iterator[list[int]]:
        for number, part in enumerate(torch.split(ids, size), first):
            seed = generator(self.seed, "agreement", stream, number, self.rank).initial_seed()
            yield SeededIndices(part.tolist(), seed)
        self._unanswered += self._scoring is None

    def update(self, ids: Tensor, outputs: Tensor, labels: Tensor | None = None) -> None:
        """Learn from the training pass on a batch, or on a part of it.

        Args:
            ids: int64 or int32 (m,), each drawn in this pass, in any order.
            outputs: logits, floating point (m, C), from before or after the step. Without `labels`,
                for examples that have no class: a number (m,) for each that is positive where a
                visit is worth it: `chance - losses`, the loss of a model that knows nothing minus
                that of the example, or `losses - il`, far weaker signs of a wrong label than the
                margin. NaN: nothing is known, and the example stays.
            labels: int64 or int32 (m,) in [0, C). Examples with -100 have no margin, and stay; on
                CUDA those with any other label too.

        Raises:
            TypeError, ValueError: the dtypes or shapes are others.
            IndexError: a label is out of range; after up to 32 batches, never on CUDA.
            ValueError: an id was not drawn in this pass, or was updated before; when the next pass
                begins, or the state is taken.
        """
        check_rows("AgreementSampler.update", ids, outputs, labels)
        self._margins.hold(ids, outputs, labels)
        self._updated += len(ids)
        self._unanswered = 0

    def rescore(
        self, model: nn.Module, batches: DataLoader[Any], *, forward: ForwardFunction | None = None
    ) -> int:
        """Score the examples left out, forward only; return their number, 0 when it is not due.

        Call it before every pass, on all ranks. The model is in eval mode.

        Args:
            model: its first parameter says on which device.
            batches: the DataLoader of this sampler, which loads the examples left out.
            forward: called as `forward(model, batch)`, returns the `outputs` of `update`; None: the
                model is called on the inputs of the batch.

        Raises:
            ValueError: the loader loads other examples.
        """
        check_module("AgreementSampler.rescore", model)
        if not self._due():
            return 0
        self._margins.absorb(self.world)
        out, margin = self._margins.left_out().nonzero().flatten(), self._margins.running
        if len(out):
            for ids, values in on_all(lambda: self._scored(out, model, batches, forward)):
                margin[ids] = torch.where(values.isinf(), margin[ids], values)
            self.scored += -(-len(out) // self.world)
        self._rescored = self.passes
        return len(out)

    def _scored(
        self, out: Tensor, model: nn.Module, batches: Any, forward: ForwardFunction | None
    ) -> tuple[Tensor, Tensor]:
        """Return this rank's share of the examples left out, and their fresh margins."""
        where, device, scored = "AgreementSampler.rescore", device_of(model), []
        # As many on every rank, because sharded models need the same passes.
        end = -(-len(out) // self.world) * self.world
        rows = torch.arange(self.rank, end, self.world, dtype=torch.int64, device="cpu")
        self._scoring = share = out[rows % len(out)]
        try:
            for batch in batches:
                batch = to(batch, device)
                fields = split(batch, where)
                with scoring_mode(model) as scorer:
                    outputs = output_of(where, scorer, batch, fields, forward, None)
                    labels = fields.labels if outputs.ndim == 2 else None
                    check_rows(where, fields.ids, outputs, labels)
                    scored.append((fields.ids, margins(where, fields.ids, outputs, labels)[:, 0]))
        finally:
            self._scoring = None
        ids, values = (torch.cat(part).cpu() for part in zip(*scored, strict=True))
        if not ids.sort().values.equal(share.sort().values):
            got = f"loaded {len(ids)}, also others; pass the DataLoader with batch_sampler=sampler"
            raise ValueError(f"{where}: batches must load the {len(share)} left out, and {got}")
        return ids, values

    def state_dict(self) -> dict[str, Any]:
        """Return what this rank has learnt and the pass that it is in; each rank keeps its own."""
        state = {name: getattr(self, name) for name in _STATE}
        return {**self._settings, **state, **self._margins.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler of `state_dict`; ValueError if it had other settings or ranks."""
        self._join()
        where = "AgreementSampler: the state has"
        if missing := sorted({*self._settings, *_STATE, *TABLES} - set(state)):
            fix = "it is of another version, so begin the run anew"
            raise ValueError(f"{where} no {', '.join(missing)}; {fix}")
        for name, own in self._settings.items():
            if state[name] != own:
                fix = "make it with the settings of the run that it continues"
                raise ValueError(f"{where} {name} = {state[name]}, this sampler {own}; {fix}")
        for name in _STATE:
            setattr(self, name, state[name])
        self._margins.load(state)
        self._unanswered = 0

    def _due(self) -> bool:
        """Return whether the pass that comes needs `rescore` first."""
        chosen = self.passes - self._warmup
        over = chosen > 0 and chosen % _RESCORED == 0 and self._rescored != self.passes
        return over and self.step < self.steps and self._margins.missing <= 0

    def _draw(self) -> None:
        """Draw the next pass."""
        if self._due():
            fix = "call sampler.rescore(model, batches) before every pass"
            raise RuntimeError(f"AgreementSampler: examples left out must be scored again; {fix}")
        self._margins.absorb(self.world)
        private = generator(self.seed, "agreement", self.passes)
        margin, out, visits = self._margins.running, self._margins.left_out(), self.n
        if self._ids is not None:
            margin, out = margin[self._ids], out[self._ids]
        order = torch.randperm(self.n, generator=private, dtype=torch.int32, device="cpu")
        if self.passes >= self._warmup and out.any():
            chance = torch.rand(self.n, generator=private, dtype=torch.float32, device="cpu")
            learnt = margin > margin[~out].double().nanmean()
            # 0: visited, 1: skipped, 2: left out; these only fill a pass of less than a batch.
            level = torch.where(out, 2, learnt & (chance < _SKIPPED)).to(torch.int8)[order]
            first, *others = (order[level == one] for one in range(3))
            order, visits = torch.cat([first, *others]), len(first)
        order = order[: max(visits // self.batch_size, 1) * self.batch_size]
        order = order if self._ids is None else self._ids[order]
        self._margins.expect(order, self.rank, self.world, self._share)
        self.passes += 1
