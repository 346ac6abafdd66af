"""Training: pictures in memory as uint8, batches built there, repeatable bit for bit on one machine, resumable.

Every random choice of an epoch comes from one generator seeded by (seed, epoch), so that the state between two steps
is the model, the optimiser, the schedule, torch's own generator and two counters. Ctrl-C finishes the step and saves it.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgekit.curve import draw_curve
from edgekit.data import Dataset
from edgekit.data.pictures import Pictures
from edgekit.errors import Interrupted, MissingError, ModelError, OutputError, RecipeError, UsageError, first_line
from edgekit.files import check_writable, replacing, sha256_of, write_bytes, write_text
from edgekit.models.build import build_module, weights_bytes
from edgekit.preprocess import CHANNELS, Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, TrainRecipe
from edgekit.reports import Epoch, TrainReport
from edgekit.source import RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS, model_args

CHECKPOINT, METRICS, CURVE = "checkpoint.pt", "metrics.jsonl", "curve.png"
EVALUATION_BATCH = 500
CHECKPOINT_VERSION = 2


class State:
    """Everything that changes while training; ``epoch`` and ``step`` name the next step to take."""

    def __init__(self, model: nn.Module, recipe: TrainRecipe, steps_per_epoch: int, device: torch.device) -> None:
        self.model = model.to(device)
        if recipe.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _optimizer(self.model, recipe)
        self.schedule = _schedule(self.optimizer, recipe, steps_per_epoch)
        self.epochs, self.steps_per_epoch = recipe.epochs, steps_per_epoch
        self.epoch = 0
        self.step = 0
        self.totals = torch.zeros(3, dtype=torch.float64, device=device)
        self.seconds = 0.0
        self.history: list[Epoch] = []

    def save(self, path: Path, key: str) -> None:
        """Write a checkpoint, whole or not at all."""
        content = {
            "version": CHECKPOINT_VERSION,
            "key": key,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": torch.get_rng_state(),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "totals": self.totals,
            "seconds": self.seconds,
            "history": msgspec.to_builtins(self.history),
        }
        with replacing(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as problem:  # torch's writer reports a full disk this way
                raise OutputError(f"cannot write {path}: {first_line(problem)}; free some disk space") from problem

    def load(self, path: Path, key: str) -> None:
        """Continue from a checkpoint of the same recipe; raises UsageError for another's, ModelError for a damaged one."""
        content = read_checkpoint(path)
        if content["key"] != key:
            raise UsageError(f"{path} was made by other settings than this recipe's; edgekit train --restart begins anew")
        if content.get("steps_per_epoch") != self.steps_per_epoch:
            raise UsageError(f"{path} was made on another number of pictures; edgekit train --restart begins anew")
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.schedule.load_state_dict(content["schedule"])
            torch.set_rng_state(content["generator"])
            self.epoch, self.step = content["epoch"], content["step"]
            self.totals, self.seconds = content["totals"].to(self.totals.device), content["seconds"]
            self.history = msgspec.convert(content["history"], list[Epoch])
        except (KeyError, RuntimeError, TypeError, ValueError, msgspec.ValidationError) as problem:
            raise ModelError(f"checkpoint {path} is damaged: {problem}; edgekit train --restart begins anew") from None


def train(
    recipe: Recipe,
    dataset: Dataset,
    run: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    restart: bool = False,
    progress: Progress = SILENT,
) -> TrainReport:
    """Train ``recipe`` on ``dataset`` into the folder ``run``: weights, checkpoint, metrics, learning curve, report.

    An unfinished training in ``run`` is continued with ``resume`` and discarded with ``restart``; with neither it is
    kept and UsageError raised. Raises Interrupted after Ctrl-C or SIGTERM, with the state saved.
    """
    settings = recipe.train
    key = training_key(recipe)
    place = pick_device(device)
    checkpoint = run / CHECKPOINT
    if not resume and not restart and unfinished(run):
        raise UsageError(f"{run} holds an unfinished training; --resume continues it, --restart begins anew")
    check_writable(run)
    reuse_memory()
    torch.manual_seed(settings.seed)
    batches = batch_count(len(dataset.train), settings.batch_size)
    args = model_args(recipe, len(dataset.classes), CHANNELS[dataset.preprocess.color])
    state = State(build_module(recipe.model.name, args), settings, batches, place)
    if resume:
        state.load(checkpoint, key)
    training, test = Batches(dataset.train, dataset.preprocess, place), Batches(dataset.test, dataset.preprocess, place)
    _check_fit(state.model, recipe, training, len(dataset.classes))
    with _stop_flag() as stop:
        while state.epoch < settings.epochs:
            train_one_epoch(state, settings, training, test, batches, stop, progress)
            if stop() and state.epoch < settings.epochs:
                state.save(checkpoint, key)
                raise Interrupted(
                    f"training stopped in epoch {state.epoch + 1} of {settings.epochs} after {state.step} of {batches} steps; "
                    f"{checkpoint} keeps it, --resume continues"
                )
            state.save(checkpoint, key)
            _write_metrics(run, state.history)
    return _finish(recipe, dataset, state, run, place)


