"""The Selector: three changed lines turn a training loop into RHO-LOSS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rho_train.batch import describe, gather, ids_of, split, take_il, to, upload
from rho_train.checks import check_rows
from rho_train.dry_run import unchanged
from rho_train.global_scope import Scope, count_globally, select_globally
from rho_train.history import History
from rho_train.identity import digest, identity_of
from rho_train.il.store import ILStore
from rho_train.methods import registry
from rho_train.methods.context import (
    InvalidCounter,
    LastSelection,
    Method,
    ScoringContext,
    Selected,
)
from rho_train.methods.registry import uniform
from rho_train.online import OnlineModel
from rho_train.scoring import (
    ForwardFunction,
    LossFunction,
    Scoring,
    check_module,
    scoring_mode,
    share_of,
)
from rho_train.selector_checks import (
    check_batch,
    check_settings,
    check_share,
    check_small_batch,
    check_training,
    il_table,
)

T = TypeVar("T")
ILSource = ILStore | Tensor | OnlineModel | str
"""Sources of irreducible losses that `Selector(il=...)` takes."""

_COUNTERS = ("steps", "scored", "selected", "invalid", "seconds")


@dataclass(eq=False, repr=False)
class Selector:
    """Select the examples of a large batch that are worth a training step.

    Scores every example by training loss minus irreducible loss (Mindermann et al., ICML 2022,
    Algorithm 1, line 7). Scoring leaves the model, its BatchNorm statistics and the random state
    as they were. The settings cannot be changed later.

    Args:
        il: irreducible losses by id: an ILStore (one in several files is read for every large
            batch, on CUDA without a wait if the ids stay on the CPU) or a tensor (N,); an
            OnlineModel, which computes them; or the name of a field of the batch, as "il", float
            (n,): an attribute, or a key of a dict or the last element of a tuple, which the small
            batch and the model do not get.
        ratio: share of the large batch, in (0, 1], or a function of the step, from 0:
            k = max(1, round(ratio * n)).
        k: number of examples to select; give either `ratio` or `k`.
        method: a name of `rho_train.methods.names()`, an object from `rho_train.methods`, or a
            function of your own, see `register`.
        scoring: options of the forward passes.
        ignore_index: examples with this label are never selected.
        label_smoothing: as in the training loss; not with an ILStore, whose losses are without it:
            give the smoothed loss as `loss_fn=` to both.
        forward: called as `forward(model, batch)`, returns logits (n, C); by default the model is
            called on the inputs of the batch.
        loss_fn: for examples without a class, such as sequences (`rho_train.sequence_losses`):
            called as `loss_fn(model, batch)`, returns the loss of each, floating point (n,), NaN
            for none. The batch needs no labels then.
        scorer: scores in place of the model; an OnlineModel is trained beside it.
        phases: function of the step that returns whether selection is uniform, such as
            `lambda step: step < 100`: at the start the losses say little.
        seed: of methods that draw.
        history: counts and last losses by id.
        check_every: selections after which the host reads how many examples were invalid, and warns
            or raises; None: 1 on the CPU and 50 on CUDA, where reading waits for the device. Above
            1 a batch with fewer than k usable examples is filled up with its best one.
        check_batches: check the first batches: in 8 selections the labels are compared with those
            that the `il` store was made for. In the first, and until losses differ in the second,
            fourth, ..., the small batch is scored again. It must give the losses that it was
            selected by, else a field is not one row an example.
        scope: of several processes (torch.distributed). "local": each rank selects from its own
            large batch. "global": all ranks call together and select what one process would from
            the large batches of all, by a `pointwise` method, see `register`. Each has any number,
            and `(selector.last.weights * losses).mean()` is the loss whose average over the ranks
            is the mean over all selected examples. A rank without one has a stand-in of weight 0.

    Raises:
        TypeError, ValueError: an argument is not as described.

    Examples:
        >>> import torch
        >>> from rho_train import Batch
        >>> selector = Selector(il=torch.zeros(4), k=1)
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
        >>> selector(nn.Identity(), Batch(x, y, torch.tensor([3, 1]))).ids
        tensor([1])
    """

    il: ILSource | None = None
    ratio: float | Callable[[int], float] | None = None
    k: int | None = None
    method: str | Method = "rho"
    scoring: Scoring = Scoring()  # noqa: RUF009 (frozen)
    ignore_index: int = -100
    label_smoothing: float = 0.0
    forward: ForwardFunction | None = None
    loss_fn: LossFunction | None = None
    scorer: nn.Module | OnlineModel | None = None
    phases: Callable[[int], bool] | None = None
    seed: int = 0
    history: History | None = None
    check_every: int | None = None
    check_batches: bool = True
    scope: Scope = "local"
    last: LastSelection | None = field(default=None, init=False, repr=False)
    steps: int = field(default=0, init=False)
    scored: int = field(default=0, init=False)
    selected: int = field(default=0, init=False)
    invalid: int = field(default=0, init=False)  # as of the last check
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        method = registry.find(self.method)
        self.needs = frozenset(registry.needs_of(method))
        check_settings(self, method)
        names = "seed", "forward", "loss_fn", "ignore_index", "label_smoothing"
        self._context: dict[str, Any] = {name: getattr(self, name) for name in names}
        mode = self.scoring.compile if isinstance(self.scoring.compile, str) else None
        compiled = cache(partial(torch.compile, mode=mode)) if self.scoring.compile else None
        self._context |= {"options": self.scoring, "compiled": compiled}
        self._il_table = il_table(self.il)
        self._proxy = self.scorer.model if isinstance(self.scorer, OnlineModel) else self.scorer
        self._invalid = InvalidCounter(self.check_every)
        # The number of the next selection that scores, 0 once the check of batches has told.
        self._unchecked, self._label_checks = int(self.check_batches), 8 * self.check_batches
        self._method = method

    def __setattr__(self, name: str, value: object) -> None:
        # What was made of the settings would not follow.
        if name in _SETTINGS and "_method" in self.__dict__:
            fix = "give a new Selector the state_dict() of this one"
            raise AttributeError(f"Selector: {name} cannot be changed, got {value!r}; {fix}")
        super().__setattr__(name, value)

    @property
    def needs_ids(self) -> bool:
        """True if the batches must have ids."""
        online = isinstance(self.il, OnlineModel) or isinstance(self.scorer, OnlineModel)
        table = "il" in self.needs and not isinstance(self.il, str)
        return online or table or self.history is not None or "ids" in self.needs

    def metrics(self) -> dict[str, float]:
        """Return numbers for any logger, by names that begin with "selection/".

        The counters and seconds, and of the last selection the mean losses of the large batch and
        of its selected examples, NaN where nothing was scored. Reads the device.

        Examples:
            >>> selector = Selector(method="loss", ratio=0.5)
            >>> selector.metrics()["selection/steps"]  # writer.add_scalar(name, value, step)
            0.0
        """
        self.invalid += self._invalid.read()
        found = {name: float(getattr(self, name)) for name in _COUNTERS}
        if self.last is not None and (losses := self.last.losses) is not None:
            found["large_batch_loss"] = float(losses.nanmean())
            found["small_batch_loss"] = float(losses[self.last.indices].nanmean())
        return {f"selection/{name}": value for name, value in found.items()}

    def __call__(self, model: nn.Module, batch: T) -> T:
        """Return the selected examples of a large batch, in its structure.

        Raises a ValueError without ids or with fewer than k examples, or in an evaluation loop, an
        IndexError for a label or id out of range, a FloatingPointError if no example has a usable
        score. Warns of a model in eval mode.
        """
        started = time.perf_counter()
        if not getattr(model, "training", True):
            check_training()
        scorer = model if self._proxy is None else self._proxy
        small = self._apply(*self._select(scorer, batch))
        self.seconds += time.perf_counter() - started
        return small

    def preview(self, model: nn.Module, batch: object) -> LastSelection:
        """Return what would be selected, without counting it and without learning from it."""
        scorer = model if self._proxy is None else self._proxy
        with unchanged(scorer):  # which scoring in training mode is not
            _, context, selected, _, stand_in = self._select(scorer, batch)
        selected = selected.without_padding(context.step, len(context.ids))
        return LastSelection(context.ids, selected.rows(slice(0)) if stand_in else selected)

    def size(self, n: int, step: int = 0) -> int:
        """Return k for a large batch of n at a step; ValueError if there are not as many."""
        k = self.k or share_of(n, self._ratio_at(step))
        if k > n:
            raise ValueError(
                f"Selector: k = {k} is larger than the batch of {n}; load larger batches, with "
                "drop_last=True if only the last one is short"
            )
        return k

    def _ratio_at(self, step: int) -> float:
        if not callable(self.ratio):
            return self.ratio or 0.0
        return check_share(self.ratio(step), f" at step {step}")

    def _select(
        self, scorer: nn.Module, batch: T
    ) -> tuple[T, ScoringContext, Selected, Method, bool]:
        """Select from a large batch, without counting it: the arguments of `_apply`."""
        step, method, needs, column = self.steps, self._method, self.needs, None
        if step == 0:
            check_module("Selector", scorer)
        if isinstance(self.il, str):
            batch, column = take_il(batch, self.il)
        wanted: dict[str, Any] = {"needs_ids": self.needs_ids, "needs_labels": self.loss_fn is None}
        parsed = split(batch, **wanted)
        given = parsed.ids
        if given.is_cpu and not parsed.labels.is_cpu:
            batch = to(batch, parsed.labels.device)
            parsed = split(batch, **wanted)
        ids, n, options = parsed.ids, len(given), self.scoring
        if step == 0 or parsed.labels.ndim != 1:
            first = step == 0 and self.needs_ids
            check_batch(batch, parsed, classes=self.loss_fn is None, first=first)
        if self.history is not None:
            # Before the pass: what inference mode makes could not be counted in afterwards.
            self.history.to(ids.device)
            fix = "make it for the whole data set, History(len(dataset))"
            check_rows("History", ids, len(self.history), fix)
        if self.phases is not None and self.phases(step):
            method, needs = uniform, frozenset()
        total = n
        if self.scope == "global":
            settings = (step, self.seed, self.k or 0, self._ratio_at(step))
            total = count_globally(n, settings, ids.device)
        size = self.size(total, step)
        examples = parsed if self.forward is self.loss_fn is None else batch
        context = ScoringContext(
            labels=parsed.labels,
            ids=ids,
            k=min(size, n),
            step=step,
            module=scorer,
            examples=examples,
            **self._context,
        )
        if "il" in needs and isinstance(self.il, OnlineModel):
            with scoring_mode(self.il.model, bf16=options.bf16) as module:
                context.il_values = context.of(module, batch, parsed).losses
            context.il_is_per_row = True
        elif "il" in needs and column is not None:
            if column.shape != ids.shape:
                got = f"got {describe(column)} for {n} examples; check the collate_fn"
                raise ValueError(f"Selector: il must have one row an example, {got}")
            column = upload(column, ids.device) if column.is_cpu else column
            context.il_values, context.il_is_per_row = column.float(), True
        elif "il" in needs:
            if self._label_checks:
                self._check_labels(context)
            context.il_values, context.il_is_per_row = self._fixed_il(given, ids.device)
        scoring = scoring_mode(scorer, bf16=options.bf16, train_mode=options.train_mode)
        with scoring as context.module:
            selected = method(context)
        if not isinstance(selected, Selected):
            said = f"must return Selected, as context.top, got {type(selected).__name__}"
            raise TypeError(f"Selector: method {self.method!r} {said}")
        stand_in = False
        if self.scope == "global":
            selected, stand_in = select_globally(selected, size, ~context.ignored, step)
        return batch, context, selected, method, stand_in

    def _apply(
        self, batch: T, context: ScoringContext, selected: Selected, method: Method, stand_in: bool
    ) -> T:
        """Return the selected examples of a selection, count it and learn from it."""
        step, ids, n = self.steps, context.ids, len(context.ids)
        selected, invalid = self._invalid.count(selected, step, n)
        # In the order of the large batch, so that ratio = 1 is plain training to the bit.
        rows, order = selected.indices.sort()
        small = gather(batch, n, rows)
        if len(ids_of(small)) != (k := len(rows)):
            raise TypeError(
                f"Selector: {k} examples are selected, and a batch of type {type(small).__name__} "
                f"keeps {len(ids_of(small))} ids: functions compute its fields, which cannot be "
                "cut; collate to a dict, a dataclass or Batch"
            )
        if selected.losses is not None and self._unchecked:
            scored, proxy = self._unchecked, self._proxy is not None
            due = not scored & (scored - 1)  # the 1st, 2nd, 4th, 8th, ...
            told = due and check_small_batch(context, batch, small, rows, proxy=proxy)
            self._unchecked = 0 if told else scored + 1
        weights = None if selected.weights is None else selected.weights[order]
        self.last = LastSelection(ids, selected, weights)
        count = 0 if stand_in else k
        if self.history is not None:
            self.history.add(step, ids, ids[rows[:count]], selected.losses)
        if hasattr(method, "update"):
            method.update(context, selected)
        for learner in (self.il, self.scorer):
            if isinstance(learner, OnlineModel):
                learner.train_step(small, weights, context)
        self.steps += 1
        if selected.losses is not None:
            self.scored += n
        self.selected += count
        if invalid:
            self.invalid += invalid
        return small

    def il_of(self, ids: Tensor) -> Tensor | None:
        """Return the IL of ids, (n,), NaN where unknown; None where no id has a fixed one."""
        il, il_is_per_row = self._fixed_il(ids, ids.device)
        return il if il is None or il_is_per_row else il[ids]

    def _fixed_il(self, ids: Tensor, device: torch.device) -> tuple[Tensor | None, bool]:
        """Return the `il` of `rho_ext.select`, and whether it has one value a row."""
        if isinstance(self.il, ILStore) and self._il_table is None:
            return upload(self.il.gather(ids), device), True
        if self._il_table is not None and self._il_table.device != device:
            self._il_table = self._il_table.to(device)
        return self._il_table, False

    def _check_labels(self, context: ScoringContext) -> None:
        """Compare the labels of the large batch with those that the store was made for."""
        labels = context.labels
        if isinstance(self.il, ILStore) and labels.ndim == 1:
            used = labels != self.ignore_index
            try:
                self.il.check_labels(context.ids[used].cpu(), labels[used].cpu())
            except ValueError as error:
                off = "labels that change on purpose need Selector(check_batches=False)"
                raise ValueError(f"{error}; {off}") from None
        self._label_checks -= 1

    def identity(self, steps: int = 0) -> dict[str, Any]:
        """Return everything that decides what is selected, tables and models as their SHA-256.

        Functions of the step count by their values in the first `steps`.
        """
        deciding = sorted(_SETTINGS - {"il", "forward", "history", "check_every", "check_batches"})
        settings = {name: identity_of(getattr(self, name)) for name in deciding}
        for name in ("ratio", "phases"):
            if callable(function := getattr(self, name)):
                values = [float(function(step) or 0.0) for step in range(steps)]
                found = digest(torch.tensor(values, dtype=torch.float64, device="cpu"))
                settings[name] = f"{settings[name]}, values {found[:16]}"
        il = self.il if self._il_table is None else self._il_table
        # The values alone decide, whatever else the files say.
        return {**settings, "il": il.sha256 if isinstance(il, ILStore) else identity_of(il)}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, the seconds spent and what methods and models have learnt."""
        self.invalid += self._invalid.read()
        state = {name: getattr(self, name) for name in _COUNTERS}
        return state | {name: one.state_dict() for name, one in self._learners().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; ValueError if it is of a Selector that learns something else."""
        learners = self._learners()
        if differing := {*_COUNTERS, *learners} ^ set(state):
            raise ValueError(
                "Selector: the state and this Selector differ in what they have: "
                f"{', '.join(sorted(differing))}; give it the settings of the one that was saved"
            )
        self._invalid = InvalidCounter(self.check_every)
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name, one in learners.items():
            one.load_state_dict(state[name])

    def _learners(self) -> dict[str, Any]:
        # A module that scores is a proxy, which is trained elsewhere.
        scorer = None if isinstance(self.scorer, nn.Module) else self.scorer
        parts = {"method": self._method, "il": self.il, "history": self.history, "scorer": scorer}
        return {name: one for name, one in parts.items() if hasattr(one, "load_state_dict")}


_SETTINGS = frozenset(one.name for one in fields(Selector) if one.init)
