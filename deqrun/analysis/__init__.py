"""From maps and recorded trajectories to quantities, per sample.

Of maps: `spectrum` (exported here), `contraction`, `path_independence`, `perturbation`, `fates`. Of trajectories:
`halting` with the `signals` it goes by, `breadth`, and again `fates` and `contraction`. Of both: `cost`.
"""

from deqrun.analysis.products import Jacobian
from deqrun.analysis.spectrum import Estimate, SpectralRadius, jacobian_frobenius, spectral_norm, spectral_radius

__all__ = ["Estimate", "Jacobian", "SpectralRadius", "jacobian_frobenius", "spectral_norm", "spectral_radius"]
