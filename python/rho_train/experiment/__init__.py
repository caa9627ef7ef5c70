"""Experiments: several methods and seeds on the same data, in parallel and resumable."""

from rho_train.experiment.config import ExperimentConfig, Method
from rho_train.experiment.data import DataConfig
from rho_train.experiment.run import run_experiment

__all__ = ["DataConfig", "ExperimentConfig", "Method", "run_experiment"]
