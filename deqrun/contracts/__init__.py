"""Tries a cell or a data set on a few samples, and says in a sentence each what it does wrong."""

from deqrun.contracts.cell_contract import CELL_CHECKS, check_cell
from deqrun.contracts.data_contract import DATA_CHECKS, check_data
from deqrun.contracts.finding import Finding

__all__ = ["CELL_CHECKS", "DATA_CHECKS", "Finding", "check_cell", "check_data"]
