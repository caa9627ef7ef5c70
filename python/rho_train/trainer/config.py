"""Settings and data of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from rho_train.checks import check_counts
from rho_train.cost import Costs
from rho_train.dataset import IndexedDataset
from rho_train.optim import LRSchedule, check_adamw
from rho_train.scoring import ForwardFunction
from rho_train.selector import Selector
from rho_train.trainer.time_breakdown import TimeBreakdown


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Args:
        steps: optimizer steps.
        large_batch: examples that are drawn and scored for a step, n_B.
        batch: examples that a step trains on, n_b.
        lr: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        schedule: of the learning rate: constant (as in the paper), linear or cosine to zero.
        bf16: forward passes under bfloat16 autocast.
        compile: run the model through torch.compile; compiling, at every start, counts as training.
        eval_every: steps between evaluations.
        log_every: steps between training records.
        checkpoint_every: steps between checkpoints.
        workers: processes that load batches; neither the batches nor random transforms that draw
            from the global generators of torch, NumPy or random depend on them.

    Raises:
        TypeError, ValueError: a setting has another type, or is out of range.

    Example:
        >>> TrainConfig(steps=100, large_batch=64, batch=16).lr
        0.001
    """

    steps: int = 2000
    large_batch: int = 320
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: LRSchedule = "constant"
    bf16: bool = False
    compile: bool = False
    eval_every: int = 50
    log_every: int = 50
    checkpoint_every: int = 1000
    workers: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "large_batch", "batch", "eval_every", "log_every", "checkpoint_every")
        check_counts(self, *counts)
        check_counts(self, "workers", least=0)
        if self.batch > self.large_batch:
            raise ValueError(
                f"TrainConfig: batch = {self.batch} must not be larger than large_batch = "
                f"{self.large_batch}, which it is selected from"
            )
        check_adamw("TrainConfig", self.lr, self.weight_decay, self.schedule)


@dataclass(eq=False, repr=False)
class RunData:
    """The parts of a run, see `Trainer`."""

    model: nn.Module
    dataset: IndexedDataset
    train_ids: Tensor
    eval_set: Dataset[Any]
    config: TrainConfig
    folder: str | Path
    _: KW_ONLY
    name: str
    seed: int = 0
    selector: Selector | None = None
    forward: ForwardFunction | None = None
    flags: Mapping[str, Tensor] = field(default_factory=dict)
    il_seconds: float = 0.0
    costs: Costs | None = None
    classes: Sequence[str] = ()
    show: Callable[[int], object] | None = None
    times: TimeBreakdown = field(default_factory=TimeBreakdown, init=False)
    runner: nn.Module = field(init=False)  # the model, compiled if so configured
