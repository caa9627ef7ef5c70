"""Data with ids: batches, data sets, samplers, and the embedded real data."""

from rho_train.data.batch import Batch, Fields, split, take, to
from rho_train.data.indexed import IndexedDataset, fingerprint
from rho_train.data.letters import load_letters
from rho_train.data.noise import NoisyLabels, uniform_label_noise
from rho_train.data.rng import generator
from rho_train.data.sampler import LargeBatchSampler, loader
from rho_train.data.tables import ClassificationData, load_table
from rho_train.data.trace import check_loader

__all__ = [
    "Batch",
    "ClassificationData",
    "Fields",
    "IndexedDataset",
    "LargeBatchSampler",
    "NoisyLabels",
    "check_loader",
    "fingerprint",
    "generator",
    "load_letters",
    "load_table",
    "loader",
    "split",
    "take",
    "to",
    "uniform_label_noise",
]
