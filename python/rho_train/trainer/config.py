"""How a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from rho_train.checks import check_adamw, check_counts
from rho_train.optim import Schedule, check_schedule


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Args:
        steps: optimizer steps.
        large_batch: points that are drawn and scored for a step, n_B.
        batch: points that a step trains on, n_b.
        lr: AdamW learning rate.
        weight_decay: of AdamW.
        schedule: of the learning rate: constant (as in the paper), linear or cosine to zero.
        bf16: forward passes under bfloat16 autocast.
        compile: run the model through torch.compile; compiling, at every start, is charged.
        eval_every: steps between evaluations on the test set.
        log_every: steps between training records.
        checkpoint_every: steps between checkpoints.
        ahead: choose the points of a step while the step before it trains, by scores that are one
            update old, see `rho_train.AsyncSelector`.
        bn_recalibration_batches: large batches over which BatchNorm takes its statistics anew after the last
            step, by `torch.optim.swa_utils.update_bn`: the points that were chosen are not like
            those that will come. 0: as the steps left them.
        workers: processes that load batches. Neither the order of the batches nor random transforms
            that draw from the global generators of torch, NumPy or random depend on them.
    """

    steps: int = 2000
    large_batch: int = 320
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Schedule = "constant"
    bf16: bool = False
    compile: bool = False
    eval_every: int = 50
    log_every: int = 50
    checkpoint_every: int = 1000
    ahead: bool = False
    bn_recalibration_batches: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "large_batch", "batch")
        check_counts(self, "eval_every", "log_every", "checkpoint_every")
        check_counts(self, "bn_recalibration_batches", "workers", least=0)
        if not self.batch <= self.large_batch:
            raise ValueError(
                f"TrainConfig: batch = {self.batch} must not be larger than large_batch = "
                f"{self.large_batch}: the small batch is selected from the large one"
            )
        check_adamw("TrainConfig", self.lr, self.weight_decay)
        check_schedule("TrainConfig", self.schedule)
