"""Batch normalisation written out from its formulas (Ioffe and Szegedy, 2015, algorithms 1 and 2).

Over the axes D that are not the channel axis, with n values per channel,

    training:   mu  = mean_D(x)         v = mean_D((x - mu)^2)
                y   = gamma * (x - mu) / sqrt(v + eps) + beta
                running_mean <- (1 - m) * running_mean + m * mu
                running_var  <- (1 - m) * running_var  + m * v * n / (n - 1)
    inference:  y   = gamma * (x - running_mean) / sqrt(running_var + eps) + beta

Both are computed as y = s x + t with s = gamma / sqrt(v + eps) and t = beta - mu s, as PyTorch's own kernel does; this takes one
pass over x less. The momentum m is PyTorch's (0.1 keeps 90 % of the old value), and the running variance is the unbiased one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._C import _is_torch_function_mode_enabled
from torch.overrides import handle_torch_function, has_torch_function_unary

from edgekit.errors import ModelError


def batch_norm(
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
    """Normalise ``x`` of shape N x C or N x C x H x W per channel; the four parameters have shape C.

    In training the running statistics are updated in place, outside the autograd graph.
    Raises ModelError for other ranks, and in training for a single value per channel, whose variance is undefined.
    """
    # As PyTorch's own functions do, so that training on several processes can take its place; torch.compile answers the first
    # question by x alone, and sees a mode by the second.
    if has_torch_function_unary(x) or _is_torch_function_mode_enabled():
        return handle_torch_function(  # type: ignore[no-any-return]
            batch_norm,
            (x,),
            *(x, gamma, beta, running_mean, running_var),
            training=training,
            momentum=momentum,
            eps=eps,
        )
    if x.dim() not in (2, 4):
        raise ModelError(f"batch norm takes N x C or N x C x H x W, got {x.dim()} axes", "reshape the input")
    axes, shape = ([0], (1, -1)) if x.dim() == 2 else ([0, 2, 3], (1, -1, 1, 1))
    if training:
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ModelError("batch norm needs more than one value per channel in training", "use a larger batch")
        variance, mean = torch.var_mean(x, axes, correction=0)
        with torch.no_grad():
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            running_var.lerp_(variance.detach().to(running_var.dtype) * (count / (count - 1)), momentum)
    else:
        mean, variance = running_mean, running_var
    scale = gamma / torch.sqrt(variance + eps)
    shift = beta - mean * scale
    return x * scale.view(shape) + shift.view(shape)


class BatchNorm(nn.Module):
    """``batch_norm`` as a layer; the state has the names and shapes of ``nn.BatchNorm2d``, so weights are interchangeable."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N x C or N x C x H x W per channel; the shape stays the same."""
        if self.training:
            self.num_batches_tracked.add_(1)
        return batch_norm(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        """The arguments that ``print(model)`` shows."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
