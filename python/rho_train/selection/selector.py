"""The Selector: three changed lines turn a training loop into RHO-LOSS."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

import rho_ext
from rho_train.data.batch import Fields, split, take
from rho_train.il.store import ILStore
from rho_train.scoring import ForwardFunction, dropout_layers, logits_of, scoring
from rho_train.selection import registry
from rho_train.selection.candidates import Candidates, Chosen, LastSelection, Method
from rho_train.selection.checks import (
    check_options,
    check_size,
    check_table,
    nothing_left,
    some_invalid,
)
from rho_train.selection.identity import identity_of
from rho_train.selection.methods import uniform
from rho_train.selection.online import OnlineModel
from rho_train.selection.schedules import Schedule, UniformPhases, value_at

T = TypeVar("T")

_SETTINGS = (
    *("method", "il", "ratio", "k", "bf16", "ignore_index", "label_smoothing"),
    *("scorer", "phases", "seed"),
)
_COUNTERS = ("steps", "scored", "selected", "invalid")


@dataclass
class Selector:
    """Keep the points of a large batch that are worth a training step.

    Scores every point by training loss minus irreducible loss (Mindermann et al., ICML 2022,
    Algorithm 1, line 7) and returns the best ones as a batch of the same structure. Scoring
    leaves the model, its BatchNorm statistics and the random state as they were.

    Args:
        il: irreducible losses by id, an ILStore or a tensor (N,), or the model that they come from,
            an OnlineModel; only methods with IL in their formula need it.
        ratio: share of the large batch that is kept, in (0, 1], or a schedule of it;
            k = max(1, round(ratio * n)).
        k: number of points that are kept; give either `ratio` or `k`.
        method: a name (`rho_train.selection.names()` lists them) or an object from
            `rho_train.selection.methods`, or a function of your own, see `register`.
        bf16: score under bfloat16 autocast, or without; None: as it is outside.
        ignore_index: points with this label are never selected.
        label_smoothing: as in the training loss.
        forward: called as `forward(model, batch)`, returns logits (n, C); by default the model is
            called on the inputs of the batch.
        scorer: scores in place of the model, a smaller proxy for example; an OnlineModel learns
            along.
        phases: steps in which selection is uniform.
        seed: of methods that draw.

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

    il: ILStore | Tensor | OnlineModel | None = None
    ratio: float | Schedule | None = None
    k: int | None = None
    method: str | Method = "rho"
    bf16: bool | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    forward: ForwardFunction | None = None
    scorer: nn.Module | OnlineModel | None = None
    phases: UniformPhases | None = None
    seed: int = 0
    last: LastSelection | None = field(default=None, init=False, repr=False)
    steps: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    selected: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        check_size(self.ratio, self.k)
        check_options(self.label_smoothing, self.phases, self.seed)
        self._method = registry.find(self.method)
        self._needs = frozenset(registry.needs_of(self._method))
        if "il" in self._needs and self.il is None:
            raise ValueError(
                f"Selector: method {self.method!r} needs irreducible losses; pass il=, an ILStore "
                "(rho_train.holdout_il or rho_train.crossfit_il make one) or a tensor by id"
            )
        self._online_il = self.il if isinstance(self.il, OnlineModel) else None
        table = self.il.il if isinstance(self.il, ILStore) else self.il
        self._table = None if isinstance(table, OnlineModel) else table
        if self._table is not None and not isinstance(self._table, Tensor):
            raise TypeError(
                "Selector: il must be an ILStore, a tensor (N,) or an OnlineModel, got "
                f"{type(self.il).__name__}; a file is read with ILStore.load(path, dataset)"
            )
        if self._table is not None:
            check_table(self._table)
        self._scorer = self.scorer.model if isinstance(self.scorer, OnlineModel) else self.scorer
        if self._scorer is not None:
            if not isinstance(self._scorer, nn.Module):
                raise TypeError(
                    "Selector: scorer must be a module or an OnlineModel, got "
                    f"{type(self.scorer).__name__}"
                )
            self.check(self._scorer)
        self._warned = False

    @property
    def table(self) -> Tensor | None:
        """The irreducible losses by id, (N,), on the device that scored last."""
        return self._table

    def check(self, model: nn.Module) -> None:
        """Check that the method can score with a model, or with the scorer if there is one.

        Raises:
            ValueError: the method needs dropout layers, and there is none.
        """
        scorer = model if self._scorer is None else self._scorer
        if "dropout" in self._needs and not dropout_layers(scorer):
            raise ValueError(
                f"Selector: method {self.method!r} needs dropout layers, and "
                f"{type(scorer).__name__} has none with p > 0; add nn.Dropout to the model, or "
                "pass scorer= with some"
            )

    def size(self, n: int, step: int = 0) -> int:
        """Return how many points are kept of a large batch of n at a step.

        Raises:
            ValueError: k is larger than the batch.
        """
        if self.ratio is not None:
            # Rounding, not int(): 0.29 * 100 is 28.999... in floating point.
            return max(1, math.floor(value_at(self.ratio, step) * n + 0.5))
        assert self.k is not None
        if self.k > n:
            raise ValueError(
                f"Selector: k = {self.k} is larger than the batch of {n}; load larger batches, or "
                "give the DataLoader drop_last=True if only the last one is short"
            )
        return self.k

    def __call__(self, model: nn.Module, batch: T) -> T:
        """Return the selected points of a large batch, in its structure.

        Raises:
            ValueError: the batch has no ids, or is smaller than k.
            IndexError: a label or an id is out of range.
            FloatingPointError: no point has a finite score, as after a divergence.
        """
        started = time.perf_counter()
        fields = split(batch)
        candidates, chosen, method = self._choose(model, batch, fields)
        invalid = int(chosen.invalid)
        if invalid and not self._warned:
            self._warned = True
            warnings.warn(some_invalid(invalid, len(fields.ids), chosen.losses), stacklevel=2)
        # In the order of the large batch, so that ratio = 1 is plain training to the bit.
        rows, order = chosen.indices.sort()
        small = take(batch, rows)
        weights = None if chosen.weights is None else chosen.weights[order]
        self.last = LastSelection(fields.ids, chosen.losses, chosen.indices, chosen.values, weights)
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
                    label_smoothing=self.label_smoothing,
                )
        self.steps += 1
        self.scored += 0 if chosen.losses is None else len(fields.ids)
        self.selected += len(rows)
        self.invalid += invalid
        self.seconds += time.perf_counter() - started
        return small

    def look(self, model: nn.Module, batch: object) -> LastSelection:
        """Return what would be selected, without counting it and without learning from it."""
        fields = split(batch)
        _, chosen, _ = self._choose(model, batch, fields)
        return LastSelection(fields.ids, chosen.losses, chosen.indices, chosen.values)

    def _choose(
        self, model: nn.Module, batch: object, fields: Fields
    ) -> tuple[Candidates, Chosen, Method]:
        """Let the method of this step choose; what it chose is cut to the rows that there are."""
        n, method, needs = len(fields.ids), self._method, self._needs
        if self.phases is not None and self.phases.uniform(self.steps):
            method, needs = uniform, frozenset()
        elif "dropout" in needs:
            self.check(model)
        k = self.size(n, self.steps)
        if self._table is not None and self._table.device != fields.ids.device:
            self._table = self._table.to(fields.ids.device)
        online = self._online_il if "il" in needs else None
        table = self._table if online is None else self._online_losses(online, batch, fields)
        with scoring(model if self._scorer is None else self._scorer, bf16=self.bf16) as scorer:
            candidates = Candidates(
                fields.labels,
                fields.ids,
                k,
                self.steps,
                self.seed,
                table,
                online is not None,
                scorer,
                lambda: self._logits(scorer, batch, fields),
                self.ignore_index,
                self.label_smoothing,
            )
            chosen = method(candidates)
        if not isinstance(chosen, Chosen):
            raise TypeError(
                f"Selector: method {self.method!r} must return Chosen, as candidates.top(scores) "
                f"does, got {type(chosen).__name__}"
            )
        indices = chosen.indices
        if len(indices) == 0 or int(indices[-1]) < 0:
            # Fewer than k points remain; the padding stands at the end.
            found = int((indices >= 0).sum())
            if found == 0:
                raise nothing_left(self.steps, n, int(chosen.invalid), chosen.losses)
            chosen = chosen._replace(
                indices=indices[:found],
                values=chosen.values[:found],
                weights=None if chosen.weights is None else chosen.weights[:found],
            )
        return candidates, chosen, method

    def _logits(self, scorer: nn.Module, batch: object, fields: Fields) -> Tensor:
        if self.forward is None:
            return logits_of(scorer, fields.inputs)
        return self.forward(scorer, batch)

    def _online_losses(self, online: OnlineModel, batch: object, fields: Fields) -> Tensor:
        with scoring(online.model, bf16=self.bf16) as scorer:
            return rho_ext.score(
                self._logits(scorer, batch, fields),
                fields.labels,
                None,
                method="loss",
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
            ).losses

    def identity(self) -> dict[str, Any]:
        """Return everything that decides what is selected, tables and models as their SHA-256."""
        # The table, not the store: what its file also says changes nothing.
        il = self._table if self._online_il is None else self._online_il
        parts = {**{name: getattr(self, name) for name in _SETTINGS}, "il": il}
        return {name: identity_of(part) for name, part in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, the seconds spent and what the parts have learnt."""
        counters = {name: getattr(self, name) for name in (*_COUNTERS, "seconds")}
        return {**counters, **{name: part.state_dict() for name, part in self._learners()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name in (*_COUNTERS, "seconds"):
            setattr(self, name, state[name])
        for name, part in self._learners():
            part.load_state_dict(state[name])

    def _learners(self) -> list[tuple[str, Any]]:
        parts = {"method": self._method, "il": self.il, "scorer": self.scorer}
        return [
            (name, part)
            for name, part in parts.items()
            if hasattr(part, "load_state_dict") and not isinstance(part, nn.Module)
        ]
