"""The methods of selection, one file a family, and their registry."""

from rho_train.methods.classes import ClassQuota, Reducr
from rho_train.methods.context import Method, ScoringContext, Selected
from rho_train.methods.dropout import MonteCarlo
from rho_train.methods.fused import Fused
from rho_train.methods.registry import names, needs_of, register, unregister
from rho_train.methods.sampling import Boltzmann, GradNormSampling, SelectiveBackprop

__all__ = [
    "Boltzmann",
    "ClassQuota",
    "Fused",
    "GradNormSampling",
    "Method",
    "MonteCarlo",
    "Reducr",
    "ScoringContext",
    "Selected",
    "SelectiveBackprop",
    "names",
    "needs_of",
    "register",
    "unregister",
]
