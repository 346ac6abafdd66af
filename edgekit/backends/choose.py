"""Which ways to run a bundle take part on this machine, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from edgekit.backends import absence, checked, open_session, row_of, table, takers
from edgekit.backends.contract import Opened
from edgekit.backends.tuned import tuned_setup
from edgekit.bundle.allowance import held_to_noise
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Variant
from edgekit.errors import MissingError, UsageError
from edgekit.machine.packages import pip_install
from edgekit.onnx.arithmetic import steps_between_floats
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Skipped
from edgekit.setups import EVERY, OWN_WORDS, TUNED, Absence, Setup, as_setups
from edgekit.spelling import did_you_mean
from edgekit.tensors import fixed_batch


class Choice(NamedTuple):
    """Setups that can run here, and the backends that cannot, where every one was asked for.

    ``as_written``: setups beside them that run a file in fewer bits node by node (see ``recorded_as_written``). ``not_run``:
    variants that were asked for and that none of all these runs.
    """

    setups: tuple[Setup, ...]
    skipped: tuple[Skipped, ...]
    as_written: tuple[Setup, ...] = ()
    not_run: tuple[str, ...] = ()


def choose(
    bundle: Bundle,
    setups: Setup | str | Iterable[Setup | str] = (),
    *,
    all_variants: bool = False,
    batches: Iterable[int] = (),
    progress: Progress = SILENT,
) -> Choice:
    """What takes part: each setup asked for, which must be present, or with ``EVERY`` and with none asked for all that is.

    ``TUNED`` is what ``edgekit tune`` chose here; ``progress`` is told what for, and for which of ``batches`` not. Where no
    variant is named it is the first, or with ``all_variants`` each; a variant ``EVERY`` is each. They are named, so that a report
    says which file it is about. Raises MissingError for what cannot run here.
    """
    chosen: list[Setup] = []
    skipped: list[Skipped] = []
    as_written: list[Setup] = []
    asked: list[str] = []
    for wanted in as_setups(setups):
        requested = tuned_setup(bundle, wanted, batches, progress) if wanted.backend == TUNED else wanted
        candidates = _of_variants(bundle, requested, all_variants)
        asked += [candidate.variant for candidate in candidates]
        every = requested.backend == EVERY
        runnable, absent = _present(bundle, candidates) if every else _able(bundle, candidates)
        unasked = _telling_nothing(bundle, runnable) if every and len(candidates) > 1 else {}
        chosen += [setup for setup in runnable if setup not in unasked]
        skipped += [*_rows(absent, runnable), *(_row(setup, reason) for setup, reason in unasked.items())]
        as_written += _node_by_node(bundle, runnable)
    run = {setup.variant for setup in (*chosen, *as_written)}
    not_run = tuple(dict.fromkeys(variant for variant in asked if variant not in run))
    return Choice(tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(skipped)), tuple(dict.fromkeys(as_written)), not_run)


def _of_variants(bundle: Bundle, requested: Setup, all_variants: bool) -> list[Setup]:
    """The setup for each variant that it is about."""
    variant = requested.variant or (EVERY if all_variants else "")
    names = [each.name for each in bundle.manifest.variants] if variant == EVERY else [bundle.variant(variant).name]
    return [msgspec.structs.replace(requested, variant=name) for name in names]


def _telling_nothing(bundle: Bundle, setups: Iterable[Setup]) -> dict[Setup, str]:
    """The setups of which the table says that they show nothing, and why; none where all do, which is all that can be shown."""
    reasons = {setup: row_of(setup.backend).tells_nothing_of.get(bundle.variant(setup.variant).precision) for setup in setups}
    unasked = {setup: reason for setup, reason in reasons.items() if reason is not None}
    return unasked if len(unasked) < len(reasons) else {}


def _node_by_node(bundle: Bundle, setups: Iterable[Setup]) -> Iterator[Setup]:
    """Setups that run files in fewer bits as they are written, on the backends of ``setups`` that can."""
    for setup in setups:
        options, variant = row_of(setup.backend).as_written, bundle.variant(setup.variant)
        if options is not None and recorded_as_written(bundle, variant):
            yield checked(msgspec.structs.replace(setup, options={**setup.options, **options}))


def recorded_as_written(bundle: Bundle, variant: Variant) -> bool:
    """Whether the outputs are recorded that a variant's file in fewer bits gives where it runs node by node.

    A converted file records its own. Those of the exported one are the original's, unless it computes in integers, which another
    CPU may do otherwise: the export says so by a ``rounding``, and where it says none, the file does, if fingerprints of its
    values show that its nodes are those of the export. A file of full precision is held to its rounding noise in any case. Raises
    BundleError for what is no ONNX file.
    """
    if variant.conversion is not None:
        return True
    if variant != bundle.manifest.variants[0] or held_to_noise(bundle.manifest, variant):
        return False
    if variant.allowance.rounding is not None or bundle.read_of(variant.name, steps_between_floats):
        return True
    evidence, fixed = bundle.evidence(), fixed_batch(bundle.manifest.inputs) is not None
    return evidence is not None and not evidence.nodes and not fixed  # a bundle of one batch size never has fingerprints


def open_named(name: str, setup: Setup, bundle: Bundle, progress: Progress = SILENT) -> Opened:
    """Open the bundle's variant by the setup, under the name that tells it from the others of a report."""
    session = bundle.reading(
        lambda place: open_session(setup, bundle.files(setup.variant), progress),
        undo=lambda opened: opened.__exit__(None, None, None),
    )
    row = row_of(setup.backend)
    return Opened(name, setup, session, row.on_gpu, row.many_callers)


