"""Input and output of a method, the record of a selection, and the count of invalid rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import rho_ext
from rho_train.batch import Fields, gather
from rho_train.checks import check_rows
from rho_train.distributed import rank_and_world
from rho_train.rng import generator
from rho_train.scoring import ForwardFunction, LossFunction, Scoring, output_of


class Selected(NamedTuple):
    """Selected rows of a large batch of n examples, the best first.

    `values` float32 (k,), their scores; `indices` int64 (k,), rows of the batch, ending in -1
    where fewer than k could be selected; `losses` float32 (n,) in nats, None if nothing was scored;
    `invalid`, the number of rows without a usable score; `weights` float32 (k,), factors of the
    losses of these rows before they are averaged, None for 1.
    """

    values: Tensor
    indices: Tensor
    losses: Tensor | None
    invalid: Tensor | int = 0
    weights: Tensor | None = None

    def rows(self, rows: slice | Tensor) -> Selected:
        """Return some of the selected rows."""
        weights = None if self.weights is None else self.weights[rows]
        return self._replace(indices=self.indices[rows], values=self.values[rows], weights=weights)

    def without_padding(self, step: int, n: int) -> Selected:
        """Drop the -1 padding at the end; FloatingPointError if nothing is left of n examples."""
        if len(self.indices) and int(self.indices[-1]) >= 0:
            return self
        found = int((self.indices >= 0).sum())
        if found == 0:
            why = self.cause(n, int(self.invalid))
            raise FloatingPointError(f"Selector: step {step}: no example can be selected: {why}")
        return self.rows(slice(found))

    def cause(self, n: int, invalid: int) -> str:
        """Say why `invalid` of n examples, or all, cannot be selected, and what to do."""
        bad = 0 if self.losses is None else int((~self.losses.isfinite()).sum())
        if bad:
            return (
                f"{bad} of {n} losses are NaN or infinite: the model has diverged, then lower the "
                "learning rate or clip the gradients; or these examples have no loss, as sequences "
                "without a label and, on CUDA, labels out of range"
            )
        if invalid:
            return (
                f"the irreducible loss of {invalid} of {n} examples is unknown (NaN); train on "
                "examples that the store covers, of a holdout store those that are not held out"
            )
        return f"all {n} examples are left out: their labels are ignore_index or scores infinite"


class InvalidCounter:
    """Drop the -1 padding and count rows without a valid score; `every` is `check_every`."""

    def __init__(self, every: int | None) -> None:
        self._every, self._warned = every, False
        # Counted on the device and not read yet: invalid rows, and in the upper 32 bits batches
        # without a usable one. One number is one read.
        self._unread: Tensor | int = 0

    def count(self, selected: Selected, step: int, n: int) -> tuple[Selected, int]:
        """Return a selection from n examples without padding, and what was `read` after it."""
        every = self._every or (50 if selected.indices.is_cuda else 1)
        # Reading is one call of torch, adding on the device and reading two.
        invalid = int(selected.invalid) if every == 1 else selected.invalid
        self._unread = self._unread + invalid
        if every == 1 or len(selected.indices) == 0:
            selected = selected.without_padding(step, n)
        else:
            # No shape may depend on what the device has found: the best example fills up.
            padding = selected.indices < 0
            self._unread = self._unread + padding[0] * 2**32
            best = ((~padding).cumsum(0) - 1).masked_fill(padding, 0)
            selected = selected.rows(best)
            selected = selected._replace(indices=selected.indices.clamp_min(0))
        unread = self.read() if (step + 1) % every == 0 else 0
        if unread and not self._warned:
            self._warned = True
            warnings.warn(
                "Selector: examples without a usable score are never selected: "
                f"{selected.cause(n, unread)} (said once; Selector.invalid counts them)",
                stacklevel=4,
            )
        return selected, unread

    def read(self) -> int:
        """Return how many invalid rows were counted since the last reading."""
        empty, unread = divmod(int(self._unread), 2**32)
        self._unread = unread if empty else 0
        if empty:
            raise FloatingPointError(
                f"Selector: {empty} large batches since the last check had no example that can be "
                "selected; Selector(check_every=1) says at which step and why"
            )
        return unread


Method = Callable[["ScoringContext"], Selected]
"""Selects rows of a large batch; its attribute `needs` says what for, see `register`."""


@dataclass(slots=True, kw_only=True, eq=False)
class ScoringContext:
    """A large batch of n examples, of which a method selects k; for an example see `register`.

    A forward pass is made when its logits are first read: a method that needs none pays for none.

    Args:
        labels, ids: int64 or int32 (n,).
        k: rows to select.
        step: selections made before this one.
        module: scores, in eval mode.
        examples: the large batch for `forward` and `loss_fn`, else its `Fields`.
        seed: of the Selector; what a method draws depends on it, `step` and the rank alone.
        options, forward, loss_fn, ignore_index, label_smoothing: of the Selector.
        compiled: compiles a module, once; None: none is.
        il_values: irreducible losses by id (N,), or of the rows (n,) if `il_is_per_row`.
    """

    labels: Tensor
    ids: Tensor
    k: int
    step: int
    module: nn.Module
    examples: Any
    seed: int
    options: Scoring
    forward: ForwardFunction | None
    loss_fn: LossFunction | None
    ignore_index: int
    label_smoothing: float
    compiled: Callable[[nn.Module], nn.Module] | None
    il_values: Tensor | None = None
    il_is_per_row: bool = False
    _logits: Tensor | None = field(default=None, init=False, repr=False)
    _scores: dict[str, rho_ext.Scores] = field(default_factory=dict, init=False, repr=False)
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    @property
    def logits(self) -> Tensor:
        """Logits (n, C) of one forward pass."""
        if self._logits is None:
            self._logits = self.forward_pass()
        return self._logits

    def forward_pass(self) -> Tensor:
        """Return the logits (n, C) of all examples by a pass of its own, if they have some."""
        if self.loss_fn is not None:
            raise ValueError("Selector: loss_fn= gives losses, the method wants logits; take rho")
        if self.options.micro_batch is None:
            module = self.module if self.compiled is None else self.compiled(self.module)
            return output_of("Selector", module, self.examples, self.examples, self.forward, None)
        return torch.cat([logits for _, logits in self._pieces()])

    def of(self, module: nn.Module, batch: Any, fields: Fields) -> ScoringContext:
        """Return a context of all examples of another batch, by a module, without IL."""
        return replace(
            self,
            labels=fields.labels,
            ids=fields.ids,
            module=module,
            examples=fields if self.forward is self.loss_fn is None else batch,
            il_values=None,
            il_is_per_row=False,
        )

    @property
    def generator(self) -> torch.Generator:
        """CPU generator of this step; methods leave the global ones alone."""
        if self._generator is None:
            rank, _ = rank_and_world()
            own = (rank,) if rank else ()  # One process draws what the first of several does.
            self._generator = generator(self.seed, "selection", self.step, *own)
        return self._generator

    @property
    def il(self) -> Tensor:
        """Irreducible losses of the rows, (n,)."""
        il = self.il_values
        assert il is not None, "the method did not say that it needs irreducible losses"
        if self.il_is_per_row:
            return il
        check_rows("Selector", self.ids, len(il), "il must have one row an example, by id")
        return il[self.ids]

    @property
    def ignored(self) -> Tensor:
        """Rows whose label is `ignore_index`, bool (n,); none with `loss_fn=`."""
        if self.loss_fn is not None:
            return torch.zeros_like(self.ids, dtype=torch.bool)
        return self.labels == self.ignore_index

    @property
    def losses(self) -> Tensor:
        """Losses of the rows, float32 (n,)."""
        scored = next(iter(self._scores.values()), None)
        return (self.score("loss") if scored is None else scored).losses

    def select(self, method: str, bias: Tensor | None = None) -> Selected:
        """Select by `rho_ext.select`, with `bias` float32 (n,) added to the scores."""
        if self._in_pieces:
            scores = self.score(method).scores
            return self.top(scores if bias is None else scores + bias)
        best = rho_ext.select(
            self.logits,
            self.labels,
            None if self.il_is_per_row else self.ids,
            self.k,
            il=self.il_values,
            method=method,
            bias=bias,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        return Selected(*best)

    def score(self, method: str) -> rho_ext.Scores:
        """Score by `rho_ext.score`; -inf for ignored rows, NaN for invalid ones."""
        if method not in self._scores:
            if self._in_pieces:
                self._scores[method] = self._score_pieces(method)
            else:
                self._scores[method] = self.score_logits(method, self.logits)
        return self._scores[method]

    def score_logits(
        self, method: str, logits: Tensor, rows: slice = slice(None)
    ) -> rho_ext.Scores:
        """Score all rows, or some, by given logits."""
        il = self.il_values
        return rho_ext.score(
            logits,
            self.labels[rows],
            None if self.il_is_per_row else self.ids[rows],
            il=il[rows] if il is not None and self.il_is_per_row else il,
            method=method,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def top(self, scores: Tensor, losses: Tensor | None = None) -> Selected:
        """Select the k rows with the highest `scores` (n,), ties in favour of the lower row.

        Ignored rows and scores NaN and -inf are never selected. The reported `losses` float32 (n,)
        are by default those that were scored.
        """
        best = ranked(scores.float().masked_fill(self.ignored, -torch.inf), self.k)
        return Selected(*best)._replace(losses=self.losses if losses is None else losses)

    @property
    def _in_pieces(self) -> bool:
        pieces = self.options.micro_batch is not None or self.loss_fn is not None
        return pieces and self._logits is None

    def _score_pieces(self, method: str) -> rho_ext.Scores:
        losses, scores = torch.empty_like(self.ids.expand(2, -1), dtype=torch.float32).unbind()
        for rows, output in self._pieces():
            if self.loss_fn is not None:
                losses[rows] = output
            else:
                scores[rows], losses[rows] = self.score_logits(method, output, rows)
        if self.loss_fn is not None:
            # An example without a loss is not selected by its IL either.
            known = torch.where(losses.isnan(), losses, 0.0) if method == "neg_il" else losses
            scores = known if method == "loss" else known - self.il.float()
        return rho_ext.Scores(scores, losses)

    def _pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield rows of the large batch, and their logits or losses."""
        n = len(self.ids)
        size = self.options.micro_batch or n
        module = self.module if self.compiled is None else self.compiled(self.module)
        for begin in range(0, n, size):
            rows = slice(begin, min(begin + size, n))
            piece = fields = gather(self.examples, n, rows) if size < n else self.examples
            if self.loss_fn is not None:
                fields = Fields(None, self.labels[rows], self.ids[rows])
            yield rows, output_of("Selector", module, piece, fields, self.forward, self.loss_fn)


