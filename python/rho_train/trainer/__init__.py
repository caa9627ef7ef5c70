"""The training loop: steps, evaluation, metrics, checkpoints."""

from rho_train.trainer.loop import TrainConfig, Trainer

__all__ = ["TrainConfig", "Trainer"]
