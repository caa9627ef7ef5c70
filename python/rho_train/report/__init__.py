"""The report of comparisons: read their folders, summarise, draw, write one page."""

from rho_train.report.page import write_report
from rho_train.report.read import MAX_METHODS, Experiment, read_experiment
from rho_train.report.summary import Summary, summarize
from rho_train.report.table import format_table

__all__ = [
    "MAX_METHODS",
    "Experiment",
    "Summary",
    "format_table",
    "read_experiment",
    "summarize",
    "write_report",
]
