"""Does the map contract, where it is used? Rates from residuals, ratios of distances, and the spectrum on the way.

Three views of one question, from what was seen to what would follow: the rate at which residuals fell, the factors by
which f brought pairs of states together, and ρ(J) and ‖J‖₂ of its Jacobian. ‖J‖₂ < 1 around the fixed point is why
Banach's theorem would have it converge; ρ(J) < 1 alone is enough from nearby, and errors may grow before they shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.products import Map
from deqrun.analysis.spectrum import spectral_norm, spectral_radius
from deqrun.solvers.device import widened

__all__ = [
    "Behaviour",
    "LocalSpectrum",
    "behaviour",
    "convergence_rate",
    "lipschitz_along",
    "lipschitz_ratios",
    "spectrum_along",
]


def convergence_rate(
    residual: NDArray[Any], *, window: int = 10, floor: float = 1e-6, least: int = 3
) -> NDArray[np.float64]:
    """(n,) factor per iterate by which the residual fell in the end; below 1 it shrank. NaN where it cannot be told.

    exp of the median slope, over all pairs i < j among the last `window` + 1 iterates before the rounding floor, of
    (ln r_j − ln r_i) / (j − i): Theil's estimator (Theil 1950; Sen 1968), which single spikes, as accelerated solvers
    have, do not move. Exact where r_k = c qᵏ. Of plain iteration it tends to ρ(∂f/∂z) as the window moves on.

    residual  (T+1, n), NaN after a row stopped
    window    steps to look back on, >= 1
    floor     a residual at or below it is rounding, and neither it nor any later one counts. The default is about ten
              times the rounding of float32; of float64 solves give 1e-14.
    least     iterates that there must be, >= 2

    Residuals that are 0 or not finite don't count. Raises ValueError for a window < 1 or least < 2.
    """
    if window < 1 or least < 2:
        raise ValueError(f"window must be at least 1 and least at least 2, got {window} and {least}.")
    values = np.asarray(residual, dtype=np.float64)
    below = (values <= floor) | np.isnan(values)
    end = np.where(below.any(axis=0), below.argmax(axis=0), len(values))  # (n,) iterates before the floor
    places = end[None] - 1 - np.arange(min(window, len(values) - 1) + 1)[::-1, None]  # (W+1, n) ascending
    known = places >= 0
    tail = np.take_along_axis(values, places.clip(0), axis=0)
    logs = np.where(known & np.isfinite(tail) & (tail > 0), np.log(np.where(tail > 0, tail, 1.0)), np.nan)
    rate = np.exp(_median_slope(logs))
    return np.where(np.isfinite(logs).sum(axis=0) >= least, rate, np.nan)


def _median_slope(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) median over pairs i < j of (v_j − v_i) / (j − i) of (W, n); pairs with NaN don't count."""
    first, second = np.triu_indices(len(values), k=1)
    slopes = (values[second] - values[first]) / (second - first)[:, None]
    out = np.full(values.shape[1], np.nan)
    some = np.isfinite(slopes).any(axis=0)
    out[some] = np.nanmedian(np.where(np.isfinite(slopes), slopes, np.nan)[:, some], axis=0)
    return out


@torch.no_grad()
def lipschitz_ratios(f: Map, a: Tensor, b: Tensor) -> Tensor:
    """‖f(a) − f(b)‖₂ / ‖a − b‖₂ of each row of (batch, …): (batch,) float64 on the CPU; NaN where a = b.

    A lower bound on f's Lipschitz constant over any convex set that holds both: one ratio above 1 says that f is no
    contraction there in this norm.
    """
    return _ratio(f(a), f(b), a, b)