def training_key(recipe: Recipe) -> str:
    """What a checkpoint must agree on to be continued: the data, model and train tables of the recipe, as JSON."""
    parts = {"data": recipe.data, "model": recipe.model, "train": recipe.train}
    return msgspec.json.encode(parts).decode()


def unfinished(run: Path) -> bool:
    """Whether ``run`` holds a checkpoint before the end of its own epochs."""
    path = run / CHECKPOINT
    if not path.is_file():
        return False
    content = read_checkpoint(path)
    return int(content["epoch"]) < int(content["epochs"])


def resumable(recipe: Recipe, run: Path) -> bool:
    """Whether ``run`` holds an unfinished training of these very settings, in a checkpoint that can be read."""
    try:
        return unfinished(run) and bool(read_checkpoint(run / CHECKPOINT)["key"] == training_key(recipe))
    except ModelError:
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, loaded without unpickling code; raises ModelError when there is none or it is damaged."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path} to continue from; train without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
            raise ValueError("not a checkpoint of this version")
    except Exception as problem:
        reason = first_line(problem)
        if "weights only load failed" in reason.lower():  # torch goes on to say how to load it all the same
            reason = "it holds pickled objects besides tensors, or is cut short"
        raise ModelError(f"checkpoint {path} is damaged: {reason}; edgekit train --restart begins anew") from None
    return content


def pick_device(name: str) -> torch.device:
    """``auto`` -> CUDA where there is one, else the CPU; raises MissingError where it is not, UsageError for other names."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"no device {name!r}; use auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise MissingError("torch finds no usable CUDA device on this machine; use --device cpu, or see edgekit doctor")
    return torch.device("cuda" if available and name in ("auto", "cuda") else "cpu")


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

    def take(self, index: Tensor, flipped: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``index`` int64 N, ``flipped`` bool N -> pictures float32 N x C x H x W, labels int64 N."""
        images = self.images[index]
        if flipped is not None:
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
        # Preprocess.normalise, operation for operation, so that training and the bundle agree to the last bit
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std), self.labels[index]


@torch.inference_mode()
def accuracy(model: nn.Module, batches: Batches, channels_last: bool = False) -> float:
    """Share of pictures whose largest logit is their label, in float32 inference mode."""
    model.eval()
    correct = 0
    for start in range(0, len(batches), EVALUATION_BATCH):
        index = torch.arange(start, min(start + EVALUATION_BATCH, len(batches)), device=batches.labels.device)
        images, labels = batches.take(index)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        correct += int((model(images).argmax(1) == labels).sum())
    return correct / len(batches)


@torch.inference_mode()
def _check_fit(model: nn.Module, recipe: Recipe, training: Batches, classes: int) -> None:
    """Raise ModelError unless the model takes the pictures and gives one logit per class."""
    images, _ = training.take(torch.arange(2, device=training.labels.device))
    shape = "x".join(map(str, images.shape[1:]))
    try:
        logits = model.eval()(images)
    except ModelError:
        raise
    except Exception as problem:
        reason = first_line(problem)
        raise ModelError(f"{recipe.model.name} does not take pictures of {shape}: {reason}; see data and model.args") from problem
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, classes):
        given = f"{'x'.join(map(str, logits.shape))} values" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(
            f"{recipe.model.name} gives {given} for 2 pictures, but the data has {classes} classes; "
            f"let it return logits of 2x{classes}, see model.args"
        )


