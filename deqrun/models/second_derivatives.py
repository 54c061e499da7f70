"""Convolution and group norm whose backward pass is cheap to differentiate, for Jacobian penalties.

A penalty on ‖Jᵀu‖² differentiates a backward pass. PyTorch's own second derivative of a convolution takes the weight's
part by a convolution whose kernel is as large as the image, and its second derivative of a group norm is a chain of
some thirty operators. Here both are closed forms of few operators; values and first derivatives are PyTorch's kernels.
They are used within `deqrun.gradients.twice.twice_differentiable` alone: elsewhere PyTorch's own nodes know which
gradients are asked for. There, a backward pass that is recorded itself (`create_graph`) gives gradients by states and
none by weights; a pass that is not recorded gives all.
`scripts/training_speed.py` measures the difference.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from deqrun.gradients.twice import is_twice_differentiable

__all__ = ["Conv2d", "GroupNorm", "convolve", "normalise_groups"]


def convolve(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv1d` or `conv2d` without a bias: (batch, in, …), (out, in, …) -> (batch, out, …)."""
    if _recorded(x):
        result: Tensor = _Convolution.apply(x, weight, stride, padding)
        return result
    return _convolved(x, weight, stride, padding)


def normalise_groups(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """`torch.nn.functional.group_norm`: (batch, channels, …) -> the same shape.

    Within each sample and group, x̂ = (x − mean) / √(variance + ε), and y = weight · x̂ + bias by channel.
    Source: Wu & He 2018, Group Normalization (arXiv 1803.08494).
    """
    if _recorded(x):
        result: Tensor = _GroupNorm.apply(x, groups, weight, bias, epsilon)
        return result
    return F.group_norm(x, groups, weight, bias, epsilon)


def _recorded(x: Tensor) -> bool:
    return (
        is_twice_differentiable()
        and torch.is_grad_enabled()
        and x.requires_grad
        and not torch.is_autocast_enabled(x.device.type)
    )


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` without a bias, by `convolve`; of one stride and padding for both sides."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, H, W) -> (batch, out_channels, H', W')."""
        return convolve(x, self.weight, stride=self.stride[0], padding=int(self.padding[0]))


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` by `normalise_groups`."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, …) -> the same shape."""
        return normalise_groups(x, self.num_groups, self.weight, self.bias, self.eps)


def _convolved(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    convolution = F.conv1d if weight.dim() == 3 else F.conv2d
    return convolution(x, weight, stride=stride, padding=padding)


def _gradients(ctx: Any, y_bar: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> Any:
    """Of ⟨y_bar, x * weight⟩ by x and by the weight; None where not wanted."""
    n = weight.dim() - 2
    sizes = [ctx.stride] * n, [ctx.padding] * n, [1] * n
    return torch.ops.aten.convolution_backward(y_bar, x, weight, None, *sizes, False, [0] * n, 1, [*wanted, False])[:2]


class _Convolution(Function):
    """y = x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return _convolved(x, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _ConvolutionPull.apply(y_bar, weight, x.detach(), ctx.stride, ctx.padding), None, None, None
        return *_gradients(ctx, y_bar, x, weight, ctx.needs_input_grad[:2]), None, None


class _ConvolutionPull(Function):
    """x̄ = ȳ *ᵀ w, the gradient of ⟨ȳ, x * w⟩ by x; x gives its shape alone."""

    @staticmethod
    def forward(ctx: Any, y_bar: Tensor, weight: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(y_bar, weight)
        ctx.stride, ctx.padding = stride, padding
        x_bar: Tensor = _gradients(ctx, y_bar, x, weight, (True, False))[0]
        return x_bar

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        # ⟨u, ȳ *ᵀ w⟩ = ⟨ȳ, u * w⟩.
        y_bar, weight = ctx.saved_tensors
        by_y = _convolved(u, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        by_weight = _gradients(ctx, y_bar, u, weight, (False, True))[1] if ctx.needs_input_grad[1] else None
        return by_y, by_weight, None, None, None


class _GroupNorm(Function):
    """y = w x̂ + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        ctx.layout, ctx.groups = _layout(x), groups
        x = x.contiguous(memory_format=ctx.layout)
        y, mean, scale = torch.native_group_norm(x, weight, bias, *_sizes(x), groups, epsilon)
        ctx.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        y_bar = y_bar.contiguous(memory_format=ctx.layout)
        if torch.is_grad_enabled():
            return _GroupNormPull.apply(y_bar, x, weight, mean, scale, ctx.groups), None, None, None, None
        wanted = [ctx.needs_input_grad[place] for place in (0, 2, 3)]
        by_x, by_weight, by_bias = torch.ops.aten.native_group_norm_backward(
            y_bar, x, mean, scale, weight, *_sizes(x), ctx.groups, wanted
        )
        return by_x, None, by_weight, by_bias, None


class _GroupNormPull(Function):
    """x̄ = r P(h) with h = w ȳ, r = 1 / √(variance + ε), P(h) = h − mean(h) − x̂ mean(h x̂); means are over a group."""

    @staticmethod
    def forward(
        ctx: Any, y_bar: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, scale: Tensor, groups: int
    ) -> Tensor:
        ctx.save_for_backward(y_bar, x, weight, mean, scale)
        ctx.groups = groups
        x_bar: Tensor = torch.ops.aten.native_group_norm_backward(
            y_bar, x, mean, scale, weight, *_sizes(x), groups, [True, False, False]
        )[0]
        return x_bar

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        # P is symmetric, ∂x̂/∂x = r P and ∂r/∂x = −r² x̂ / m, with m the size of a group. So ⟨u, r P(h)⟩ has the
        # derivative r P(u) by h, and −r² (x̂ c + P(u b + h a)) by x, with a = mean(u x̂), b = mean(h x̂) and
        # c = mean(u P(h)). Both are sums of u, ȳ, x and 1 with a factor for each sample and channel: the factors come
        # from five sums over positions, so that no more passes over the tensors are needed.
        y_bar, x, weight, mean, scale = ctx.saved_tensors
        u = u.contiguous(memory_format=_layout(x))
        groups, width = ctx.groups, x.shape[1] // ctx.groups
        places = tuple(range(2, x.dim()))
        w = x.new_ones(x.shape[1]) if weight is None else weight

        def summed(value: Tensor) -> Tensor:
            """(batch, channels)"""
            return value.sum(places) if places else value

        def averaged(value: Tensor) -> Tensor:
            """(batch, channels) -> (batch, channels): the mean over the channel's group."""
            means = value.unflatten(1, (groups, width)).mean(2) / max(1, x[0, 0].numel())
            return means.repeat_interleave(width, dim=1)

        r, shift = scale.repeat_interleave(width, dim=1), mean.repeat_interleave(width, dim=1)
        u_sum, y_sum, ux, yx, uy = summed(u), summed(y_bar), summed(u * x), summed(y_bar * x), summed(u * y_bar)
        u_mean, h_mean = averaged(u_sum), averaged(y_sum * w)
        a, b = (averaged(ux) - shift * u_mean) * r, (averaged(yx * w) - shift * h_mean) * r
        c = averaged(uy * w) - u_mean * h_mean - a * b

        def combined(of_u: Tensor, of_y: Tensor | None, of_x_hat: Tensor, constant: Tensor) -> Tensor:
            """Σ factor · tensor, the factors (batch, channels)."""
            of_x = of_x_hat * r
            found = torch.addcmul(_spread(constant - of_x * shift, x), u, _spread(of_u, x)).addcmul_(
                x, _spread(of_x, x)
            )
            return found if of_y is None else found.addcmul_(y_bar, _spread(of_y, x))

        square = -r.square()
        by_x = combined(square * b, square * a * w, square * (c - 2 * a * b), -square * (u_mean * b + h_mean * a))
        by_y = combined(r * w, None, -r * a * w, -r * u_mean * w)
        by_weight = None
        if weight is not None and ctx.needs_input_grad[2]:
            by_weight = (r * (uy - a * (yx - shift * y_sum) * r - u_mean * y_sum)).sum(0)
        return by_y, by_x, by_weight, None, None, None


def _spread(factor: Tensor, x: Tensor) -> Tensor:
    """(batch, channels), to be multiplied with x (batch, channels, …)."""
    return factor.view(*factor.shape, *[1] * (x.dim() - 2))


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Batch, channels, positions."""
    return len(x), x.shape[1], x[0, 0].numel()


def _layout(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
