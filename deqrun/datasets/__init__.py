"""Real and generated data, each with its three splits and its own meaning of "correct"."""

from deqrun.datasets.dataset import IGNORED, SPLITS, Dataset, DataUnavailable, Split, stratified_split
from deqrun.datasets.digits import Digits

__all__ = ["IGNORED", "SPLITS", "DataUnavailable", "Dataset", "Digits", "Split", "stratified_split"]