def train_one_epoch(
    state: State,
    settings: TrainRecipe,
    training: Batches,
    test: Batches,
    batches: int,
    stop: Callable[[], bool],
    progress: Progress,
) -> None:
    """Take the steps that are left of the epoch and record it, or return early, between two steps, once ``stop()``."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + state.epoch)
    device = training.labels.device
    order = torch.randperm(len(training), generator=generator).to(device)
    flips = (torch.rand(len(training), generator=generator) < 0.5).to(device) if settings.flip else None
    parts = torch.tensor_split(order, batches)
    state.model.train()
    title = f"epoch {state.epoch + 1}/{settings.epochs}"
    with progress.task(title, batches) as advance:
        advance(state.step, "")
        while state.step < batches and not stop():
            index = parts[state.step]
            flipped = None if flips is None else flips[index]
            state.totals += _step(state, settings, *training.take(index, flipped))
            state.step += 1
            if state.step % 20 == 0 or state.step == batches:
                advance(20 if state.step % 20 == 0 else state.step % 20, f"loss {state.totals[0] / state.totals[2]:.3f}")
    if stop():
        state.seconds += time.perf_counter() - started
        return
    loss, correct, seen = state.totals.tolist()
    if not math.isfinite(loss):
        raise RecipeError(f"the loss became {loss / seen} in epoch {state.epoch + 1}; lower train.learning_rate")
    test_accuracy = accuracy(state.model, test, settings.channels_last)
    seconds = state.seconds + time.perf_counter() - started
    rate = float(state.optimizer.param_groups[0]["lr"])
    epoch = Epoch(state.epoch + 1, loss / seen, correct / seen, test_accuracy, round(seconds, 3), rate)
    state.history.append(epoch)
    state.epoch, state.step, state.seconds = state.epoch + 1, 0, 0.0
    state.totals = torch.zeros_like(state.totals)
    progress.say(
        f"{title}  loss {epoch.loss:.4f}  train {epoch.train_accuracy:.4f}  test {epoch.test_accuracy:.4f}  {seconds:.1f} s"
    )


def _step(state: State, settings: TrainRecipe, images: Tensor, labels: Tensor) -> Tensor:
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        logits = state.model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.schedule.step()
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).sum()
        count = torch.full_like(correct, len(labels)).double()
        return torch.stack((loss.detach().double() * len(labels), correct.double(), count))


def _optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":  # AdamW is Adam where weight_decay is 0
        return torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay, fused=True
    )


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: TrainRecipe, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one-cycle" and total > 1:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=total + 1)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=1)


def reuse_memory() -> None:
    """Keep freed memory in the process: glibc gives a large tensor's pages back at once, and every step faults them in again."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, 1 << 30)


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or SIGTERM has come; a second Ctrl-C stops at once."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came = True

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: no signals there
        previous = {}
    try:
        yield lambda: came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _write_metrics(run: Path, history: list[Epoch]) -> None:
    lines = [json.dumps(msgspec.to_builtins(epoch)) for epoch in history]
    write_text(run / METRICS, "\n".join(lines) + "\n")


def _finish(recipe: Recipe, dataset: Dataset, state: State, run: Path, device: torch.device) -> TrainReport:
    _write_metrics(run, state.history)
    # only now: until the end, an earlier training's recipe and weights stay together
    write_bytes(run / RUN_RECIPE, msgspec.json.format(msgspec.json.encode(recipe), indent=2))
    write_bytes(run / RUN_WEIGHTS, weights_bytes(state.model))
    draw_curve(state.history, run / CURVE, recipe.name)
    report = TrainReport(
        run=str(run),
        model=recipe.model.name,
        parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        epochs=tuple(state.history),
        test_accuracy=state.history[-1].test_accuracy,
        min_accuracy=recipe.train.min_accuracy,
        seconds=round(sum(epoch.seconds for epoch in state.history), 3),
        weights_sha256=sha256_of(run / RUN_WEIGHTS),
        labels=dataset.classes,
        preprocess=dataset.preprocess,
        facts={
            "torch": str(torch.__version__),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": str(torch.get_num_threads()),
            "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        },
    )
    write_bytes(run / RUN_REPORT, report.to_json())
    return report
