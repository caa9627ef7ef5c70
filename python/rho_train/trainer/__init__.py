"""The training loop: steps, evaluation, metrics, checkpoints."""

from rho_train.trainer.config import TrainConfig
from rho_train.trainer.loop import Trainer

__all__ = ["TrainConfig", "Trainer"]
