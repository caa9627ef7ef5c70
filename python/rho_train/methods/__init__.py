"""Methods of selection: the built-in ones, their input and output, and their registry."""

from rho_train.methods.context import Method, ScoringContext, Selected
from rho_train.methods.registry import names, needs_of, register, unregister

__all__ = ["Method", "ScoringContext", "Selected"]
__all__ += ["names", "needs_of", "register", "unregister"]
