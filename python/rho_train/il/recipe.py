"""The recipe of an IL model."""

from __future__ import annotations

from dataclasses import dataclass

from rho_train.checks import check_adamw, check_counts
from rho_train.il.score import SCORING_BATCH
from rho_train.optim import LRSchedule, check_schedule


@dataclass(frozen=True)
class ILRecipe:
    """The training settings of an irreducible-loss model.

    With a model that has not converged RHO-LOSS is worse than uniform selection. The best epoch is
    used, so too many cost time only; with a rate that decays, fewer do as well.

    Args:
        epochs: passes over the examples that the IL model trains on.
        batch_size: examples a step.
        lr: AdamW learning rate at the start.
        schedule: `constant`, or a decay to zero over all steps: `linear`, or half a `cosine`.
        weight_decay: of AdamW.
        seed: of initial weights, order and folds.
        scoring_batch: examples that are scored at once; fewer take less memory.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 3e-3
    schedule: LRSchedule = "cosine"
    weight_decay: float = 0.1
    seed: int = 0
    scoring_batch: int = SCORING_BATCH

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "batch_size", "scoring_batch")
        check_adamw("ILRecipe", self.lr, self.weight_decay)
        check_schedule("ILRecipe", self.schedule)

    def steps(self, examples: int) -> int:
        """Return the training steps for a number of examples."""
        return self.epochs * (examples // min(self.batch_size, examples))
