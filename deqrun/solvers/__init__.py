"""Fixed points of any map: one loop, and solvers that are an `init` and a `step`.

>>> import torch
>>> from deqrun.solvers import Anderson, Budget, solve
>>> solution = solve(torch.cos, torch.zeros(3, 1, dtype=torch.float64), solver=Anderson(), budget=Budget(50, 1e-12))
>>> round(solution.z[0].item(), 9)
0.739085133
"""

from deqrun.solvers.anderson import Anderson
from deqrun.solvers.broyden import Broyden
from deqrun.solvers.damped import Damped
from deqrun.solvers.layers import Layers
from deqrun.solvers.loop import solve
from deqrun.solvers.newton import NewtonKrylov
from deqrun.solvers.noisy import Noisy
from deqrun.solvers.perturbed import Perturbed
from deqrun.solvers.picard import Picard
from deqrun.solvers.precision import PrecisionWarning
from deqrun.solvers.secant import Secant
from deqrun.solvers.solution import Budget, Solution, Status
from deqrun.solvers.solver import Point, Solver, SolverState
from deqrun.solvers.splitting import Constants, ForwardBackward, PeacemanRachford, SplitMap

__all__ = [
    "Anderson",
    "Broyden",
    "Budget",
    "Constants",
    "Damped",
    "ForwardBackward",
    "Layers",
    "NewtonKrylov",
    "Noisy",
    "PeacemanRachford",
    "Perturbed",
    "Picard",
    "Point",
    "PrecisionWarning",
    "Secant",
    "Solution",
    "Solver",
    "SolverState",
    "SplitMap",
    "Status",
    "solve",
]
