"""The training loop: epochs and steps over pictures that lie in memory as uint8.

Every random choice of an epoch comes from one generator seeded by (seed, epoch), so that the state between two steps
is the model, the optimiser, the schedule, torch's own generators and two counters. Ctrl-C finishes the step and saves it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from edgekit.errors import Interrupted
from edgekit.files import write_text
from edgekit.progress import SILENT, Progress
from edgekit.recipe import TrainRecipe
from edgekit.reports.train import Epoch
from edgekit.training.augment import draw
from edgekit.training.batches import Batches, accuracy
from edgekit.training.numerics import compiling
from edgekit.training.optimizers import freeze
from edgekit.training.pace import Pace
from edgekit.training.state import State
from edgekit.training.stopping import Stop, stopping
from edgekit.training.watching import Phase, Watcher


class EpochWork(NamedTuple):
    """What an epoch works on: pictures on the training device, in ``batches`` steps an epoch; ``progress`` is told of each.

    Its accuracy is that on the pictures ``held_out``, or on the ``test`` set where none are. ``keep`` writes a checkpoint.
    """

    settings: TrainRecipe
    training: Batches
    held_out: Batches | None
    test: Batches
    batches: int
    progress: Progress = SILENT
    keep: Callable[[State], None] = lambda state: None
    title: str = "epoch"


class Record(NamedTuple):
    """Where a training keeps its checkpoint and its metrics, and who is told of each epoch of its ``phase``."""

    checkpoint: Path
    metrics: Path
    watchers: Sequence[Watcher] = ()
    phase: Phase = "training"


def train_all(state: State, job: EpochWork, record: Record) -> None:
    """Train the epochs that are left; a checkpoint is kept after each, and when the user stops between two steps."""
    epochs = job.settings.epochs
    pace = Pace(job.batches * epochs, state.epoch * job.batches + state.step)
    with stopping(state.peers) as stop:
        while state.epoch < epochs:
            before = state.epoch
            train_one_epoch(state, job, stop, pace)
            job.keep(state)
            if state.epoch > before and state.peers.first:
                write_metrics(record.metrics, state.history)
                for watcher in record.watchers:
                    watcher.epoch(state.history[-1], record.phase)
            if stop() and state.epoch < epochs:
                raise Interrupted(
                    f"training stopped in {job.title} {state.epoch + 1} of {epochs} after {state.step} of {job.batches} steps; "
                    f"{record.checkpoint} keeps it, --resume continues"
                )


def train_one_epoch(state: State, job: EpochWork, stop: Stop, pace: Pace) -> None:
    """Take the steps that are left of the epoch and record it, or return early, between two steps, once ``stop()``."""
    watch = Watch(state)
    title = f"{job.title} {state.epoch + 1}/{job.settings.epochs}"
    freeze(state.model, job.settings, state.epoch)
    state.wrap()
    _take_steps(state, job, title, stop, pace, watch)
    if stop():
        watch.read()
        return
    loss, correct, samples = _summed(state)
    state.peers.align(state.judged)
    reached = accuracy(state.judged, job.held_out or job.test, job.settings.channels_last, job.progress, state.peers)
    watch.read()
    epoch = Epoch(
        state.epoch + 1,
        loss / samples,
        correct / samples,
        None if job.held_out else reached,
        round(state.seconds, 3),
        state.rate,
        reached if job.held_out else None,
    )
    state.history.append(epoch)
    state.epoch, state.step, state.seconds = state.epoch + 1, 0, 0.0
    state.totals = torch.zeros_like(state.totals)
    job.progress.say(
        f"{title}  loss {epoch.loss:.4f}  train {epoch.train_accuracy:.4f}  {epoch.watched} {reached:.4f}  {epoch.seconds:.1f} s"
    )


class Watch:
    """Adds the time that passes to the seconds of a state's epoch, whenever it is read."""

    def __init__(self, state: State) -> None:
        self._state, self._last = state, time.perf_counter()

    def read(self) -> None:
        """Count the time since it was last read."""
        now = time.perf_counter()
        self._state.seconds += now - self._last
        self._last = now


def _summed(state: State) -> tuple[float, float, float]:
    """The epoch's losses, pictures labelled right, and pictures so far, of all processes.

    Raises RecipeError once the losses are no number: the last checkpoint is of weights that were good.
    """
    loss, correct, samples = state.peers.sum(state.totals.clone()).tolist()  # reading it waits for the device
    if not math.isfinite(loss):
        raise state.diverged(f"the loss became {loss / samples}")
    return loss, correct, samples


def _take_steps(state: State, job: EpochWork, title: str, stop: Stop, pace: Pace, watch: Watch) -> None:
    settings, training = job.settings, job.training
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + state.epoch)
    device = training.labels.device
    order = torch.randperm(len(training), generator=generator).to(training.images.device)
    augmentation = draw(settings, len(training), training.size, state.epoch, generator, device)
    parts = torch.tensor_split(order, job.batches)
    note, due = "", True
    with job.progress.task(title, job.batches) as advance:
        advance(state.step, note)
        while state.step < job.batches and not stop(due):
            own = state.peers.share(parts[state.step])
            images, labels = training.take(own, augmentation)
            weight = len(own) * state.peers.count / len(parts[state.step])
            state.totals += take_step(state, settings, images, labels, weight)
            state.step += 1
            due = pace.step()
            if stop.due or state.step == job.batches:
                loss, _, samples = _summed(state)
                left = pace.left()
                note = f"loss {loss / samples:.3f}{f', {left} left' if left else ''}"
            if settings.checkpoint_every and state.step % settings.checkpoint_every == 0 and state.step < job.batches:
                _summed(state)
                watch.read()
                job.keep(state)
            advance(1, note)


def take_step(state: State, settings: TrainRecipe, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """One step of all optimisers; float64 3: the sum of the losses, how many were right, and of how many pictures.

    ``images`` are this process's share of the batch. ``weight`` is how many they are for each picture of an even share: the
    mean of the processes' gradients is then that of the whole batch.
    """
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with compiling(settings):
        with (
            state.peers.synchronised(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=state.precision == "bfloat16"),
        ):
            logits = state.trained(images)
            loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        state.model.zero_grad(set_to_none=True)
        (loss * weight).backward()  # type: ignore[no-untyped-call]
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip_norm)
    state.rate = state.learning_rate
    for optimizer, schedule in state.moved:
        optimizer.step()
        schedule.step()
    if state.average is not None:
        state.average.update_parameters(state.model)
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).sum()
        count = torch.full_like(correct, len(labels)).double()
        return torch.stack((loss.detach().double() * len(labels), correct.double(), count))


def write_metrics(path: Path, history: list[Epoch]) -> None:
    """A line for each epoch; what is known at the end alone is the report's."""
    write_text(path, "".join(f"{json.dumps(msgspec.to_builtins(epoch))}\n" for epoch in history))
