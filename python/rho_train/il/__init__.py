"""Irreducible losses: the models that give them and the store that keeps them."""

from rho_train.il.average import average_il
from rho_train.il.control import control_points
from rho_train.il.fit import fit_il
from rho_train.il.models import crossfit_il, holdout_il, pretrained_il
from rho_train.il.recipe import ILRecipe
from rho_train.il.score import score_points
from rho_train.il.shards import ILShards, save_shards
from rho_train.il.store import ILStore

__all__ = [
    "ILRecipe",
    "ILShards",
    "ILStore",
    "average_il",
    "control_points",
    "crossfit_il",
    "fit_il",
    "holdout_il",
    "pretrained_il",
    "save_shards",
    "score_points",
]
