"""Irreducible losses (IL): computing and storing them."""

from rho_train.checksums import input_checksums
from rho_train.il.compute import crossfit_il, holdout_il, pretrained_il
from rho_train.il.score import score_examples
from rho_train.il.store import ILStore
from rho_train.il.train import ILRecipe, train_il

__all__ = ["ILRecipe", "ILStore", "crossfit_il", "holdout_il", "input_checksums", "pretrained_il"]
__all__ += ["score_examples", "train_il"]
