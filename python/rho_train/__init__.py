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
    check_loader,
    fingerprint,
    loader,
)
from rho_train.il import (
    ILRecipe,
    ILShards,
    ILStore,
    average_il,
    control_points,
    crossfit_il,
    holdout_il,
    pretrained_il,
    save_shards,
    score_points,
)
from rho_train.planning import plan
from rho_train.selection import (
    Ahead,
    History,
    OnlineModel,
    Scoring,
    Selector,
    coreset,
    paper_mode,
    register,
)
from rho_train.sequences import sequence_losses
from rho_train.training import TrainConfig, Trainer

__all__ = [
    "Ahead",
    "Batch",
    "History",
    "ILRecipe",
    "ILShards",
    "ILStore",
    "IndexedDataset",
    "LargeBatchSampler",
    "OnlineModel",
    "Scoring",
    "Selector",
    "TrainConfig",
    "Trainer",
    "average_il",
    "check_loader",
    "control_points",
    "coreset",
    "crossfit_il",
    "fingerprint",
    "holdout_il",
    "loader",
    "paper_mode",
    "plan",
    "pretrained_il",
    "register",
    "save_shards",
    "score_points",
    "sequence_losses",
]
