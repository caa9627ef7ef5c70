"""rho_train: the training layer of rho_ext: irreducible losses, selection, training, reports.

selector = rho_train.Selector(il=store, ratio=0.1)
for batch in loader:                       # large batches with ids
    batch = selector(model, batch)         # the points worth a step, same structure
    loss = criterion(model(batch.x), batch.y)
"""

from rho_train.data import (
    Batch,
    IndexedDataset,
    LargeBatchSampler,
    fingerprint,
    loader,
)
from rho_train.il import ILRecipe, ILStore, crossfit_il, holdout_il, score_points
from rho_train.selection import OnlineModel, Selector, coreset, register
from rho_train.training import TrainConfig, Trainer

__all__ = [
    "Batch",
    "ILRecipe",
    "ILStore",
    "IndexedDataset",
    "LargeBatchSampler",
    "OnlineModel",
    "Selector",
    "TrainConfig",
    "Trainer",
    "coreset",
    "crossfit_il",
    "fingerprint",
    "holdout_il",
    "loader",
    "register",
    "score_points",
]
