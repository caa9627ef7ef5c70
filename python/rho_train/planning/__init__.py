"""What selection costs a step here, before a run: the options of scoring, measured."""

from rho_train.planning.plan import Plan, PlanRow
from rho_train.planning.run import plan

__all__ = ["Plan", "PlanRow", "plan"]
