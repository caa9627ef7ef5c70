"""Irreducible losses: the models that give them and the store that keeps them."""

from rho_train.il.models import ILRecipe, crossfit_il, fit_il, holdout_il, score_points
from rho_train.il.store import ILStore

__all__ = ["ILRecipe", "ILStore", "crossfit_il", "fit_il", "holdout_il", "score_points"]
