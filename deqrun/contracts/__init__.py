"""Try a cell or a data set on a few samples: one sentence for each fault."""

from deqrun.contracts.cell_contract import CELL_CHECKS, check_cell
from deqrun.contracts.data_contract import DATA_CHECKS, check_data
from deqrun.contracts.finding import Finding

__all__ = ["CELL_CHECKS", "DATA_CHECKS", "Finding", "check_cell", "check_data"]
