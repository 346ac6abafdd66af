"""Pictures given out in batches: from the memory of the training device, or from a file that is mapped."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.data import Dataset
from edgekit.data.pictures import Pictures
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.training.augment import Augmentation
from edgekit.training.distributed import ALONE, Peers

EVALUATION_BATCH = 500
SHARE = 0.25
"""Of a device's free memory, what mapped pictures may take: the rest is for the model."""


def batch_count(samples: int, batch_size: int) -> int:
    """Steps per epoch: batches are of equal size (give or take one), near ``batch_size`` and never of a single sample."""
    return max(1, min(round(samples / batch_size), samples // 2))


class Batches:
    """uint8 pictures, given out as normalised float32 batches on a device.

    They are resident there, unless they are mapped from a file and large: then they stay on the host, and each batch moves.
    """

    def __init__(self, pictures: Pictures, preprocess: Preprocess, device: torch.device) -> None:
        self.images = _tensor(pictures.images).to(_home(pictures, device))
        self.labels = torch.from_numpy(pictures.labels).to(device)
        self.mean = torch.tensor(preprocess.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(preprocess.std, device=device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.images.shape[2], self.images.shape[3]

    def take(self, index: Tensor, augmentation: Augmentation | None = None) -> tuple[Tensor, Tensor]:
        """``index`` int64 N, ``augmentation`` of all pictures -> pictures float32 N x C x H x W, labels int64 N."""
        change = augmentation.of(index) if augmentation else Augmentation()
        images = change.moved(self.images[index.to(self.images.device)].to(self.labels.device))
        # Preprocess.normalise, operation for operation, so that training and the bundle agree to the last bit
        images = images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)
        return change.erased(images), self.labels[index]


def batches_of(dataset: Dataset, device: torch.device) -> tuple[Batches, Batches | None, Batches]:
    """The pictures that are trained on, held out (None where none are) and tested."""
    held_out = Batches(dataset.holdout, dataset.preprocess, device) if dataset.holdout else None
    return Batches(dataset.train, dataset.preprocess, device), held_out, Batches(dataset.test, dataset.preprocess, device)


def _tensor(images: NDArray[np.uint8]) -> Tensor:
    """The same memory; PyTorch warns of an array that must not be written to, and no batch is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(images)


def _home(pictures: Pictures, device: torch.device) -> torch.device:
    """Where pictures are kept that are trained on ``device``: mapped ones there only where they leave it room to work."""
    if pictures.mapped and (device.type != "cuda" or pictures.images.nbytes > torch.cuda.mem_get_info(device)[0] * SHARE):
        return torch.device("cpu")
    return device


@torch.inference_mode()
def predictions(
    model: nn.Module,
    batches: Batches,
    channels_last: bool = False,
    progress: Progress = SILENT,
    together: Peers = ALONE,
) -> Tensor:
    """The class of each picture's largest logit, int64 N on the CPU, in float32 inference mode; each process labels its share."""
    model.eval()
    own = together.share(torch.arange(len(batches), device=batches.images.device))
    # before the batches: a small result behind each would keep the heap from using the memory of the last batch again
    classes = torch.empty(len(own), dtype=torch.int64, device=batches.labels.device)
    start = 0
    with progress.task("labelling pictures", len(own)) as advance:
        for index in torch.split(own, EVALUATION_BATCH):
            images, _ = batches.take(index)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            classes[start : start + len(index)] = model(images).argmax(1)
            start += len(index)
            advance(len(index), "")
    return torch.cat(together.gather(classes.cpu()))


def accuracy(
    model: nn.Module,
    batches: Batches,
    channels_last: bool = False,
    progress: Progress = SILENT,
    together: Peers = ALONE,
) -> float:
    """Share of pictures whose largest logit is their label, in float32 inference mode; each picture counts once."""
    return float((predictions(model, batches, channels_last, progress, together) == batches.labels.cpu()).double().mean())
