"""rho_train: the training layer of rho_ext: irreducible losses, selection, training, reports.

Selection takes three lines of a training loop:

    selector = rho_train.Selector(il=store, ratio=0.1)
    for batch in loader:                       # large batches with ids
        batch = selector(model, batch)         # the examples worth a step, same structure
        loss = criterion(model(batch.x), batch.y)
"""

from rho_train.agreement import AgreementSampler
from rho_train.batch import Batch
from rho_train.checksums import find_duplicates
from rho_train.compare import compare
from rho_train.comparison.runner import JobsFailed
from rho_train.comparison.spec import EqualCost, Variant
from rho_train.dataset import IndexedDataset, fingerprint
from rho_train.history import History
from rho_train.il import (
    ILRecipe,
    ILStore,
    crossfit_il,
    holdout_il,
    input_checksums,
    pretrained_il,
    score_examples,
)
from rho_train.linear import LinearScores, linear_cross_entropy, linear_score
from rho_train.methods.registry import register
from rho_train.online import OnlineModel
from rho_train.planning import plan
from rho_train.progress import Stopped
from rho_train.sampler import LargeBatchSampler, loader
from rho_train.scoring import Scoring
from rho_train.selector import Selector
from rho_train.sequences import sequence_losses
from rho_train.tasks.task import Task
from rho_train.tokens import TokenSelection, select_tokens, token_losses
from rho_train.trainer import TrainConfig, Trainer
from rho_train.training_step import gce_losses
from rho_train.vocabulary_parallel import vocabulary_parallel_score
from rho_train.wrong_labels import find_wrong_labels

__all__ = ["AgreementSampler", "Batch", "EqualCost", "History", "ILRecipe", "ILStore"]
__all__ += ["IndexedDataset", "JobsFailed", "LargeBatchSampler", "LinearScores", "OnlineModel"]
__all__ += ["Scoring", "Selector", "Stopped", "Task", "TokenSelection", "TrainConfig", "Trainer"]
__all__ += ["Variant", "compare", "crossfit_il", "find_duplicates", "find_wrong_labels"]
__all__ += ["fingerprint", "gce_losses", "holdout_il", "input_checksums", "linear_cross_entropy"]
__all__ += ["linear_score", "loader", "plan", "pretrained_il", "register", "score_examples"]
__all__ += ["select_tokens", "sequence_losses", "token_losses", "vocabulary_parallel_score"]
