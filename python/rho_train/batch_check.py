"""Check once that the small batch gives the losses that it was selected by."""

from __future__ import annotations

import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rho_train.batch import describe, gather, leaves, split
from rho_train.dry_run import unchanged
from rho_train.methods.context import ScoringContext
from rho_train.rng import global_seed
from rho_train.scoring import rounding_of, scoring_mode, sharded

_OFF = "Selector(check_batches=False) leaves this check out"


def check_small_batch(
    context: ScoringContext, batch: Any, small: Any, rows: Tensor, *, proxy: bool
) -> bool:
    """Score the small batch, `rows` of a large one, in eval mode; ValueError if its losses differ.

    Returns whether this told, or warned of a model with which it never will.
    """
    module, options = context.passes.module, context.passes.options
    eager: AbstractContextManager[Any] = nullcontext()
    if "torch._dynamo" in sys.modules:
        # Graphs are compiled for the sizes of training. Importing dynamo takes seconds.
        eager = torch.compiler.set_stance("force_eager")
    scoring = scoring_mode(module, bf16=options.bf16)
    # What the model keeps for this batch size must be able to enter autograd in the step.
    plain = torch.inference_mode(False), torch.no_grad()
    with unchanged(module), global_seed(0), eager, scoring as own, plain[0], plain[1]:
        check = _Rescoring(context, batch, own)
        reason, tells = check.reason(small, rows, proxy), check.tells
    if reason is not None:
        warning = f"Selector: the small batch cannot be checked: {reason}; {_OFF}"
        warnings.warn(warning, stacklevel=4)
    return reason is not None or tells


class _Rescoring:
    """Losses of a large batch, and how far those of parts of it are from them."""

    def __init__(self, context: ScoringContext, batch: Any, module: nn.Module) -> None:
        self.context, self.batch, self.module = context, batch, module
        self.sharded = sharded(module.modules())
        # Losses of training mode or of several passes with dropout are no losses of eval mode.
        known = context.scored and not context.passes.options.train_mode
        self.losses = context.losses if known else self.score(batch)
        root = rounding_of(module) ** 0.5
        usual = self.losses[self.losses.isfinite()].abs()
        typical = max(1.0, float(usual.median())) if len(usual) else 1.0
        self.tolerance = root * self.losses.abs().clamp_min(typical)
        # Before a model has learnt, all examples can have one loss, whatever was cut. All ranks of
        # a sharded model must check the same selections.
        spread = float(usual.std()) if len(usual) > 1 else 0.0
        self.tells = self.sharded or spread > 4 * root * typical

    def score(self, batch: Any) -> Tensor:
        """Return the losses of a batch, float32 (n,)."""
        context = self.context
        classes = context.passes.loss_fn is None
        fields = split(batch, needs_ids=False, needs_labels=classes)
        passes = context.passes.of(self.module, batch, fields)
        if self.sharded:  # as many passes on all ranks, whatever their k
            passes.options = replace(passes.options, micro_batch=None)
        one = replace(context, labels=fields.labels, ids=fields.ids, passes=passes)
        one.il_values, one.il_is_per_row = None, False
        return one.score("loss").losses

    def gap(self, batch: Any, rows: Tensor) -> float:
        """Return how far the losses of a batch are from those of `rows`, 0 within rounding."""
        found, wanted = self.score(batch), self.losses[rows]
        same = (found == wanted) | (found.isnan() & wanted.isnan())
        gaps = (found - wanted).abs().nan_to_num(torch.inf)
        return float(gaps.masked_fill(same | (gaps <= self.tolerance[rows]), 0.0).max())

    def reason(self, small: Any, rows: Tensor, proxy: bool) -> str | None:
        """Return why the small batch cannot be checked, None if it is right, else raise."""
        n, k, error = len(self.context.ids), len(rows), None
        try:
            gap = self.gap(small, rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as caught:
            error, gap = caught, torch.inf
            what = f"the model fails on them: {type(error).__name__}: {error}"
            if proxy:  # which need not take small batches
                return what
        else:
            what = f"their losses differ by up to {gap:.3g} nats from those that selected them"
        if gap == 0.0:
            return None
        kinds = Tensor, np.ndarray, list
        fields = {name: one for name, one in leaves(self.batch, n) if isinstance(one, kinds)}
        fields = {name: one for name, one in fields.items() if getattr(one, "ndim", 1)}
        cut = [name for name, value in fields.items() if len(value) == n]
        whole = [name for name in fields if name not in cut]
        if error is None and self.sharded:  # all ranks would have to make the same passes
            return f"{what}, and why is not known of a sharded model"
        every = torch.arange(n, dtype=torch.int64, device=rows.device)
        if error is None and self.gap(gather(self.batch, n, every), every):
            return (
                "scored twice, the same examples have other losses, so the model draws random "
                "numbers or keeps a state"
            )
        for name in () if self.sharded else cut:
            if self._equal(gather(self.batch, n, rows, whole=fields[name]), rows):
                what += f", but not if the field {name} stays whole: all examples share it"
                break
        else:
            flipped = every.flip(0)
            mixes = error is None and self._equal(gather(self.batch, n, flipped), flipped)
            if mixes or (error is None and not whole):
                return (
                    f"the loss of an example depends on the others of its batch (that of the "
                    f"{k} selected ones by up to {gap:.3g} nats)"
                )

        def listed(names: list[str]) -> str:
            return ", ".join(f"{name} ({describe(fields[name])})" for name in names) or "nothing"

        raise ValueError(
            f"Selector: the {k} selected examples of {n} are not cut right from the batch: {what}. "
            f"Cut as one row an example: {listed(cut)}; left whole: {listed(whole)}. Give every "
            f"field one row an example in its first dimension, and what all share another length "
            f"than {n}, or keep it out of the batch; {_OFF}"
        ) from error

    def _equal(self, batch: Any, rows: Tensor) -> bool:
        try:
            return self.gap(batch, rows) == 0.0
        except Exception:  # a model may raise anything on a batch that is cut another way
            return False
