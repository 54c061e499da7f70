"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Average of a model's parameters and floating-point buffers over the steps of training.

        w̄_t = Σ_{i=1..t} d^(t−i) w_i / Σ_{i=1..t} d^(t−i),    w_i after step i, d the decay

    The weights sum to 1 at every t, so the start is corrected: the initial weights have no part, w̄_1 = w_1, and the
    average is over about 1 / (1 − d) steps later. Computed as w̄_t = w̄_{t−1} + (1 − d) / (1 − d^t) (w_t − w̄_{t−1}); the
    correction is Adam's (Kingma & Ba 2015, arXiv 1412.6980, section 3). Other buffers are the present ones.
    """

    def __init__(self, decay: float, model: nn.Module) -> None:
        self.decay, self.model = decay, model
        self._averages = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after this step, counted from 1."""
        # The weight of the newest step is larger at first, so that the initial weights leave no trace.
        weight = (1 - self.decay) / (1 - self.decay**step)
        for name, tensor in self.model.state_dict().items():
            average = self._averages[name]
            if tensor.is_floating_point():
                average.lerp_(tensor, weight)
            else:
                average.copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averages; afterwards, its own weights again, to the last bit."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self._put(self._averages)
        try:
            yield
        finally:
            try:
                self._put(own)
            except KeyboardInterrupt:  # a second Ctrl-C: half of the weights would be the averages
                self._put(own)
                raise

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of the model's state."""
        return self._averages

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's averages."""
        for name, average in self._averages.items():
            average.copy_(state[name])
