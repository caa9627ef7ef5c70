"""Choosing the small batch out of the large batch."""

from rho_train.selection.ahead import Ahead
from rho_train.selection.candidates import Candidates, Chosen, Method
from rho_train.selection.history import History
from rho_train.selection.methods import (
    Boltzmann,
    ClassQuota,
    Fused,
    GradNormSampling,
    MonteCarlo,
    Reducr,
    SelectiveBackprop,
)
from rho_train.selection.online import OnlineModel
from rho_train.selection.paper import paper_mode
from rho_train.selection.registry import names, needs_of, register, unregister
from rho_train.selection.schedules import Geometric, Linear, Schedule, UniformPhases
from rho_train.selection.scorer import Scoring
from rho_train.selection.selector import LastSelection, Selector
from rho_train.selection.svp import coreset

__all__ = [
    "Ahead",
    "Boltzmann",
    "Candidates",
    "Chosen",
    "ClassQuota",
    "Fused",
    "Geometric",
    "GradNormSampling",
    "History",
    "LastSelection",
    "Linear",
    "Method",
    "MonteCarlo",
    "OnlineModel",
    "Reducr",
    "Schedule",
    "Scoring",
    "SelectiveBackprop",
    "Selector",
    "UniformPhases",
    "coreset",
    "names",
    "needs_of",
    "paper_mode",
    "register",
    "unregister",
]
