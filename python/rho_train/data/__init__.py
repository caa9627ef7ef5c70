"""Data with ids: batches, data sets, samplers, and the embedded real data."""

from rho_train.data.batch import Batch, Fields, split, take, to
from rho_train.data.classification import ClassificationData
from rho_train.data.corruption import Corruption, CorruptionConfig
from rho_train.data.duplicates import Duplicates, find_duplicates, without_duplicates
from rho_train.data.flags import PointFlags
from rho_train.data.image_files import ImageFiles
from rho_train.data.indexed import IndexedDataset, fingerprint
from rho_train.data.letters import load_letters
from rho_train.data.noise import NoisyLabels, label_noise
from rho_train.data.rng import generator
from rho_train.data.sampler import LargeBatchSampler, loader
from rho_train.data.tables import load_table
from rho_train.data.trace import check_loader

__all__ = [
    "Batch",
    "ClassificationData",
    "Corruption",
    "CorruptionConfig",
    "Duplicates",
    "Fields",
    "ImageFiles",
    "IndexedDataset",
    "LargeBatchSampler",
    "NoisyLabels",
    "PointFlags",
    "check_loader",
    "find_duplicates",
    "fingerprint",
    "generator",
    "label_noise",
    "load_letters",
    "load_table",
    "loader",
    "split",
    "take",
    "to",
    "without_duplicates",
]
