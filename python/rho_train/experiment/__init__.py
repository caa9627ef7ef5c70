"""Experiments: several methods and seeds on the same data, in parallel and resumable."""

from rho_train.experiment.config import ExperimentConfig, Method, SelectorConfig
from rho_train.experiment.data import DataConfig
from rho_train.experiment.load import load_experiment, make_experiment
from rho_train.experiment.minutes import SameMinutes
from rho_train.experiment.model import ModelConfig
from rho_train.experiment.run import run_experiment

__all__ = [
    "DataConfig",
    "ExperimentConfig",
    "Method",
    "ModelConfig",
    "SameMinutes",
    "SelectorConfig",
    "load_experiment",
    "make_experiment",
    "run_experiment",
]
