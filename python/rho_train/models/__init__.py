"""Models of the built-in runs, small enough for two CPU cores."""

from rho_train.models.images import cnn, resnet
from rho_train.models.mlp import mlp
from rho_train.models.registry import MODELS, build_model
from rho_train.models.text import embedding_bag, transformer

__all__ = ["MODELS", "build_model", "cnn", "embedding_bag", "mlp", "resnet", "transformer"]
