"""The choice of a step: the points of a large batch that a Selector keeps, by its settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.batch import Fields
from rho_train.checks import check_rows
from rho_train.distributed import rank_and_world
from rho_train.global_scope import Scope, check_scope, keep, place
from rho_train.history import History
from rho_train.il_source import ILSource, Irreducible
from rho_train.methods import registry
from rho_train.methods.context import Method, ScoringContext, Selected
from rho_train.methods.sampling import uniform
from rho_train.online import OnlineModel
from rho_train.schedules import Schedule, UniformPhases, value_at
from rho_train.scoring import (
    ForwardFunction,
    LossFunction,
    Parts,
    Scorer,
    Scoring,
    dropout_layers,
    scoring_mode,
    share_of,
)
from rho_train.selector_checks import (
    check_batch,
    check_losses,
    check_options,
    check_refresh,
    check_size,
    check_smoothing,
)


@dataclass(eq=False)
class Chooser:
    """What a `Selector` keeps of a large batch, by its settings, which are documented there.

    It makes the choice of a step and counts nothing: `Selector` does that, and lets the parts that
    learn do so.
    """

    il: ILSource | None = None
    ratio: float | Schedule | None = None
    k: int | None = None
    method: str | Method = "rho"
    scoring: Scoring = Scoring()  # noqa: RUF009 (frozen)
    ignore_index: int = -100
    label_smoothing: float = 0.0
    forward: ForwardFunction | None = None
    loss_fn: LossFunction | None = None
    scorer: nn.Module | OnlineModel | None = None
    phases: UniformPhases | None = None
    seed: int = 0
    history: History | None = None
    check_every: int | None = None
    scope: Scope = "local"

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
        check_losses(self.loss_fn, self.method, self._needs, self.forward, self.label_smoothing)
        check_smoothing(self.label_smoothing, self._needs, self.il)
        pointwise = registry.is_pointwise(self._method)
        parts = {"il": self.il, "scorer": self.scorer, "phases": self.phases}
        check_scope(self.scope, self.method, pointwise, self.scoring, parts)
        self._il = Irreducible(self.il)
        self._scorer = self.scorer.model if isinstance(self.scorer, OnlineModel) else self.scorer
        if self._scorer is not None:
            if not isinstance(self._scorer, nn.Module):
                raise TypeError(
                    "Selector: scorer must be a module or an OnlineModel, got "
                    f"{type(self.scorer).__name__}"
                )
            self.check(self._scorer)

    def __setattr__(self, name: str, value: object) -> None:
        # What was made of the settings would not follow.
        if name in Chooser.__dataclass_fields__ and "_method" in self.__dict__:
            raise AttributeError(
                f"Selector: {name} cannot be changed, got {value!r}; make a new Selector and give "
                "it the state_dict() of this one (a ratio that changes with the step is a Schedule)"
            )
        super().__setattr__(name, value)

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
            k = share_of(n, value_at(self.ratio, step))
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

    def _target(self, model: nn.Module) -> nn.Module:
        """Return what scores for a model."""
        return model if self._scorer is None else self._scorer

    def _choose(
        self,
        target: nn.Module,
        batch: object,
        fields: Fields,
        passes: Scorer,
        step: int,
        *,
        keep_random: bool = True,
    ) -> tuple[ScoringContext, Selected, Method]:
        """Let the method of a step choose by the scores of `target`."""
        n, method, needs = len(fields.ids), self._method, self._needs
        check_batch(batch, fields, classes=self.loss_fn is None, first=step == 0)
        if self.history is not None:
            # Before the pass: what inference mode makes could not be counted in afterwards.
            self.history.to(fields.ids.device)
            fix = "make it for the whole data set, History(len(dataset)), also to train on a subset"
            check_rows("History", fields.ids, len(self.history), fix)
        if self.phases is not None and self.phases.uniform(step):
            method, needs = uniform, frozenset()
        elif "dropout" in needs:
            self.check(target)
        rank, begin, total = self._place(n, step, fields.ids.device)
        k = self.size(total, step)
        table, aligned = (
            self._irreducible(passes, batch, fields) if "il" in needs else (None, False)
        )
        options = self.scoring
        with scoring_mode(
            target, bf16=options.bf16, train_mode=options.train_mode, keep_random=keep_random
        ) as scorer:
            whole = options.whole and self.loss_fn is None
            parts = None if whole else self._parts(passes, scorer, batch, fields)
            candidates = ScoringContext(
                fields.labels,
                fields.ids,
                min(k, n),
                step,
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
        if not isinstance(chosen, Selected):
            raise TypeError(
                f"Selector: method {self.method!r} must return Selected, as candidates.top(scores) "
                f"does, got {type(chosen).__name__}"
            )
        return candidates, chosen, method

    def il_of(self, ids: Tensor) -> Tensor | None:
        """Return the IL of ids, (n,), NaN where unknown; None where no id has a fixed one."""
        return self._il.of(ids)

    def _place(self, n: int, step: int, device: torch.device) -> tuple[int, int, int]:
        """Return the rank that draws, and where its n points lie among those it draws for."""
        if self.scope == "local":
            return rank_and_world()[0], 0, n
        ratio = 0.0 if self.ratio is None else value_at(self.ratio, step)
        settings = step, self.seed, self.k or 0, ratio
        # All draw as rank 0, for the points of all.
        return 0, *place(n, settings, device)

    def _of_ranks(
        self, candidates: ScoringContext, chosen: Selected, step: int
    ) -> tuple[Selected, bool]:
        """Cut a choice to what all ranks keep, see `keep`."""
        if self.scope == "local":
            return chosen, False
        assert candidates.total is not None
        k = self.size(candidates.total, step)
        return keep(chosen, k, ~candidates.ignored, step)

    def _irreducible(
        self, passes: Scorer, batch: object, fields: Fields
    ) -> tuple[Tensor | None, bool]:
        """Return the irreducible losses by id, or of the rows and True."""
        online = self._il.online
        if online is None:
            return self._il.rows(fields.ids)
        with scoring_mode(online.model, bf16=self.scoring.bf16) as scorer:
            losses = [
                output
                if self.loss_fn is not None
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
