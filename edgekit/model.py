"""``edgekit.load``: a bundle opened for a program, which gives it arrays or pictures from any of its threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, cast, overload

import msgspec
import numpy as np

from edgekit.backends import USUAL_BACKEND, row_of
from edgekit.backends.choose import choose, open_named
from edgekit.backends.contract import InRanges, Session
from edgekit.backends.tuned import Choice, choice_for
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.errors import BundleError, DataError, EdgekitError, ModelError, UsageError
from edgekit.parity.accuracy import batch_for, meaning_of
from edgekit.preprocess import Intake, PictureSource, no_picture
from edgekit.progress import SILENT, Progress
from edgekit.reports.predict import Guess, Numbers
from edgekit.setups import Setup, taking
from edgekit.tensors import (
    Array,
    Feed,
    TensorSpec,
    batches_of,
    check_feed,
    fixed_batch,
    joined_outputs,
    real_samples,
    sample_feed,
)

__all__ = ["Labelled", "Model", "load"]

AT_ONCE = 32
"""Pictures that are run at once, at most, where the backend takes any number: more are no faster, and take memory."""
OFTEN = 3
"""Runs after which a runtime has allocated its memory and chosen its kernels."""


class Labelled(msgspec.Struct, frozen=True):
    """The most probable labels of a picture, best first, each with its probability in 0..1."""

    guesses: tuple[Guess, ...]

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.guesses[0].label

    @property
    def probability(self) -> float:
        """The probability of the most probable label, in 0..1."""
        return self.guesses[0].probability


def load(bundle: Path | str, setup: Setup | str | None = None, *, progress: Progress = SILENT) -> Model:
    """Open a bundle to run it: every file is checked once, and the session stays open until ``close()``.

    Without a ``setup`` it is what ``edgekit tune`` chose for the bundle on this machine, or ONNX Runtime on the CPU; with
    ``every`` as the backend the first present is taken. A backend with ranges of batch sizes takes those that the setup names.

    Raises BundleError for a damaged bundle, MissingError for a setup that cannot run on this machine, and UsageError for one
    that does not exist.
    """
    return model_of(open_bundle(bundle), setup, progress)


def model_of(
    bundle: Bundle, setup: Setup | str | None, progress: Progress = SILENT, meaning: Numbers | BundleError | None = None
) -> Model:
    """The Model of a bundle that is open already, and the ``meaning`` of whose outputs may be known; see ``load``."""
    choice = choice_for(bundle) if setup is None else Choice(None)
    for line in choice.said() if choice.setup else filter(None, [choice.note and f"note: {choice.note}"]):
        progress.say(line)
    wanted = setup or choice.setup or USUAL_BACKEND
    chosen = taking(choose(bundle, wanted, progress=progress).setups[0], (fixed_batch(bundle.manifest.inputs) or 1,))
    meaning = meaning or meaning_in(bundle)  # before the session, which nobody would close
    session = open_named(chosen.backend, chosen, bundle, progress).session
    return Model(bundle, chosen, session, meaning, (choice.note,) if choice.note else ())


class Model:
    """A bundle's network, open on one backend; a context manager. Made by ``edgekit.load``.

    Threads may call it at once; where the runtime takes one call at a time, they wait for each other. A pickled Model is its path
    and its setup: who unpickles it opens the same bundle again. A Model does not survive ``fork``.

    ``setup`` and ``backend`` say what runs it, ``facts`` on what its numbers depend, such as versions and threads. ``inputs`` and
    ``outputs`` are its tensors, ``labels`` the names of its classes. ``notes``: why a choice of ``edgekit tune`` was not taken.
    """

    root: Path
    setup: Setup
    notes: tuple[str, ...]
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    facts: dict[str, str]

    def __init__(
        self, bundle: Bundle, setup: Setup, session: Session, meaning: Numbers | BundleError, notes: tuple[str, ...] = ()
    ) -> None:
        self.root, self.setup, self.labels = bundle.root.absolute(), setup, bundle.manifest.labels
        self.inputs, self.outputs, self.facts = session.inputs, session.outputs, dict(session.facts)
        self.notes = notes
        self._sha256, self._process = bundle.sha256, os.getpid()
        self._meaning, self._intake = meaning, bundle.intake(setup.variant)
        self._takes = {spec.name: (_dtype(spec.dtype), spec.shape[1:]) for spec in self.inputs}
        self._only = len(self.inputs) == len(self.outputs) == 1
        self._any_size = fixed_batch(session.inputs) is None and not isinstance(session, InRanges)
        self._session: Session | None = session
        alone = not row_of(setup.backend).many_callers
        self._turn: AbstractContextManager[Any] = threading.Lock() if alone else nullcontext()

    @property
    def backend(self) -> str:
        """The name of the backend that runs it."""
        return self.setup.backend

    @property
    def meaning(self) -> Numbers:
        """What ``predict`` calls probabilities; raises BundleError for a bundle that does not classify pictures."""
        if isinstance(self._meaning, BundleError):
            raise self._meaning.with_traceback(None)
        return self._meaning

    @overload
    def __call__(self, feed: Array) -> Array: ...

    @overload
    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]: ...

    def __call__(self, feed: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """Run the network on arrays as it takes them, of any number of samples along the first axis.

        One array, in ``inputs``' dtype and shape, gives the output of a network with one input and one output; input name ->
        array gives output name -> array. The caller owns the outputs. Raises ModelError for arrays that do not fit and for a
        closed Model.
        """
        if isinstance(feed, Mapping):
            return self._run(feed)
        if not isinstance(feed, np.ndarray):
            raise ModelError(f"the model was given a {type(feed).__name__}", "give it a numpy array, or name -> array")
        if not self._only:
            names = [[spec.name for spec in specs] for specs in (self.inputs, self.outputs)]
            raise ModelError(f"the model has the inputs {names[0]} and the outputs {names[1]}", "give it name -> array")
        return self._run({self.inputs[0].name: feed})[self.outputs[0].name]

    @overload
    def predict(self, pictures: PictureSource, *, top: int = 3) -> Labelled: ...  # type: ignore[overload-overlap]  # text is one

    @overload
    def predict(self, pictures: Iterable[PictureSource], *, top: int = 3) -> list[Labelled]: ...

    def predict(self, pictures: PictureSource | Iterable[PictureSource], *, top: int = 3) -> Labelled | list[Labelled]:
        """Label one picture, or each of several, through the bundle's own preprocessing: the ``top`` most probable labels.

        A picture is a file's path, a file's bytes, a Pillow image, or uint8 height x width x 1, 3 (RGB) or 4 (RGBA), of any size.
        Several are run in batches. Where the recorded outputs are probabilities or scores, the model's outputs are taken as they
        are; else their softmax is (see ``meaning``).

        Raises BundleError for a bundle that does not classify pictures, DataError that names a picture which cannot be read, or
        whose outputs are not finite, and UsageError for a ``top`` below 1.
        """
        intake = self._takes_pictures()
        if not isinstance(top, (int, np.integer)) or top < 1:
            raise UsageError(f"top={top!r} is no number of labels", "give 1 or more")
        if _are_several(pictures):
            return [labelled for part in self._parts(pictures) for labelled in self._labelled(*part, top)]
        picture = cast(PictureSource, pictures)
        return self._labelled([intake.open(picture)], [_name(picture)], top)[0]

    def warm_up(self, *batches: int) -> None:
        """Run the network a few times on made-up samples, in each of the sizes ``batches``, so that the first call is no slower.

        Without sizes it is one sample, or the only size that the network takes. Raises UsageError for a size below 1.
        """
        for size in batches or (fixed_batch(self.inputs) or 1,):
            if not isinstance(size, (int, np.integer)) or size < 1:
                raise UsageError(f"{size!r} is no batch size", "give 1 or more")
            feed = sample_feed([spec.with_free_batch() for spec in self.inputs], size)
            for _ in range(OFTEN):
                self._run(feed)

    def close(self) -> None:
        """Free what the runtime holds; calls that are running end first, or finish. A closed Model cannot be run again."""
        if self._process != os.getpid():
            return  # the runtime belongs to the process before the fork
        with self._turn:
            session, self._session = self._session, None
            if session is not None:
                session.__exit__(None, None, None)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(self.root), self.setup, self._sha256)

    def __repr__(self) -> str:
        return f"<edgekit.Model {self.root} on {self.setup}{'' if self._session else ', closed'}>"

    def _run(self, feed: Feed) -> dict[str, Array]:
        """The outputs for any number of samples, in batches that the session takes."""
        session, samples = self._open(), self._checked(feed)  # before the lock, which a fork leaves as it was
        size = samples if self._any_size else batch_for(session, samples)
        if size == samples:
            return self._at_once(feed)
        return joined_outputs([real_samples(self._at_once(part), size, real) for part, real in batches_of(feed, size)])

    def _at_once(self, feed: Feed) -> dict[str, Array]:
        with self._turn:
            session = self._open()
            try:
                return session.run(feed)
            except EdgekitError:
                self._open()  # another thread has closed it meanwhile, and that is the reason
                raise

    def _open(self) -> Session:
        """The session; raises ModelError where there is none to run."""
        session = self._session
        if session is None:
            raise ModelError(f"the model {self.root} is closed", "load it again")
        if self._process != os.getpid():  # a runtime's threads are not there: a call would wait for ever
            raise ModelError(f"the model {self.root} was loaded before this process was forked", "load it in this process")
        return session

    def _checked(self, feed: Feed) -> int:
        """The number of samples; raises ModelError for arrays that are not what the network takes."""
        samples = -1
        for name, array in feed.items():
            if not isinstance(array, np.ndarray):
                raise ModelError(f"input {name!r} was given a {type(array).__name__}", "give it a numpy array")
            takes = self._takes.get(name)
            if takes is None or array.dtype != takes[0] or not _fits(array.shape[1:], takes[1]):
                break
            if len(array) != samples and samples >= 0:
                raise ModelError(f"input {name!r} was given {len(array)} samples, and others {samples}", "give as many of each")
            samples = len(array)
        else:
            if len(feed) == len(self._takes) and samples > 0:
                return samples
        check_feed([spec.with_free_batch() for spec in self.inputs], feed)
        raise ModelError("the model was given no samples", "the first axis of an array is its samples")

    def _takes_pictures(self) -> Intake:
        """How pictures become the input; raises BundleError for a bundle that does not classify them."""
        assert self.meaning
        assert self._intake is not None
        return self._intake

    def _parts(self, pictures: Iterable[PictureSource]) -> Iterator[tuple[list[Array], list[str]]]:
        """Decoded pictures, as many at a time as are run at once, and what errors call them."""
        intake, size = self._takes_pictures(), batch_for(self._open(), AT_ONCE)
        waiting = enumerate(pictures, 1)
        while part := list(islice(waiting, size)):
            names = [_name(picture, place) for place, picture in part]
            yield [intake.open(picture, name) for (_, picture), name in zip(part, names, strict=True)], names

    def _labelled(self, pixels: Sequence[Array], names: Sequence[str], top: int) -> list[Labelled]:
        """The labels of decoded pictures, each uint8 C x H x W; those of one size in a row are run together."""
        normalise, name, output = self._takes_pictures().normalise, self.inputs[0].name, self.outputs[0].name
        alike = [list(group) for _, group in groupby(pixels, np.shape)]
        outputs = [numbers for group in alike for numbers in self._run({name: normalise(np.stack(group))})[output]]
        if np.shape(outputs[0]) != (len(self.labels),):
            raise BundleError(
                f"bundle {self.root} has {len(self.labels)} label(s) for an output of {np.shape(outputs[0])}", "export it again"
            )
        return [Labelled(self._guesses(numbers, called, top)) for numbers, called in zip(outputs, names, strict=True)]

    def _guesses(self, numbers: Array, name: str, top: int) -> tuple[Guess, ...]:
        if not np.isfinite(numbers.max()):  # NaN where any is; -inf beside a finite number is a mask
            subject = f"the model's outputs for {f'picture {name}' if name else 'this picture'}"
            raise DataError(f"{subject} are not finite", "run edgekit verify on the bundle")
        shares = softmax(numbers) if self.meaning == "softmax of the output" else numbers
        return guesses(shares, self.labels, top)


def meaning_in(bundle: Bundle) -> Numbers | BundleError:
    """What the outputs of the classes mean, or why it cannot be given pictures: it takes no single one, or names none."""
    manifest = bundle.manifest
    unlike = no_picture([(spec.dtype, spec.shape) for spec in manifest.inputs])
    if manifest.preprocess is None and unlike is not None:
        return BundleError(f"bundle {bundle.root} cannot be given pictures: {unlike.reason}", unlike.remedy)
    if manifest.preprocess is None or not manifest.labels or len(manifest.inputs) != 1:
        return BundleError(
            f"bundle {bundle.root} records no preprocessing or labels, so it cannot be given pictures",
            "export it with --mean, --std and --labels",
        )
    return meaning_of(bundle.golden().float64[manifest.outputs[0].name])


def _are_several(pictures: PictureSource | Iterable[PictureSource]) -> TypeGuard[Iterable[PictureSource]]:
    """Whether it is several pictures: an array of four axes is, and so is whatever else can be gone through."""
    if isinstance(pictures, np.ndarray):
        return pictures.ndim == 4
    return not isinstance(pictures, (str, Path, bytes)) and isinstance(pictures, Iterable)


def _name(picture: PictureSource, place: int | None = None) -> str:
    """What an error calls a picture: its path, or else its place among several."""
    if isinstance(picture, (str, Path)):
        return str(picture)
    return "" if place is None else f"number {place}"


def _dtype(name: str) -> np.dtype[Any]:
    """The type in numpy, or its void for one that numpy lacks, which nothing fits."""
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(np.void)


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    same = zip(shape, wanted, strict=False)
    return shape == wanted or (len(shape) == len(wanted) and all(isinstance(size, str) or axis == size for axis, size in same))


def softmax(logits: Array) -> Array:
    """Softmax of one vector, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    shares: Array = shifted / shifted.sum()
    return shares


def guesses(probabilities: Array, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    """The ``top`` most probable labels, best first; of equals the first in ``labels`` comes first."""
    best = np.argsort(-probabilities.astype(np.float64), kind="stable")[:top]
    return tuple(Guess(labels[index], float(probabilities[index])) for index in best)


def _again(root: str, setup: Setup, sha256: str) -> Model:
    """The Model that was pickled; raises BundleError where another bundle has taken its place."""
    bundle = open_bundle(root)
    if bundle.sha256 != sha256:
        raise BundleError(f"bundle {root} is another than the model was loaded from", "load it again")
    return model_of(bundle, setup)
