"""The Selector: three changed lines turn a training loop into RHO-LOSS."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor, nn

from rho_train.batch import Fields, gather, split
from rho_train.chooser import Chooser
from rho_train.identity import identity_of
from rho_train.invalid_counter import InvalidCounter, cut
from rho_train.methods.context import Method, ScoringContext, Selected
from rho_train.online import OnlineModel
from rho_train.scoring import Scorer

T = TypeVar("T")

_SETTINGS = (
    *("method", "il", "ratio", "k", "scoring", "ignore_index", "label_smoothing"),
    *("loss_fn", "scorer", "phases", "seed", "scope"),
)
_COUNTERS = ("steps", "scored", "selected", "invalid", "seconds", "score_seconds")


@dataclass(frozen=True, eq=False)
class LastSelection:
    """What the Selector did with the last large batch of n points, k of which were kept.

    `ids` int64 (n,); `losses` float32 (n,) in nats, None where no point was scored, as by
    `uniform`; `indices` int64 (k,), rows of the batch, and `values` float32 (k,), their scores, the
    highest first; `weights` float32 (k,), what to multiply the losses of the returned batch by, in
    its order, before they are averaged; None: by nothing. With `scope="global"` k is the number of
    points that this rank keeps; one that keeps none has a stand-in of weight 0 and value -inf.
    `selected` is what the method returned, without padding; of inference mode, while all others can
    enter a loss.
    """

    ids: Tensor
    selected: Selected
    weights: Tensor | None = None

    # Copied when somebody asks: a step has no time for what nobody reads.
    @cached_property
    def losses(self) -> Tensor | None:
        """Losses of the large batch, float32 (n,)."""
        return None if self.selected.losses is None else _of_autograd(self.selected.losses)

    @cached_property
    def indices(self) -> Tensor:
        """Rows of the large batch that were kept, int64 (k,)."""
        return _of_autograd(self.selected.indices)

    @cached_property
    def values(self) -> Tensor:
        """Their scores, float32 (k,)."""
        return _of_autograd(self.selected.values)


def _of_autograd(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


@dataclass(eq=False)
class Selector(Chooser):
    """Keep the points of a large batch that are worth a training step.

    Scores every point by training loss minus irreducible loss (Mindermann et al., ICML 2022,
    Algorithm 1, line 7) and returns the best ones as a batch of the same structure. Scoring
    leaves the model, its BatchNorm statistics and the random state as they were. The settings
    cannot be changed later.

    Args:
        il: irreducible losses by id: an ILStore, ILShards (read for every large batch) or a tensor
            (N,), or the model that they come from, an OnlineModel; only methods with IL in their
            formula need it.
        ratio: share of the large batch that is kept, in (0, 1], or a schedule of it;
            k = max(1, round(ratio * n)).
        k: number of points that are kept; give either `ratio` or `k`.
        method: a name (`rho_train.selection.names()` lists them) or an object from
            `rho_train.methods`, or a function of your own, see `register`.
        scoring: how the large batch is scored, see `Scoring`.
        ignore_index: points with this label are never selected.
        label_smoothing: as in the training loss. An ILStore is of losses without it, so with one
            give `loss_fn=` to both, the same smoothed loss.
        forward: called as `forward(model, batch)`, returns logits (n, C); by default the model is
            called on the inputs of the batch.
        loss_fn: for examples without a class, sequences for example: called as
            `loss_fn(model, batch)`, returns the loss of each point, floating point (n,), NaN for one
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

    last: LastSelection | None = field(default=None, init=False, repr=False)
    steps: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    selected: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._passes = Scorer(self.scoring, self.forward, self.loss_fn)
        self._usable = InvalidCounter(self.check_every)

    @property
    def invalid(self) -> int:
        """Points without a usable score, as of the last time that the host looked."""
        return self._usable.invalid

    @invalid.setter
    def invalid(self, count: int) -> None:
        self._usable.restore(count)

    @property
    def score_seconds(self) -> float:
        """Of `seconds`, those of forward passes; on CUDA of launching them, of `AsyncSelector` waiting."""
        return self._passes.seconds

    @score_seconds.setter
    def score_seconds(self, seconds: float) -> None:
        self._passes.seconds = seconds

    def __call__(self, model: nn.Module, batch: T) -> T:
        """Return the selected points of a large batch, in its structure.

        Raises:
            ValueError: the batch has no ids, or is smaller than k.
            IndexError: a label or an id is out of range.
            FloatingPointError: no point has a usable score, as after a divergence.
        """
        started = time.perf_counter()
        fields = split(batch)
        choice = self._choose(self._target(model), batch, fields, self._passes, self.steps)
        small = self._keep(batch, fields, *choice)
        self.seconds += time.perf_counter() - started
        return small

    def _keep(
        self, batch: T, fields: Fields, candidates: ScoringContext, chosen: Selected, method: Method
    ) -> T:
        """Return what was chosen of a large batch, count it and learn from it."""
        chosen, stand_in = self._of_ranks(candidates, chosen, self.steps)
        chosen = self._usable.rows(chosen, self.steps, len(fields.ids))
        # In the order of the large batch, so that ratio = 1 is plain training to the bit.
        rows, order = chosen.indices.sort()
        small = gather(batch, len(fields.ids), rows)
        kept = rows[:0] if stand_in else rows
        weights = None if chosen.weights is None else chosen.weights[order]
        self.last = LastSelection(fields.ids, chosen, weights)
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
                    loss_fn=self.loss_fn,
                    label_smoothing=self.label_smoothing,
                )
        self.steps += 1
        if chosen.losses is not None:
            self.scored += len(fields.ids if candidates.rows is None else candidates.rows)
        self.selected += len(kept)
        return small

    def preview(self, model: nn.Module, batch: object) -> LastSelection:
        """Return what would be selected, without counting it and without learning from it."""
        fields = split(batch)
        # Other passes, whose seconds nobody counts.
        passes = copy.copy(self._passes)
        candidates, chosen, _ = self._choose(self._target(model), batch, fields, passes, self.steps)
        chosen, stand_in = self._of_ranks(candidates, chosen, self.steps)
        chosen = cut(chosen, self.steps, len(fields.ids))
        count = 0 if stand_in else len(chosen.indices)
        indices, values = chosen.indices[:count], chosen.values[:count]
        return LastSelection(fields.ids, chosen._replace(indices=indices, values=values))

    def identity(self) -> dict[str, Any]:
        """Return everything that decides what is selected, tables and models as their SHA-256."""
        parts = {**{name: getattr(self, name) for name in _SETTINGS}, "il": self._il}
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
        """Take over what `state_dict` returned.

        Raises:
            ValueError: it is of a Selector that learns something else.
        """
        learners = self._learners()
        if differing := {*_COUNTERS, *(name for name, _ in learners)} ^ set(state):
            raise ValueError(
                "Selector: the state and this Selector differ in what they have: "
                f"{', '.join(sorted(differing))}; give it the settings of the one that was saved"
            )
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name, part in learners:
            part.load_state_dict(state[name])

    def _learners(self) -> list[tuple[str, Any]]:
        parts = {
            **{"method": self._method, "il": self.il},
            **{"scorer": self.scorer, "history": self.history},
        }
        # A module that scores is a proxy, which is trained elsewhere.
        return [
            (name, part)
            for name, part in parts.items()
            if hasattr(part, "load_state_dict")
            and not (name == "scorer" and isinstance(part, nn.Module))
        ]