def _missing(bundle: Bundle, setup: Setup, candidates: Sequence[Setup]) -> Absence | None:
    """Why a setup cannot run its variant; an option that goes with the file of another of the ``candidates`` is for that one."""
    missing = absence(setup, bundle.files(setup.variant))
    if missing or len(candidates) == 1:
        return missing
    files = {bundle.sha256_of(candidate.variant): candidate.variant for candidate in candidates}
    owner = files.get(row_of(setup.backend).file_of(setup) or "", setup.variant)
    if owner == setup.variant:
        return None
    return Absence(f"what {setup.backend} was given goes with {owner}", f"name --variant {setup.variant} with its own")


def _able(bundle: Bundle, candidates: Sequence[Setup]) -> tuple[list[Setup], dict[Setup, Absence]]:
    """Those of one backend's setups that can run, and why the others cannot; raises MissingError where none can."""
    runnable: list[Setup] = []
    absent: dict[Setup, Absence] = {}
    for setup in map(checked, candidates):
        missing = _missing(bundle, setup, candidates)
        if missing:
            absent[setup] = missing
        else:
            runnable.append(setup)
    if not runnable:
        setup, missing = next(iter(absent.items()))
        raise missing.error(f"{setup.backend} cannot run here: ")
    return runnable, absent


def _present(bundle: Bundle, candidates: Sequence[Setup]) -> tuple[list[Setup], dict[Setup, Absence]]:
    """Every backend, with those of the options that are its own; an option must have a backend that is present."""
    options = candidates[0].options
    _check_known(options)
    runnable: list[Setup] = []
    absent: dict[Setup, Absence] = {}
    for setup in candidates:
        for name, row in table().items():
            own = {option: value for option, value in options.items() if option in row.options.__struct_fields__}
            own_setup = checked(msgspec.structs.replace(setup, backend=name, options=own))
            missing = _missing(bundle, own_setup, candidates)
            if missing:
                absent[own_setup] = missing
            else:
                runnable.append(own_setup)
    for option in options:
        able = takers(option)
        if not {ready.backend for ready in runnable} & set(able):
            raise next(missing for setup, missing in absent.items() if setup.backend == able[0]).error(
                f"{able[0]} cannot run here: "
            )
    if not runnable:
        raise MissingError("no backend works here", f"see edgekit doctor, or {pip_install('cpu')}")
    return runnable, absent


def _rows(absent: Mapping[Setup, Absence], runnable: Iterable[Setup]) -> Iterator[Skipped]:
    """A row for each backend that runs nothing, and one for each variant that a backend runs not although it runs others."""
    running, named = {setup.backend for setup in runnable}, set[str]()
    for setup, missing in absent.items():
        if setup.backend in running:
            yield Skipped.of(_variant_of(setup), missing)
        elif setup.backend not in named:
            named.add(setup.backend)
            yield Skipped.of(setup.backend, missing)


def _row(setup: Setup, reason: str) -> Skipped:
    """A row for what could run, and is left out because it would show nothing."""
    return Skipped(_variant_of(setup), reason, f"--variant {setup.variant} runs it", left_out=True)


def _variant_of(setup: Setup) -> str:
    return str(Setup(setup.backend, variant=setup.variant))


def _check_known(options: Mapping[str, Any]) -> None:
    for option in options:
        if not takers(option):
            word, fields = option.replace("_", "-"), {name for row in table().values() for name in row.options.__struct_fields__}
            near = did_you_mean(word, (*sorted(field.replace("_", "-") for field in fields), *OWN_WORDS))
            raise UsageError(f"no backend has the option {word!r}", f"check the spelling{near}")
