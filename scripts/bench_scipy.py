"""scipy.optimize's Anderson mixing as a run of the benchmark."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import linalg, optimize
from torch import Tensor


def scipy_anderson(f: Callable[[Tensor], Tensor], z0: Tensor, steps: int, memory: int) -> Callable[[], object]:
    """`steps` steps on the whole batch flattened into one problem, whose coefficients all rows then share.

    That is what scipy solves; row by row it would take one such call, and its evaluations of f, for each row.
    """
    start = z0.numpy().ravel()

    def residual(z: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(z.astype(np.float32)).view_as(z0)
        found: np.ndarray = (f(given) - given).numpy().ravel()
        return found

    def run() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", linalg.LinAlgWarning)  # once converged, its differences are dependent
            return optimize.anderson(residual, start, M=memory, iter=steps, line_search=None)

    return run
