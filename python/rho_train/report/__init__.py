"""The report of an experiment: read its folder, summarise, draw, write one page."""

from rho_train.report.compare import compare, format_comparison
from rho_train.report.outcomes import read_outcomes
from rho_train.report.page import write_report
from rho_train.report.read import Experiment, read_experiment
from rho_train.report.summary import Summary, summarize
from rho_train.report.table import format_table

__all__ = [
    "Experiment",
    "Summary",
    "compare",
    "format_comparison",
    "format_table",
    "read_experiment",
    "read_outcomes",
    "summarize",
    "write_report",
]
