"""The report of a comparison: read its folder, summarise, draw, write one page."""

from rho_train.report.experiment import Experiment, pair, read_experiment
from rho_train.report.page import write_report

__all__ = ["Experiment", "pair", "read_experiment", "write_report"]