def ranked(scores: Tensor, k: int) -> rho_ext.Selection:
    """Return the k highest of `scores` float32 (n,) in the order of `rho_ext.select`."""
    # Of one class, as only the scores count, by the negative of the negative.
    logits, labels = scores.new_zeros(len(scores), 1), torch.zeros_like(scores, dtype=torch.int64)
    return rho_ext.select(logits, labels, None, k, il=-scores, method="neg_il")


@dataclass(frozen=True, eq=False)
class LastSelection:
    """The selection of k examples of the last large batch of n.

    `ids` int64 (n,); `losses` float32 (n,) in nats, None where nothing was scored, as by `uniform`;
    `indices` int64 (k,), rows of the batch, and `values` float32 (k,), their scores, the highest
    first; `weights` float32 (k,), factors of the losses of the returned batch, in its order, before
    they are averaged; None: 1. With `scope="global"` k is the number of examples of this rank; one
    without any has a stand-in of weight 0 and value -inf. `selected` is the result of the method
    without padding, in inference mode; all others can enter a loss.
    """

    ids: Tensor
    selected: Selected
    weights: Tensor | None = None

    # Copied on first access, to keep steps cheap.
    @cached_property
    def losses(self) -> Tensor | None:
        """Losses of the large batch, float32 (n,)."""
        return None if self.selected.losses is None else _for_autograd(self.selected.losses)

    @cached_property
    def indices(self) -> Tensor:
        """Selected rows of the large batch, int64 (k,)."""
        return _for_autograd(self.selected.indices)

    @cached_property
    def values(self) -> Tensor:
        """Their scores, float32 (k,)."""
        return _for_autograd(self.selected.values)


def _for_autograd(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
