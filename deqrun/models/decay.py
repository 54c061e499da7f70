"""Which parameters weight decay is for."""

from __future__ import annotations

from torch import nn

from deqrun.models.weight_norm import WeightNorm

__all__ = ["split_by_decay"]


def split_by_decay(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """(parameters that weight decay shrinks, parameters that it leaves alone), by name and in the model's order.

    Left alone are parameters of at most one dimension, which are biases and the scales of norms, and the gains of
    weight normalisation, whatever their shape: each of their numbers scales or shifts a whole feature, and shrinking it
    regularises nothing. Gains are known in `WeightNorm` and in `torch.nn.utils.parametrizations.weight_norm`.
    """
    gains = {id(module.gain) for module in model.modules() if isinstance(module, WeightNorm)}
    for module in model.modules():
        for parametrization in getattr(module, "parametrizations", {}).values():
            if any(type(part).__name__ == "_WeightNorm" for part in parametrization):
                gains.add(id(parametrization.original0))
    decays: dict[str, nn.Parameter] = {}
    others: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        (others if parameter.dim() <= 1 or id(parameter) in gains else decays)[name] = parameter
    return decays, others