@torch.no_grad()
def lipschitz_along(f: Map, states: Sequence[Tensor], others: Sequence[Tensor] | None = None) -> Tensor:
    """`lipschitz_ratios` of pairs along the way: (pairs, batch) float64 on the CPU.

    states  iterates (batch, …) of one trajectory
    others  as many of another, such as one from another start: pairs are (states[k], others[k]). None: pairs are
            neighbours, (states[k], states[k+1]), and f is evaluated once at each.

    Raises ValueError where there is no pair.
    """
    count = len(states) - 1 if others is None else len(states)
    if count < 1 or (others is not None and len(others) != len(states)):
        raise ValueError(
            f"lipschitz_along needs two states, or as many of both trajectories, got {len(states)}"
            + (f" and {len(others)}." if others is not None else ".")
        )
    values = [f(z) for z in states]
    if others is None:
        pairs = zip(values, values[1:], states, states[1:], strict=False)
    else:
        pairs = zip(values, [f(z) for z in others], states, others, strict=True)
    return torch.stack([_ratio(*pair) for pair in pairs])


def _ratio(fa: Tensor, fb: Tensor, a: Tensor, b: Tensor) -> Tensor:
    before, after = (
        torch.linalg.vector_norm(widened((x - y).flatten(1)), dim=1).cpu().double() for x, y in ((a, b), (fa, fb))
    )
    return (after / before).masked_fill(before == 0, torch.nan)


@dataclass(frozen=True, eq=False)
class LocalSpectrum:
    """ρ(J) and ‖J‖₂ of J = ∂f/∂z at S states of each sample, and how far they are to be trusted.

    radius, norm              (S, batch) float64; NaN where not finite
    radius_error, norm_error  (S, batch) error indicators, as `deqrun.analysis.spectrum` defines them
    """

    radius: Tensor
    norm: Tensor
    radius_error: Tensor
    norm_error: Tensor


def spectrum_along(
    f: Map, states: Sequence[Tensor], *, radius_iterations: int = 60, norm_iterations: int = 20
) -> LocalSpectrum:
    """Spectral radius and norm at each of the states (batch, …), such as iterates on the way and the last one.

    Costs 2 evaluations, `radius_iterations` + `norm_iterations` products Jᵀu and `norm_iterations` Jv per state.
    """
    radii = [spectral_radius(f, z, iterations=radius_iterations) for z in states]
    norms = [spectral_norm(f, z, iterations=norm_iterations) for z in states]
    return LocalSpectrum(
        radius=torch.stack([one.value for one in radii]),
        norm=torch.stack([one.value for one in norms]),
        radius_error=torch.stack([one.error for one in radii]),
        norm_error=torch.stack([one.error for one in norms]),
    )


class Behaviour(IntEnum):
    """How small errors behave by ρ(J) and ‖J‖₂; `sentence` is for a person to read."""

    CONTRACTS = 0
    SETTLES = 1
    REPELS = 2
    UNKNOWN = 3

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Behaviour.CONTRACTS: "‖J‖₂ < 1: every small error shrinks at every step.",
    Behaviour.SETTLES: "ρ(J) < 1 ≤ ‖J‖₂: errors shrink in the long run, and some grow first.",
    Behaviour.REPELS: "ρ(J) ≥ 1: plain iteration leaves it, or does not get nearer.",
    Behaviour.UNKNOWN: "The Jacobian is not finite there.",
}


def behaviour(radius: Tensor, norm: Tensor) -> Tensor:
    """Codes of Behaviour, uint8, of any shape that radius and norm share.

    Shares are means of `behaviour(…) == Behaviour.SETTLES`, and can be bootstrapped over samples. The estimated norm
    never exceeds the true one, so a norm above 1 is one; where it is estimated just below 1 look at its error. Where
    rounding puts ρ above ‖J‖₂ < 1, which it cannot be, ‖J‖₂ decides.
    """
    codes = torch.full(norm.shape, int(Behaviour.REPELS), dtype=torch.uint8)
    codes[radius < 1] = int(Behaviour.SETTLES)
    codes[norm < 1] = int(Behaviour.CONTRACTS)
    codes[radius.isnan() | norm.isnan()] = int(Behaviour.UNKNOWN)
    return codes
