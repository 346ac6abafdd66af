"""Training: pictures in memory as uint8, batches built there, repeatable bit for bit on one machine, resumable.

Every random choice of an epoch comes from one generator seeded by (seed, epoch), so that the state between two steps
is the model, the optimiser, the schedule, torch's own generator and two counters. Ctrl-C finishes the step and saves it.
"""

from __future__ import annotations

import ctypes
import json
import math
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import NamedTuple, cast

import msgspec
import torch
from torch import Tensor, nn

from edgekit.accuracy import accuracy_of
from edgekit.data import Dataset, PictureShape
from edgekit.errors import Interrupted, MissingError, ModelError, RecipeError, UsageError, first_line
from edgekit.files import check_writable, sha256_of, write_bytes, write_text
from edgekit.machine.cpu import cores
from edgekit.models.factory import build_module
from edgekit.models.finetune import start_from
from edgekit.models.weights import weights_bytes
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, TrainRecipe
from edgekit.reports.train import Epoch, TrainReport
from edgekit.spelling import did_you_mean
from edgekit.training.augment import draw
from edgekit.training.batches import Batches, accuracy, batch_count, batches_of, predictions
from edgekit.training.checkpoint import (
    Key,
    State,
    before_end,
    checkpoint_in,
    differences,
    discard,
    forget_problem,
    training_key,
    unfinished,
)
from edgekit.training.curve import draw_curve
from edgekit.training.distributed import Peers, peers
from edgekit.training.folder import (
    CHECKPOINT,
    RUN_CURVE,
    RUN_METRICS,
    RUN_RECIPE,
    RUN_REPORT,
    RUN_WEIGHTS,
    Begin,
    model_args,
    problem_kept,
)
from edgekit.training.initial import state_sha256
from edgekit.training.numerics import compiling
from edgekit.training.optimizers import freeze
from edgekit.training.pace import Pace
from edgekit.training.provenance import provenance, session
from edgekit.training.statistics import make_fit
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


