"""The cost of a training step with selection, measured before a run is paid for."""

from rho_train.planning.measure import RATIOS, plan
from rho_train.planning.plan import Plan, PlanRow

__all__ = ["RATIOS", "Plan", "PlanRow", "plan"]
