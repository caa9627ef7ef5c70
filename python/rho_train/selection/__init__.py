"""Choosing the small batch out of the large batch."""

from rho_train.selection.selector import METHODS, LastSelection, Selector

__all__ = ["METHODS", "LastSelection", "Selector"]
