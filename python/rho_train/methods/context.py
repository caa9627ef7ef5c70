"""What a method of selection sees of a large batch, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.checks import check_rows
from rho_train.rng import generator
from rho_train.scoring import Parts, dropout_on, seeded


class Selected(NamedTuple):
    """The rows of a large batch of n points that a method chose, the best first.

    `values` float32 (k,), their scores; `indices` int64 (k,), rows of the batch, ending in -1
    where fewer than k could be chosen; `losses` float32 (n,) in nats, None if the method looked at
    none; `invalid`, the number of rows without a usable score; `weights` float32 (k,), what the
    losses of the chosen rows are multiplied by before they are averaged, None for 1.
    """

    values: Tensor
    indices: Tensor
    losses: Tensor | None
    invalid: Tensor | int = 0
    weights: Tensor | None = None


Method = Callable[["ScoringContext"], Selected]
"""Chooses rows of a large batch; what it `needs` is an attribute, see `register`."""


@dataclass(slots=True)
class ScoringContext:
    """A large batch of n points, of which a method chooses k.

    Forward passes are made when they are asked for: a method that needs no logits pays for none.

    Args:
        labels, ids: int64 or int32 (n,).
        k: rows to choose.
        step: selections made before this one.
        seed: of the Selector; whatever a method draws depends on it, `step` and `rank` alone.
        table: irreducible losses by id (N,), or of the rows (n,) if `aligned`.
        aligned: whether `table` has one value a row.
        scorer: the module that scores, in eval mode.
        forward: makes one forward pass of it over the batch, logits (n, C).
        ignore_index, label_smoothing: as in `rho_ext.select`.
        parts: gives the logits in pieces, where one pass does not give them all.
        rank: of the process, where each draws for itself.
        begin, total: where these points begin among those that all ranks draw for, and how many
            those are; None: n.

    Example:
        >>> logits = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0]])
        >>> labels, ids = torch.tensor([0, 0, 0]), torch.tensor([7, 8, 9])
        >>> c = ScoringContext(labels, ids, 2, 0, 0, None, False, nn.Identity(), lambda: logits)
        >>> c.select("loss").indices, c.top(-c.logits[:, 1]).indices
        (tensor([0, 2]), tensor([1, 2]))
    """

    labels: Tensor
    ids: Tensor
    k: int
    step: int
    seed: int
    table: Tensor | None
    aligned: bool
    scorer: nn.Module
    forward: Callable[[], Tensor]
    ignore_index: int = -100
    label_smoothing: float = 0.0
    parts: Parts | None = None
    rank: int = 0
    begin: int = 0
    total: int | None = None
    _logits: Tensor | None = field(default=None, init=False, repr=False)
    _scores: dict[str, rho_ext.Scores] = field(default_factory=dict, init=False, repr=False)
    _classes: int | None = field(default=None, init=False, repr=False)
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    @property
    def logits(self) -> Tensor:
        """Logits (n, C) of one forward pass."""
        if self._logits is None:
            self._logits = self.forward()
        return self._logits

    @property
    def rows(self) -> Tensor | None:
        """Rows that are scored anew, int64; None: all."""
        return None if self.parts is None else self.parts.rows

    @property
    def classes(self) -> int:
        """C, once something has been scored."""
        return self.logits.shape[1] if self._classes is None else self._classes

    @property
    def generator(self) -> torch.Generator:
        """CPU generator of this step; the global ones are not for methods."""
        if self._generator is None:
            # One process draws what the first of several does.
            rank = (self.rank,) if self.rank else ()
            self._generator = generator(self.seed, "selection", self.step, *rank)
        return self._generator

    @property
    def il(self) -> Tensor:
        """Irreducible losses of the rows, (n,)."""
        assert self.table is not None, "the method did not say that it needs irreducible losses"
        if self.aligned:
            return self.table
        check_rows("Selector", self.ids, len(self.table), "il must have one row a point, by id")
        return self.table[self.ids]

    @property
    def ignored(self) -> Tensor:
        """Whether the label of a row is `ignore_index`, bool (n,); of points that are no
        classification, which have no such label, nowhere."""
        if self._losses_alone:
            return torch.zeros_like(self.ids, dtype=torch.bool)
        return self.labels == self.ignore_index

    @property
    def usable(self) -> Tensor:
        """Rows that are not ignored, int64, ascending."""
        return (~self.ignored).nonzero().squeeze(1)

    @property
    def losses(self) -> Tensor:
        """Losses of the rows, float32 (n,), of whatever was scored before."""
        scored = next(iter(self._scores.values()), None)
        return (self.score("loss") if scored is None else scored).losses

    def select(self, method: str, bias: Tensor | None = None) -> Selected:
        """Choose by `rho_ext.select`, with `bias` float32 (n,) added to the scores."""
        if self._in_parts:
            scores = self.score(method).scores
            return self.top(scores if bias is None else scores + bias)
        return Selected(
            *rho_ext.select(
                self.logits,
                self.labels,
                None if self.aligned else self.ids,
                self.k,
                il=self.table,
                method=method,
                bias=bias,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
            )
        )

    def score(self, method: str) -> rho_ext.Scores:
        """Score by `rho_ext.score`; rows that are ignored have -inf, invalid ones NaN.

        So have rows -inf that `Scoring(refresh=...)` leaves out and that have no loss yet.
        """
        if method not in self._scores:
            whole = not self._in_parts
            self._scores[method] = (
                self.score_logits(method, self.logits) if whole else self._score_parts(method)
            )
        return self._scores[method]

    def score_logits(
        self, method: str, logits: Tensor, rows: slice | Tensor = slice(None)
    ) -> rho_ext.Scores:
        """Score by other logits than those of the scorer, of all rows or of some."""
        table = self.table
        if table is not None and self.aligned:
            table = table[rows]
        return rho_ext.score(
            logits,
            self.labels[rows],
            None if self.aligned else self.ids[rows],
            il=table,
            method=method,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def top(self, scores: Tensor, losses: Tensor | None = None) -> Selected:
        """Choose the k rows with the highest `scores` (n,), ties in favour of the lower row.

        Rows that are ignored or have the score NaN or -inf are never chosen. `losses` float32 (n,)
        are those that are reported, by default of what was scored.
        """
        found = ranked(scores.float().masked_fill(self.ignored, -torch.inf), self.k)
        return Selected(*found)._replace(losses=self.losses if losses is None else losses)

    @property
    def _losses_alone(self) -> bool:
        return self.parts is not None and self.parts.scorer.loss_fn is not None

    @property
    def _in_parts(self) -> bool:
        return self.parts is not None and self._logits is None

    def _score_parts(self, method: str) -> rho_ext.Scores:
        assert self.parts is not None
        if self.parts.known is None:
            losses = torch.empty(len(self.ids), device=self.ids.device)
            scores = torch.empty_like(losses)
        else:
            losses = self.parts.known.clone()
            scores = self._score_losses(method, losses, slice(None))
            scores.masked_fill_(losses.isnan() | self.ignored, -torch.inf)
        for rows, output in self.parts:
            if self._losses_alone:
                scores[rows], losses[rows] = self._score_losses(method, output, rows), output
            else:
                scores[rows], losses[rows] = self.score_logits(method, output, rows)
                self._classes = output.shape[1]
        return rho_ext.Scores(scores, losses)

    def _score_losses(self, method: str, losses: Tensor, rows: slice | Tensor) -> Tensor:
        """Score rows by losses that are known, for the methods that look at nothing else."""
        scores = losses
        if method == "neg_il":
            # A point without a loss is not chosen by its IL either.
            scores = torch.zeros_like(losses).masked_fill(losses.isnan(), torch.nan)
        return scores - (0.0 if method == "loss" else self.il[rows].float())

    def gumbel(self) -> Tensor:
        """Draw standard Gumbel noise, float32 (n,)."""
        total = len(self.ids) if self.total is None else self.total
        exponential = torch.empty(total, dtype=torch.float64)
        exponential.exponential_(generator=self.generator)
        own = exponential[self.begin : self.begin + len(self.ids)]
        return -own.log().float().to(self.ids.device)

    def passes(self, count: int) -> Iterator[Tensor]:
        """Make forward passes with dropout on and all else in eval mode, logits (n, C) each."""
        seed = int(torch.randint(2**31, (), generator=self.generator))
        with dropout_on(self.scorer), seeded(self.ids.device, seed):
            for _ in range(count):
                yield self.forward()


def ranked(scores: Tensor, k: int) -> rho_ext.Selection:
    """Return the k highest of `scores` float32 (n,) in the order of `rho_ext.select`.

    Example:
        >>> ranked(torch.tensor([1.0, torch.nan, 2.0, 2.0]), 4).indices
        tensor([ 2,  3,  0, -1])
    """
    return rho_ext.select(
        # Only the scores count, so one class is enough.
        scores.new_zeros(len(scores), 1),
        torch.zeros_like(scores, dtype=torch.int64),
        None,
        k,
        # The negative of the negative: the op does the masking and the ranking.
        il=-scores,
        method="neg_il",
    )
