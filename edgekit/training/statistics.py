"""Batch norm's running statistics, which inference uses: do they fit the trained weights, and if not, measured anew.

Running statistics are a moving average over the last steps. After few steps they still hold their initial values, and with a high
learning rate those of weights that are no longer there. The network is then right in training mode and wrong in inference mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from edgekit.progress import SILENT, Progress
from edgekit.reports.train import NOTICEABLE, StatisticsReport
from edgekit.training.batches import Batches, batch_count

COMPARED = 1024
"""Both modes are compared on as many training pictures."""
MEASURED = 20_000
"""Statistics are measured on as many training pictures."""


class _Norm(nn.Module):
    """What a batch norm has, PyTorch's or another."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float | None


class Sample(NamedTuple):
    """Training pictures in an order of their own, in batches as they are trained in."""

    batches: Batches
    parts: tuple[Tensor, ...]
    progress: Progress

    @classmethod
    def of(cls, batches: Batches, batch_size: int, count: int, seed: int, progress: Progress = SILENT) -> Sample:
        """``count`` pictures, or all: a random sample, since neighbours in the data are of one class."""
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))[:count]
        parts = torch.tensor_split(order.to(batches.labels.device), batch_count(len(order), batch_size))
        return cls(batches, parts, progress)

    def taken(self, title: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures and labels of one batch after the other, under a bar of this title."""
        with self.progress.task(title, len(self.parts)) as advance:
            for index in self.parts:
                yield self.batches.take(index)
                advance(1, "")


@torch.no_grad()
def make_fit(
    model: nn.Module, batches: Batches, batch_size: int, seed: int, progress: Progress = SILENT, *, averaged: bool = False
) -> StatisticsReport | None:
    """Compare training and inference mode, and measure the running statistics anew where inference mode is noticeably worse.

    So they are for weights that are ``averaged``, which no batch has seen. The new statistics, averages over one pass with the
    weights as they are, are kept only where they help. Norms whose parameters stand still keep theirs. None for a model without
    batch norm that was trained. The model is left in inference mode.
    """
    norms = [cast(_Norm, module) for module in model.modules() if _has_statistics(module)]
    if not norms:
        return None
    model.eval()
    sample = Sample.of(batches, batch_size, COMPARED, seed, progress)
    with _kept(norms), _training(norms):
        training = _accuracy(model, sample)
    inference = _accuracy(model, sample)
    if inference >= training - NOTICEABLE and not averaged:
        return StatisticsReport(training, inference)
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    _measure(model, norms, Sample.of(batches, batch_size, MEASURED, seed, progress))
    remeasured = _accuracy(model, sample)
    if remeasured < inference or (remeasured == inference and not averaged):
        for norm, (mean, variance) in zip(norms, before, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
        return StatisticsReport(training, inference)
    return StatisticsReport(training, inference, remeasured, averaged)


def _has_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm that was trained: one without parameters of its own counts too."""
    parameters = list(module.parameters(recurse=False))
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return False
    tensors = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return hasattr(module, "momentum") and all(isinstance(tensor, Tensor) for tensor in tensors)


def _accuracy(model: nn.Module, sample: Sample) -> float:
    """The share of the sample's pictures that are labelled right, in the mode that the model is in."""
    correct = 0
    for images, labels in sample.taken("comparing training and inference mode"):
        correct += int((model(images).argmax(1) == labels).sum())
    return correct / sum(map(len, sample.parts))


def _measure(model: nn.Module, norms: list[_Norm], sample: Sample) -> None:
    """Let the running statistics be the mean of the batches': the k-th batch moves the average by 1/k."""
    momenta = [norm.momentum for norm in norms]
    with _training(norms):
        for number, (images, _) in enumerate(sample.taken("measuring batch norm's statistics anew"), 1):
            for norm in norms:
                norm.momentum = 1.0 / number
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextmanager
def _training(norms: list[_Norm]) -> Iterator[None]:
    """The norms in training mode, and nothing else: dropout stays off."""
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()


@contextmanager
def _kept(norms: list[_Norm]) -> Iterator[None]:
    """Buffers are afterwards as they were."""
    states = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    try:
        yield
    finally:
        for norm, state in zip(norms, states, strict=True):
            for name, buffer in norm.named_buffers(recurse=False):
                buffer.copy_(state[name])
