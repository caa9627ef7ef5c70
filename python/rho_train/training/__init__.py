"""The training loop: steps, evaluation, metrics, checkpoints."""

from rho_train.training.config import TrainConfig
from rho_train.training.loop import Trainer

__all__ = ["TrainConfig", "Trainer"]
