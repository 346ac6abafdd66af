"""Synchronised batch norm: mean and variance of the batch of all processes, where each process holds a share of it.

With n_r values per channel in process r, of mean m_r and variance v_r, and all sums over r,

    N   = sum n_r          mu  = sum n_r m_r / N          v = sum n_r (v_r + m_r^2) / N - mu^2
    y   = gamma * (x - mu) / s + beta                     s = sqrt(v + eps)
    dx  = gamma / s * (dy - sum dy / N - (x - mu) / s^2 * sum(dy * (x - mu)) / N)

One all-reduce of 2C + 1 float64 numbers forward and one of 2C backward. The gradients of gamma and beta stay those of the share:
they are summed with all others. Ioffe and Szegedy, Batch Normalization, 2015, algorithm 1, of which dx is the derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgekit.errors import ModelError
from edgekit.models import batchnorm

Sum: TypeAlias = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes, which each of them calls."""


class SynchronisedNorms(TorchFunctionMode):
    """While it is entered, every batch norm in training mode is of the batch of all processes, ``sum_of`` being their sum.

    Functions are replaced and not modules: ``nn.BatchNorm1d`` to ``3d``, what others derive from them, and edgekit's own come
    down to two functions, and the model, its state and its hash stay as they are. ``on_cuda`` takes the place of
    ``nn.BatchNorm``'s on CUDA, where PyTorch has kernels for it.
    """

    def __init__(self, sum_of: Sum, on_cuda: Callable[..., Tensor]) -> None:
        super().__init__()
        self._sum, self._on_cuda = sum_of, on_cuda

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, or what stands in for it."""
        stand_ins: dict[Any, Callable[..., Tensor]] = {
            functional.batch_norm: self._of_pytorch,
            batchnorm.batch_norm: self._of_edgekit,
        }
        stand_in: Callable[..., Any] = stand_ins.get(func, func)
        return stand_in(*args, **(kwargs or {}))

    def _of_pytorch(  # noqa: PLR0913 - the parameters of torch.nn.functional.batch_norm
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        if input.is_cuda:
            return self._on_cuda(input, weight, bias, running_mean, running_var, eps, momentum)
        parameters = (input, weight, bias, running_mean, running_var)
        return synchronised(*parameters, momentum=momentum, eps=eps, sum_of=self._sum)  # type: ignore[no-any-return]

    def _of_edgekit(  # noqa: PLR0913 - the parameters of edgekit.models.batchnorm.batch_norm
        self,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        *,
        training: bool,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return batchnorm.batch_norm(x, gamma, beta, running_mean, running_var, training=False, eps=eps)
        parameters = (x, gamma, beta, running_mean, running_var)
        return synchronised(*parameters, momentum=momentum, eps=eps, sum_of=self._sum)  # type: ignore[no-any-return]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def synchronised(  # noqa: PLR0913 - the parameters of the formula
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    momentum: float,
    eps: float,
    sum_of: Sum,
) -> Tensor:
    """Normalise a share ``x``, N x C x ..., of the batch; the four parameters have shape C or are None.

    Running statistics are updated in place, outside the autograd graph. The compiler breaks its graph here: it cannot trace what
    processes say to each other. Raises ModelError where the whole batch has a single value per channel.
    """
    y, mean, variance, count = _Synchronised.apply(x, gamma, beta, eps, sum_of)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    return cast(Tensor, y)


class _Synchronised(torch.autograd.Function):
    """The formulas above; statistics are float64, passes over x are in its dtype, of at least float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float, sum_of: Sum) -> tuple[Tensor, ...]:
        values = _wide(x)
        variance, mean = (each.double() for each in torch.var_mean(values, _axes(x), correction=0))
        own = x.numel() // x.shape[1]
        sums = sum_of(torch.cat((mean.new_full((1,), own), own * mean, own * (variance + mean**2))))
        count, (total, squares) = sums[0], sums[1:].view(2, -1)
        if count < 2:
            raise ModelError("batch norm needs more than one value per channel in training", "use a larger batch")
        mean = total / count
        variance = (squares / count - mean**2).clamp_(min=0)
        scale = torch.rsqrt(variance + eps) if gamma is None else gamma.double() * torch.rsqrt(variance + eps)
        shift = -mean * scale if beta is None else beta.double() - mean * scale
        y = torch.addcmul(_by_channel(shift, values), values, _by_channel(scale, values)).to(x.dtype)
        ctx.save_for_backward(x, gamma, mean, variance + eps, count)
        ctx.sum_of = sum_of
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, mean, square, count = ctx.saved_tensors
        slope, centred = _wide(dy), _wide(x) - _by_channel(mean, _wide(x))
        total, moment = slope.sum(_axes(x)).double(), (slope * centred).sum(_axes(x)).double()
        of_channels = moment * torch.rsqrt(square), total
        dx = None
        if ctx.needs_input_grad[0]:
            slopes, moments = ctx.sum_of(torch.cat((total, moment))).view(2, -1) / count
            scale = torch.rsqrt(square) if gamma is None else gamma.double() * torch.rsqrt(square)
            dx = slope - _by_channel(slopes, slope) - centred * _by_channel(moments / square, slope)
            dx = (dx * _by_channel(scale, slope)).to(x.dtype)
        d_gamma, d_beta = (
            part.to(slope.dtype) if wanted else None for part, wanted in zip(of_channels, ctx.needs_input_grad[1:3], strict=True)
        )
        return dx, d_gamma, d_beta, None, None


def _axes(x: Tensor) -> list[int]:
    """All but that of the channels."""
    return [0, *range(2, x.dim())]


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float64 else x.float()


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(1, -1, *[1] * (like.dim() - 2))
