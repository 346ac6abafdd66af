"""The checkpoints of a run: which training they are of, whether it has ended, and whether another would lose it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgekit.errors import ModelError, UsageError, first_line
from edgekit.files import opened, write_error
from edgekit.reports.train import Epoch
from edgekit.training.folder import CHECKPOINT, INT8_CHECKPOINT, INT8_METRICS, RUN_METRICS, RUN_PROBLEM, run_recipe, run_report
from edgekit.training.key import LONGEST_VALUE, PROCESSES, Key

CHECKPOINT_VERSION = 6


def unfinished(run: Path) -> bool:
    """Whether another training in ``run`` would lose one; raises ModelError as ``checkpoint_in`` does.

    That is one with epochs left, or one that has ended and is not in the report, which is written last: so a kill at any moment
    leaves a training that goes on.
    """
    contents = [checkpoint_in(run, name) for name in (CHECKPOINT, INT8_CHECKPOINT)]
    if not any(contents):
        return False
    try:
        recipe, report = run_recipe(run), run_report(run)
    except ModelError:
        return True
    if recipe.train.int8 is not None and report.int8 is None:
        return True
    recorded = (report.epochs, report.int8.epochs if report.int8 is not None else ())
    return any(content and not _is_of(content, epochs) for content, epochs in zip(contents, recorded, strict=True))


def _is_of(content: dict[str, Any], epochs: tuple[Epoch, ...]) -> bool:
    """Whether a checkpoint is from the end of the training with these ``epochs``."""
    with suppress(msgspec.ValidationError):
        return not before_end(content) and msgspec.convert(content.get("history"), tuple[Epoch, ...]) == epochs
    return False


def checkpoint_in(run: Path, name: str = CHECKPOINT) -> dict[str, Any] | None:
    """The checkpoint ``name`` in ``run``; None without one, and for one of another version that had reached its end.

    Raises ModelError where what may be an unfinished training cannot be read: only the user may give it up.
    """
    path = run / name
    if not path.exists():
        return None
    content = _loaded(path)
    if content.get("version") != CHECKPOINT_VERSION and not before_end(content):
        return None
    return _of_this_version(content, path)


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


def before_end(content: dict[str, Any]) -> bool:
    """Whether a checkpoint's training has epochs left; so has one that does not say."""
    epoch, epochs = content.get("epoch"), content.get("epochs")
    return not (isinstance(epoch, int) and isinstance(epochs, int)) or epoch < epochs


def discard(run: Path) -> None:
    """Remove the checkpoints in ``run`` and the metrics of their epochs, so that nothing goes on with them or is told of them."""
    _remove(*(run / name for name in (CHECKPOINT, INT8_CHECKPOINT, RUN_METRICS, INT8_METRICS)))


def forget_problem(run: Path) -> None:
    """A training goes on, or begins: why an earlier one failed is past."""
    _remove(run / RUN_PROBLEM)


def _remove(*paths: Path) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as problem:
            raise write_error(path, problem) from problem


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content; raises ModelError when there is none, or it is damaged or of another version."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path} to continue from", "train without --resume")
    return _of_this_version(_loaded(path), path)


def _loaded(path: Path) -> dict[str, Any]:
    """What a checkpoint of any version holds, loaded without unpickling code."""
    try:
        with opened(path) as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or "version" not in content:
            raise ValueError("it holds no training")
    except Exception as problem:
        reason = first_line(problem)
        if "weights only load failed" in reason.lower():  # torch goes on to say how to load it all the same
            reason = "it holds pickled objects besides tensors, or is cut short"
        raise ModelError(f"checkpoint {path} is damaged: {reason}", "--restart begins anew") from None
    return content


def _of_this_version(content: dict[str, Any], path: Path) -> dict[str, Any]:
    if content["version"] != CHECKPOINT_VERSION:
        raise ModelError(f"checkpoint {path} was made by another version of edgekit", "--restart begins anew")
    return content


def differences(content: dict[str, Any], key: Key) -> list[str]:
    """What a checkpoint was made with that is no longer so, by its names in ``training_key``: ``train.epochs (8, now 9)``.

    The number of processes is of no matter after the last step.
    """
    old = content.get("key")
    before = old if isinstance(old, dict) else {}
    return [
        f"{name} ({before[name]}, now {value})"
        if name in before and max(len(before[name]), len(value)) <= LONGEST_VALUE
        else name
        for name, value in key.items()
        if before.get(name) != value and (name != PROCESSES or before_end(content))
    ]
