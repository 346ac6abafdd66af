"""Norms behind means, with and without the axes that they average over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekit.fold import fold
from tests.fold.checks import spec
from tests.networks import randomise_norms


class Pooled(nn.Module):
    """A convolution, the mean of each channel with its axes kept, and a norm."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.convolution, self.keepdim = nn.Conv2d(4, 6, 3), keepdim
        self.norm = nn.BatchNorm2d(6) if keepdim else nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.convolution(x).mean((2, 3), keepdim=self.keepdim))
        return pooled


def test_a_norm_behind_a_mean_that_keeps_its_axes_folds_into_the_layer_before() -> None:
    for keepdim in (True, False):
        model = randomise_norms(Pooled(keepdim)).eval()
        graph, report = fold(model, spec(4, 8, 8))
        assert len(report.folded) == 1, report.kept
        x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)
