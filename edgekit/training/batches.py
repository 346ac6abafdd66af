"""Pictures in the memory of the training device, given out in batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekit.data.pictures import Pictures
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.training.augment import Augmentation
from edgekit.training.distributed import ALONE, Peers

EVALUATION_BATCH = 500


def batch_count(samples: int, batch_size: int) -> int:
    """Steps per epoch: batches are of equal size (give or take one), near ``batch_size`` and never of a single sample."""
    return max(1, min(round(samples / batch_size), samples // 2))


class Batches:
    """Pictures resident on a device as uint8, given out as normalised float32 batches."""

    def __init__(self, pictures: Pictures, preprocess: Preprocess, device: torch.device) -> None:
        self.images = torch.from_numpy(pictures.images).to(device)
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
        images = change.moved(self.images[index])
        # Preprocess.normalise, operation for operation, so that training and the bundle agree to the last bit
        images = images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)
        return change.erased(images), self.labels[index]


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
    own = together.share(torch.arange(len(batches), device=batches.labels.device))
    classes = [own[:0]]
    with progress.task("labelling pictures", len(own)) as advance:
        for index in torch.split(own, EVALUATION_BATCH):
            images, _ = batches.take(index)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            classes.append(model(images).argmax(1))
            advance(len(index), "")
    return torch.cat(together.gather(torch.cat(classes).cpu()))


def accuracy(
    model: nn.Module,
    batches: Batches,
    channels_last: bool = False,
    progress: Progress = SILENT,
    together: Peers = ALONE,
) -> float:
    """Share of pictures whose largest logit is their label, in float32 inference mode; each picture counts once."""
    return float((predictions(model, batches, channels_last, progress, together) == batches.labels.cpu()).double().mean())
