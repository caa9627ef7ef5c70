"""The methods of selection that come with the package, one file a family."""

from rho_train.selection.methods.classes import ClassQuota, Reducr
from rho_train.selection.methods.dropout import MonteCarlo
from rho_train.selection.methods.fused import Fused
from rho_train.selection.methods.sampling import (
    Boltzmann,
    GradNormSampling,
    SelectiveBackprop,
    uniform,
)

__all__ = [
    "Boltzmann",
    "ClassQuota",
    "Fused",
    "GradNormSampling",
    "MonteCarlo",
    "Reducr",
    "SelectiveBackprop",
    "uniform",
]
