"""The report of a comparison: read its folder, summarise, draw, write one page."""

from rho_train.report.page import write_report
from rho_train.report.read import Experiment, read_experiment
from rho_train.report.summary import Summary, pair, summarize

__all__ = ["Experiment", "Summary", "pair", "read_experiment", "summarize", "write_report"]
