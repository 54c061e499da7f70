"""The cells f(z; x), and the deep equilibrium model that solves them."""

from deqrun.models.adapted import AdaptedCell
from deqrun.models.cell import BoundCell, Cell, as_injection
from deqrun.models.conv import ConvCell
from deqrun.models.decay import split_by_decay
from deqrun.models.deq import DEQ
from deqrun.models.describe import BaselineDescription, CellDescription, describe, describe_baseline
from deqrun.models.eqr import EqRCell
from deqrun.models.fprm import FPRMCell
from deqrun.models.looped_lm import LoopedLMCell
from deqrun.models.mdeq import MDEQCell
from deqrun.models.mlp import MLPCell
from deqrun.models.monotone import MonotoneCell, MonotoneConvCell
from deqrun.models.recall import RecallCell
from deqrun.models.transformer import TransformerCell
from deqrun.models.trm import TRMCell
from deqrun.models.untied import UntiedCell, untied_baseline

__all__ = [
    "DEQ",
    "AdaptedCell",
    "BaselineDescription",
    "BoundCell",
    "Cell",
    "CellDescription",
    "ConvCell",
    "EqRCell",
    "FPRMCell",
    "LoopedLMCell",
    "MDEQCell",
    "MLPCell",
    "MonotoneCell",
    "MonotoneConvCell",
    "RecallCell",
    "TRMCell",
    "TransformerCell",
    "UntiedCell",
    "as_injection",
    "describe",
    "describe_baseline",
    "split_by_decay",
    "untied_baseline",
]
