"""The Selector: three changed lines turn a training loop into RHO-LOSS."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.checks import check_rows
from rho_train.data.batch import Fields, gather, split
from rho_train.ranks import rank_and_world
from rho_train.scoring import ForwardFunction, LossFunction, dropout_layers, scoring
from rho_train.selection import registry
from rho_train.selection.candidates import Candidates, Chosen, LastSelection, Method
from rho_train.selection.checks import (
    check_batch,
    check_losses,
    check_options,
    check_refresh,
    check_size,
    check_smoothing,
)
from rho_train.selection.history import History
from rho_train.selection.identity import identity_of
from rho_train.selection.irreducible import ILSource, Irreducible
from rho_train.selection.methods import uniform
from rho_train.selection.online import OnlineModel
from rho_train.selection.ranks import Scope, check_scope, keep, place
from rho_train.selection.schedules import Schedule, UniformPhases, value_at
from rho_train.selection.scorer import Parts, Scorer, Scoring
from rho_train.selection.usable import Usable, cut

T = TypeVar("T")

_SETTINGS = (
    *("method", "il", "ratio", "k", "scoring", "ignore_index", "label_smoothing"),
    *("losses", "scorer", "phases", "seed", "scope"),
)
_COUNTERS = ("steps", "scored", "selected", "invalid", "seconds", "score_seconds")


@dataclass
class Selector:
    """Keep the points of a large batch that are worth a training step.

    Scores every point by training loss minus irreducible loss (Mindermann et al., ICML 2022,
    Algorithm 1, line 7) and returns the best ones as a batch of the same structure. Scoring
    leaves the model, its BatchNorm statistics and the random state as they were.

    Args:
        il: irreducible losses by id: an ILStore, ILShards (read for every large batch) or a tensor
            (N,), or the model that they come from, an OnlineModel; only methods with IL in their
            formula need it.
        ratio: share of the large batch that is kept, in (0, 1], or a schedule of it;
            k = max(1, round(ratio * n)).
        k: number of points that are kept; give either `ratio` or `k`.
        method: a name (`rho_train.selection.names()` lists them) or an object from
            `rho_train.selection.methods`, or a function of your own, see `register`.
        scoring: how the large batch is scored, see `Scoring`.
        ignore_index: points with this label are never selected.
        label_smoothing: as in the training loss. An ILStore is of losses without it, so with one
            give `losses=` to both, the same smoothed loss.
        forward: called as `forward(model, batch)`, returns logits (n, C); by default the model is
            called on the inputs of the batch.
        losses: for points that are no classification, sequences for example: called as
            `losses(model, batch)`, returns the loss of each point, floating point (n,), NaN for one
            that has none. Methods that need more than losses are refused, and `ignore_index` means
            nothing then. See `rho_train.sequence_losses`.
        scorer: scores in place of the model, a smaller proxy for example; an OnlineModel learns
            along.
        phases: steps in which selection is uniform.
        seed: of methods that draw.
        history: what is kept of every id, see `History`.
        check_every: selections after which the host reads how many points were invalid, and warns
            or raises; None: 1 on the CPU and 50 on CUDA, where reading waits for the device. Above
            1 a batch with fewer than k usable points is filled up with its best one.
        scope: of several processes (torch.distributed). "local": each rank keeps the best of its
            own large batch. "global": ratio and k are of the large batches of all ranks, and the
            ranks keep together what one process would keep of these, each the points of its own
            batch, so any number. `(selector.last.weights * losses).mean()` is then the loss whose
            average over the ranks is the mean over all kept points; a rank that keeps none has one
            point of weight 0. The method must be `pointwise`, see `register`, and all ranks must
            call together.

    Raises:
        TypeError, ValueError: an argument is not as described; at the first batch: the batch has
            no ids, or does not fit the table.

    Example:
        >>> import torch
        >>> from rho_train import Batch
        >>> selector = Selector(il=torch.zeros(4), k=1)
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
        >>> selector(nn.Identity(), Batch(x, y, torch.tensor([3, 1]))).ids
        tensor([1])
    """

    il: ILSource | None = None
    ratio: float | Schedule | None = None
    k: int | None = None
    method: str | Method = "rho"
    scoring: Scoring = Scoring()  # noqa: RUF009 (frozen)
    ignore_index: int = -100
    label_smoothing: float = 0.0
    forward: ForwardFunction | None = None
    losses: LossFunction | None = None
    scorer: nn.Module | OnlineModel | None = None
    phases: UniformPhases | None = None
    seed: int = 0
    history: History | None = None
    check_every: int | None = None
    scope: Scope = "local"
    last: LastSelection | None = field(default=None, init=False, repr=False)
    steps: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    selected: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_size(self.ratio, self.k)
        check_options(self.label_smoothing, self.phases, self.seed, self.check_every)
        self._method = registry.find(self.method)
        self._needs = frozenset(registry.needs_of(self._method))
        if "il" in self._needs and self.il is None:
            raise ValueError(
                f"Selector: method {self.method!r} needs irreducible losses; pass il=, an ILStore "
                "(rho_train.holdout_il or rho_train.crossfit_il make one) or a tensor by id"
            )
        check_refresh(self.scoring.refresh, self.method, self._needs, self.history)
        check_losses(self.losses, self.method, self._needs, self.forward, self.label_smoothing)
        check_smoothing(self.label_smoothing, self._needs, self.il)
        pointwise = registry.is_pointwise(self._method)
        parts = {"il": self.il, "scorer": self.scorer, "phases": self.phases}
        check_scope(self.scope, self.method, pointwise, self.scoring, parts)
        self.irreducible = Irreducible(self.il)
        self._scorer = self.scorer.model if isinstance(self.scorer, OnlineModel) else self.scorer
        if self._scorer is not None:
            if not isinstance(self._scorer, nn.Module):
                raise TypeError(
                    "Selector: scorer must be a module or an OnlineModel, got "
                    f"{type(self.scorer).__name__}"
                )
            self.check(self._scorer)
        self._passes = Scorer(self.scoring, self.forward, self.losses)
        self._usable = Usable(self.check_every)

    @property
    def invalid(self) -> int:
        """Points without a usable score, as of the last time that the host looked."""
        return self._usable.invalid

    @invalid.setter
    def invalid(self, count: int) -> None:
        self._usable.invalid = count

    @property
    def score_seconds(self) -> float:
        """Of `seconds`, those of forward passes; on CUDA of launching them, of `Ahead` waiting."""
        return self._passes.seconds

    @score_seconds.setter
    def score_seconds(self, seconds: float) -> None:
        self._passes.seconds = seconds

    def check(self, model: nn.Module) -> None:
        """Check that the method can score with a model, or with the scorer if there is one.

        Raises:
            ValueError: the method needs dropout layers, and there is none.
        """
        scorer = self._target(model)
        if "dropout" in self._needs and not dropout_layers(scorer):
            raise ValueError(
                f"Selector: method {self.method!r} needs dropout layers, and "
                f"{type(scorer).__name__} has none with p > 0; add nn.Dropout to the model, or "
                "pass scorer= with some"
            )

    def size(self, n: int, step: int = 0) -> int:
        """Return how many points are kept of a large batch of n at a step.

        Raises:
            ValueError: k is larger than the batch, or than the part of it that is scored.
        """
        if self.ratio is not None:
            # Rounding, not int(): 0.29 * 100 is 28.999... in floating point.
            k = max(1, math.floor(value_at(self.ratio, step) * n + 0.5))
        else:
            assert self.k is not None
            k = self.k
        if k > self.scoring.due(n) and k <= n:
            raise ValueError(
                f"Selector: k = {k} is larger than the {self.scoring.due(n)} points of {n} that "
                f"Scoring(refresh={self.scoring.refresh}) scores; before all points have a loss "
                "too few could be chosen"
            )
        if k > n:
            raise ValueError(
                f"Selector: k = {k} is larger than the batch of {n}; load larger batches, or "
                "give the DataLoader drop_last=True if only the last one is short"
            )
        return k

    def __call__(self, model: nn.Module, batch: T) -> T:
        """Return the selected points of a large batch, in its structure.

        Raises:
            ValueError: the batch has no ids, or is smaller than k.
            IndexError: a label or an id is out of range.
            FloatingPointError: no point has a finite score, as after a divergence.
        """
        started = time.perf_counter()
        fields = split(batch)
        choice = self._choose(self._target(model), batch, fields, self._passes)
        small = self._keep(batch, fields, *choice)
        self.seconds += time.perf_counter() - started
        return small

    def _keep(
        self, batch: T, fields: Fields, candidates: Candidates, chosen: Chosen, method: Method
    ) -> T:
        """Return what was chosen of a large batch, count it and learn from it."""
        chosen, stand_in = self._of_ranks(candidates, chosen)
        chosen = self._usable.rows(chosen, self.steps, len(fields.ids))
        # In the order of the large batch, so that ratio = 1 is plain training to the bit.
        rows, order = chosen.indices.sort()
        small = gather(batch, len(fields.ids), rows)
        kept = rows[:0] if stand_in else rows
        weights = None if chosen.weights is None else chosen.weights[order]
        self.last = LastSelection(fields.ids, chosen.losses, chosen.indices, chosen.values, weights)
        if self.history is not None:
            self.history.add(
                self.steps, fields.ids, fields.ids[kept], chosen.losses, candidates.rows
            )
        if hasattr(method, "update"):
            method.update(candidates, chosen)
        for learner in (self.il, self.scorer):
            if isinstance(learner, OnlineModel):
                learner.train_step(
                    small,
                    fields.labels[rows],
                    weights,
                    seed=self.seed,
                    step=self.steps,
                    forward=self.forward,
                    losses=self.losses,
                    label_smoothing=self.label_smoothing,
                )
        self.steps += 1
        if chosen.losses is not None:
            self.scored += len(fields.ids if candidates.rows is None else candidates.rows)
        self.selected += len(kept)
        return small

    def look(self, model: nn.Module, batch: object) -> LastSelection:
        """Return what would be selected, without counting it and without learning from it."""
        fields = split(batch)
        # Other passes, whose seconds nobody counts.
        passes = copy.copy(self._passes)
        candidates, chosen, _ = self._choose(self._target(model), batch, fields, passes)
        chosen, stand_in = self._of_ranks(candidates, chosen)
        chosen = cut(chosen, self.steps, len(fields.ids))
        count = 0 if stand_in else len(chosen.indices)
        indices, values = chosen.indices[:count], chosen.values[:count]
        return LastSelection(fields.ids, chosen.losses, indices, values)

    def _target(self, model: nn.Module) -> nn.Module:
        """Return what scores for a model."""
        return model if self._scorer is None else self._scorer

    def _choose(
        self,
        target: nn.Module,
        batch: object,
        fields: Fields,
        passes: Scorer,
        *,
        keep_random: bool = True,
    ) -> tuple[Candidates, Chosen, Method]:
        """Let the method of this step choose by the scores of `target`."""
        n, method, needs = len(fields.ids), self._method, self._needs
        check_batch(batch, fields, classes=self.losses is None, first=self.steps == 0)
        if self.history is not None:
            # Before the pass: what inference mode makes could not be counted in afterwards.
            self.history.to(fields.ids.device)
            fix = "make it for the whole data set, History(len(dataset)), also to train on a subset"
            check_rows("History", fields.ids, len(self.history), fix)
        if self.phases is not None and self.phases.uniform(self.steps):
            method, needs = uniform, frozenset()
        elif "dropout" in needs:
            self.check(target)
        rank, begin, total = self._place(n, fields.ids.device)
        k = self.size(total, self.steps)
        table, aligned = (
            self._irreducible(passes, batch, fields) if "il" in needs else (None, False)
        )
        options = self.scoring
        with scoring(
            target, bf16=options.bf16, train_mode=options.train_mode, keep_random=keep_random
        ) as scorer:
            whole = options.whole and self.losses is None
            parts = None if whole else self._parts(passes, scorer, batch, fields)
            candidates = Candidates(
                fields.labels,
                fields.ids,
                min(k, n),
                self.steps,
                self.seed,
                table,
                aligned,
                scorer,
                partial(passes.output, scorer, batch, fields) if parts is None else parts.logits,
                self.ignore_index,
                self.label_smoothing,
                parts,
                rank,
                begin,
                total,
            )
            chosen = method(candidates)
        if not isinstance(chosen, Chosen):
            raise TypeError(
                f"Selector: method {self.method!r} must return Chosen, as candidates.top(scores) "
                f"does, got {type(chosen).__name__}"
            )
        return candidates, chosen, method

    def _place(self, n: int, device: torch.device) -> tuple[int, int, int]:
        """Return the rank that draws, and where its n points lie among those it draws for."""
        if self.scope == "local":
            return rank_and_world()[0], 0, n
        ratio = 0.0 if self.ratio is None else value_at(self.ratio, self.steps)
        settings = self.steps, self.seed, self.k or 0, ratio
        # All draw as rank 0, for the points of all.
        return 0, *place(n, settings, device)

    def _of_ranks(self, candidates: Candidates, chosen: Chosen) -> tuple[Chosen, bool]:
        """Cut a choice to what all ranks keep, see `keep`."""
        if self.scope == "local":
            return chosen, False
        assert candidates.total is not None
        k = self.size(candidates.total, self.steps)
        return keep(chosen, k, ~candidates.ignored, self.steps)

    def _irreducible(
        self, passes: Scorer, batch: object, fields: Fields
    ) -> tuple[Tensor | None, bool]:
        """Return the irreducible losses by id, or of the rows and True."""
        online = self.irreducible.online
        if online is None:
            return self.irreducible.rows(fields.ids)
        with scoring(online.model, bf16=self.scoring.bf16) as scorer:
            losses = [
                output
                if self.losses is not None
                else rho_ext.score(
                    output,
                    fields.labels[rows],
                    None,
                    method="loss",
                    ignore_index=self.ignore_index,
                    label_smoothing=self.label_smoothing,
                ).losses
                for rows, output in Parts(passes, scorer, batch, fields)
            ]
        return torch.cat(losses), True

    def _parts(self, passes: Scorer, scorer: nn.Module, batch: object, fields: Fields) -> Parts:
        """Return the passes in micro-batches, or over the points whose loss is the oldest."""
        rows, known = None, None
        if self.scoring.refresh < 1.0:
            assert self.history is not None
            rows = self.history.oldest(fields.ids, self.scoring.due(len(fields.ids)))
            known = self.history.loss[fields.ids]
        return Parts(passes, scorer, batch, fields, rows, known)

    def identity(self) -> dict[str, Any]:
        """Return everything that decides what is selected, tables and models as their SHA-256."""
        parts = {**{name: getattr(self, name) for name in _SETTINGS}, "il": self.irreducible}
        return {name: identity_of(part) for name, part in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, the seconds spent and what the parts have learnt.

        Raises:
            FloatingPointError: a large batch had no usable point, and the host had not looked yet.
        """
        self._usable.flush()
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**counters, **{name: part.state_dict() for name, part in self._learners()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name, part in self._learners():
            part.load_state_dict(state[name])

    def _learners(self) -> list[tuple[str, Any]]:
        parts = {
            **{"method": self._method, "il": self.il},
            **{"scorer": self.scorer, "history": self.history},
        }
        return [
            (name, part)
            for name, part in parts.items()
            if hasattr(part, "load_state_dict") and not isinstance(part, nn.Module)
        ]