def fit(  # noqa: PLR0913 - each is a choice of the caller
    recipe: Recipe,
    dataset: Dataset,
    run: Path,
    *,
    device: str = "auto",
    begin: Begin = "anew",
    progress: Progress = SILENT,
    watchers: Sequence[Watcher] = (),
) -> TrainReport:
    """Train ``recipe`` on ``dataset`` into the folder ``run``: weights, checkpoint, metrics, learning curve, report.

    ``watchers`` are told of each epoch. ``begin`` says what becomes of an unfinished training in ``run``;
    raises UsageError where it would be lost unasked. Raises Interrupted after Ctrl-C or SIGTERM, with the state saved.
    """
    together = peers()
    place = together.place(pick_device(device))
    left = together.first and begin in ("anew", "update") and unfinished(run)
    if together.first:
        if begin == "anew" and left:
            raise UsageError(f"{run} holds an unfinished training", "--resume continues it, --restart begins anew")
        check_writable(run)
    reuse_memory()
    torch.set_num_threads(min(torch.get_num_threads(), cores()))  # PyTorch does not know a container's quota
    channels, height, width = dataset.train.images.shape[1:]
    shape = PictureShape(channels, height, width, len(dataset.classes))
    model, notes = build_model(recipe, shape)
    for text in notes:
        progress.say(f"note: {text}")
    begun = Begun(notes, dataset.sha256(), state_sha256(model))
    key = training_key(recipe, begun.data_sha256, model, together.count)
    this_session = session()
    together.check_alike(key)
    batches = batch_count(len(dataset.train), recipe.train.batch_size)
    together.check_settings(recipe.train, len(dataset.train) // batches)
    together.draw_apart()
    state = State(model, recipe.train, batches, place, together)
    if begin == "resume" or (begin == "update" and together.broadcast(together.first and goes_on(run, key, left=left))):
        state.load(run / CHECKPOINT, key)
        place_left = f"in epoch {state.epoch + 1} of {state.epochs}" if state.epoch < state.epochs else "after its last epoch"
        progress.say(f"going on with the training that stopped {place_left}; --restart begins anew")
    elif together.first:
        discard(run)  # a kill before the first checkpoint of this training must not bring back another
    state.enter(this_session)
    if together.first:
        forget_problem(run)
    training, held_out, test = batches_of(dataset, place)
    checkpoint = run / CHECKPOINT
    work = EpochWork(recipe.train, training, held_out, test, batches, progress, lambda state: state.save(checkpoint, key))
    with problem_kept(run) if together.first else nullcontext():
        train_all(state, work, Record(checkpoint, run / RUN_METRICS, watchers))
        report = _finish(recipe, dataset, state, work, run, begun)
    return report


class Initial(NamedTuple):
    """A model as training begins with it, and notes on the weights that it was given."""

    module: nn.Module
    notes: tuple[str, ...]


def build_model(recipe: Recipe, shape: PictureShape) -> Initial:
    """The recipe's model with its initial weights, on the CPU; raises ModelError unless it fits pictures and classes.

    Torch's generator is afterwards where training goes on from.
    """
    torch.manual_seed(recipe.train.seed)
    model = build_module(recipe.model.name, model_args(recipe, shape.classes, shape.channels))
    notes: tuple[str, ...] = ()
    if recipe.model.weights is not None:
        notes = start_from(model, recipe.model.weights, shape.classes, adapt_channels=recipe.model.adapt_channels)
    generator = torch.get_rng_state()
    _check_fit(model, recipe, shape)
    torch.set_rng_state(generator)
    return Initial(model, notes)


def goes_on(run: Path, key: Key, name: str = CHECKPOINT, *, left: bool | None = None) -> bool:
    """Whether ``run`` holds a checkpoint ``name`` of this training.

    Raises UsageError where one of another would be lost that is ``left`` unfinished (by default, that has epochs left),
    ModelError where one that cannot be read would.
    """
    content = checkpoint_in(run, name)
    if content is None:
        return False
    changed = differences(content, key)
    if changed and (before_end(content) if left is None else left):
        other = " and other ".join(changed)
        raise UsageError(f"{run} holds an unfinished training, which was made with other {other}", "--restart begins anew")
    return not changed


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
    with _stopping(state.peers) as stop:
        while state.epoch < epochs:
            before = state.epoch
            train_one_epoch(state, job, stop, pace)
            job.keep(state)
            if state.epoch > before and state.peers.first:
                _write_metrics(record.metrics, state.history)
                for watcher in record.watchers:
                    watcher.epoch(state.history[-1], record.phase)
            if stop() and state.epoch < epochs:
                raise Interrupted(
                    f"training stopped in {job.title} {state.epoch + 1} of {epochs} after {state.step} of {job.batches} steps; "
                    f"{record.checkpoint} keeps it, --resume continues"
                )


DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str) -> torch.device:
    """``auto`` -> CUDA where there is one, else the CPU; raises MissingError where it is not, UsageError for other names."""
    if name not in DEVICES:
        raise UsageError(f"no device {name!r}", f"use auto, cpu or cuda{did_you_mean(name, DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise MissingError("torch finds no usable CUDA device on this machine", "use --device cpu, or see edgekit doctor")
    return torch.device("cuda" if available and name in ("auto", "cuda") else "cpu")


@torch.inference_mode()
def _check_fit(model: nn.Module, recipe: Recipe, pictures: PictureShape) -> None:
    """Raise ModelError unless the model takes two (black) pictures and gives one logit per class."""
    classes = pictures.classes
    images = torch.zeros(2, pictures.channels, pictures.height, pictures.width)
    shape = "x".join(map(str, images.shape[1:]))
    try:
        logits = model.eval()(images)
    except ModelError:
        raise
    except Exception as problem:
        reason = first_line(problem)
        raise ModelError(
            f"{recipe.model.name} does not take pictures of {shape}: {reason}", "see data and model.args"
        ) from problem
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, classes):
        returned = f"{'x'.join(map(str, logits.shape))} values" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(
            f"{recipe.model.name} gives {returned} for 2 pictures, but the data has {classes} classes",
            f"let it return logits of 2x{classes}, see model.args",
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
        kept = f"; {CHECKPOINT} in its folder is from before" if state.history else ""
        raise RecipeError(f"the loss became {loss / samples} in epoch {state.epoch + 1}{kept}", "lower train.learning_rate")
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
                note = f"loss {loss / samples:.3f}, {pace.left()} left"
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


def reuse_memory() -> None:
    """Keep freed memory in the process: glibc gives a large tensor's pages back at once, and every step faults them in again."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, 1 << 30)


class Stop:
    """Whether Ctrl-C or SIGTERM has come to any process: all call it between the same two steps, and stop there."""

    def __init__(self, together: Peers) -> None:
        self._peers, self._came, self.due = together, False, False

    def __call__(self, due: bool = False) -> bool:
        """Ask the others, and whether it is time for a note in any process: ``due`` is then true for all."""
        came, self.due = self._peers.any(self._came, due)  # one message for both: it is what a small step waits for
        return came

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal has come; a second Ctrl-C stops at once."""
        if self._came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._came = True


@contextmanager
def _stopping(together: Peers) -> Iterator[Stop]:
    """Yields a Stop that is told of signals."""
    stop = Stop(together)
    try:
        previous = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: no signals there
        previous = {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _write_metrics(path: Path, history: list[Epoch]) -> None:
    """A line for each epoch; what is known at the end alone is the report's."""
    write_text(path, "".join(f"{json.dumps(msgspec.to_builtins(epoch))}\n" for epoch in history))


class Begun(NamedTuple):
    """What is known of a training before its first step: notes on its weights, hashes of the pictures and of the weights."""

    notes: tuple[str, ...]
    data_sha256: str
    initial_sha256: str


def _finish(recipe: Recipe, dataset: Dataset, state: State, work: EpochWork, run: Path, begun: Begun) -> TrainReport:
    device = work.training.labels.device
    averaged, together = state.average is not None, state.peers
    if averaged:
        state.model.load_state_dict(state.judged.state_dict())
    statistics = together.broadcast(
        make_fit(state.model, work.training, recipe.train.batch_size, recipe.train.seed, work.progress, averaged=averaged)
    )
    together.align(state.model)
    predicted = predictions(state.model, work.test, recipe.train.channels_last, work.progress, together).numpy()
    reached = accuracy_of(predicted, dataset.test.labels, len(dataset.classes))
    remeasured = statistics is not None and statistics.remeasured is not None
    held_out = state.history[-1].holdout_accuracy
    if work.held_out and remeasured:
        held_out = accuracy(state.model, work.held_out, recipe.train.channels_last, work.progress, together)
    if not together.first:
        return cast(TrainReport, together.broadcast(None))
    _write_metrics(run / RUN_METRICS, state.history)
    # Only now, and in this order: until the weights are there, an earlier training is whole. From then on its report does not
    # have their checksum, and nothing takes the folder for a finished run until the report, which is last, is theirs.
    write_bytes(run / RUN_WEIGHTS, weights_bytes(state.model))
    write_bytes(run / RUN_RECIPE, msgspec.json.format(msgspec.json.encode(recipe), indent=2))
    report = TrainReport(
        run=str(run),
        model=recipe.model.name,
        parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        epochs=tuple(state.history),
        test_accuracy=reached.overall,
        min_accuracy=recipe.train.min_accuracy,
        seconds=round(sum(epoch.seconds for epoch in state.history), 3),
        weights_sha256=sha256_of(run / RUN_WEIGHTS),
        labels=dataset.classes,
        preprocess=dataset.preprocess,
        balanced_accuracy=reached.balanced,
        min_balanced_accuracy=recipe.train.min_balanced_accuracy,
        class_accuracy=reached.per_class,
        data=dataset.report(),
        statistics=statistics,
        notes=begun.notes,
        holdout_accuracy=held_out,
        provenance=provenance(recipe.train.seed, begun.data_sha256, begun.initial_sha256, state.sessions),
        facts={
            "torch": str(torch.__version__),
            "precision": state.precision,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": str(torch.get_num_threads()),
            "cores": str(cores()),
            "processes": str(state.processes),
        },
    )
    draw_curve(report, run / RUN_CURVE, recipe.name)
    write_bytes(run / RUN_REPORT, report.to_json())
    for text in report.outcome_notes:
        work.progress.say(f"note: {text}")
    return together.broadcast(report)
