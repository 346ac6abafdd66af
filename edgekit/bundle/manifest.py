"""``manifest.json``: everything about a bundle as data, and the JSON schema of that file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edgekit.bundle.provenance import Provenance
from edgekit.bundle.schemas import only_known, upgraded
from edgekit.errors import FETCH_AGAIN, BundleError, UsageError
from edgekit.files import check_name
from edgekit.preprocess import AsDecoded, Intake, Preprocess
from edgekit.reports.export import FoldReport
from edgekit.reports.quantize import KeptNode
from edgekit.setups import EVERY
from edgekit.spelling import did_you_mean
from edgekit.tensors import TensorSpec, fixed_batch, shape_text
from edgekit.tolerance import Tolerance

MANIFEST, MODEL, GOLDEN, WEIGHTS, CARD = "manifest.json", "model.onnx", "golden.npz", "weights.safetensors", "README.md"
EVIDENCE, BOM = "evidence.npz", "bom.cdx.json"
SSH, OPENSSF = "manifest.json.sig", "model.sig"
SIGNATURES = (SSH, OPENSSF)
"""What ``ssh-keygen -Y sign manifest.json`` and ``model_signing sign`` call their files, which no manifest can list."""
SCHEMA = 5
READS_FROM = 4
"""The oldest schema whose readers understand a manifest written now, unless it says what only newer ones follow."""
MAX_MANIFEST_BYTES = 16 << 20
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
"""A part of 1."""


def reads_from(preprocess: Preprocess | None, inputs: Sequence[TensorSpec], *, own_inputs: bool = False) -> int:
    """The oldest schema whose readers do right by a bundle.

    Readers of schema 4 know no ``white``, no fixed batch, and no variant with ``own_inputs``.
    """
    white = preprocess is not None and preprocess.white is not msgspec.UNSET
    return SCHEMA if white or own_inputs or fixed_batch(inputs) is not None else READS_FROM


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: its sha256, and its ``size`` in bytes."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Meta(ge=0)]


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a variant may be from the bundle's reference.

    ``accuracy_points``: how many hundredths of accuracy the variant may lose on a labelled set; None if undecided. ``snr_db``:
    the least 10 log10(sum r^2 / sum (y - r)^2) of every output over the first part of the golden samples, in dB; None: any.
    ``steps``: how far an output may be from the variant's own recorded one on the first part, in steps of 1/127 of the part's
    scale; None: not compared. ``rounding``: the same on every part where the file is computed node by node, as it was recorded:
    what rounding between its nodes may do. An exported file in fewer bits is held to the original's recorded outputs so.
    """

    tolerance: Tolerance
    accuracy_points: Annotated[float, Meta(ge=0)] | None = None
    snr_db: Annotated[float, Meta(ge=0)] | None = None
    steps: Annotated[float, Meta(gt=0)] | None = None
    rounding: Annotated[float, Meta(ge=0)] | None = None


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ranges of an int8 file come from.

    ``source`` says in words which ``samples``; ``sha256`` is that of the float32 arrays the network was given. ``method`` is
    ``minmax`` or ``mse``, or ``trained`` where training for int8 has learnt the ranges: ``sha256`` is then that of the training's
    data set. ``calibrated`` is false for random numbers, whose ranges mean nothing for pictures.
    """

    source: str
    samples: Annotated[int, Meta(ge=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    method: Literal["minmax", "mse", "trained"]
    calibrated: bool = True


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast a converted file was beside the bundle's first one, on the CPU of the machine that made it.

    ``times``: the first file's median latency over this one's, in ``runtime`` such as ``onnxruntime 1.32.0``, taking turns,
    ``batch`` samples at once; None where it was not timed, or the timing was noisy, for the ``reason`` that is then given.
    ``machine``: facts of that machine, such as ``cpu`` and its ``instruction sets``.
    """

    times: Annotated[float, Meta(gt=0, le=1e6)] | None
    reason: str = ""
    batch: Annotated[int, Meta(ge=1)] = 1
    runtime: str = ""
    machine: dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.times is None) != bool(self.reason):
            raise ValueError("a speed has either a figure or a reason why it has none")


class Conversion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a variant was made from the bundle's first one.

    ``outputs`` is the file with the variant's own outputs on the golden inputs, as ONNX Runtime computes them without
    optimisations; ``ranges`` the file with the range table, None for float16. ``converted`` is the number of layers in the new
    precision, ``kept`` are those that are not, and why. ``floor``: runtime -> the oldest release that runs the file as meant.
    ``cpu``: the instruction sets of the CPU that ``accuracy`` was measured on, because int8 depends on them. ``notes``: those of
    the manifest's notes that are about this variant. ``speed`` is what ``edgekit quantize`` measured; left out by ``edgekit
    export``, which times nothing, because it writes the same bytes every time.
    """

    outputs: str
    converted: Annotated[int, Meta(ge=0)]
    kept: tuple[KeptNode, ...] = ()
    ranges: str | None = None
    calibration: Calibration | None = None
    floor: dict[str, str] = {}
    cpu: str = ""
    notes: tuple[str, ...] = ()
    speed: Speed | msgspec.UnsetType = msgspec.UNSET


class GoldenPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Golden samples of one kind, such as ``pictures`` or ``extremes``: so many in a row."""

    kind: Annotated[str, Meta(min_length=1)]
    samples: Annotated[int, Meta(ge=1)]


class GoldenPicture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture as a file, which goes the whole way: decoded, resized and normalised it is the golden ``sample``.

    ``label``: the number of the class that the original gives it.
    """

    file: str
    sample: Annotated[int, Meta(ge=0)]
    label: Annotated[int, Meta(ge=0)]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Origin of the golden inputs: ``test-set`` pictures in order, or ``random`` normal numbers by ``seed``.

    ``axes``: free axis -> its size in all of them, beside the batch; left out where there is none.

    ``parts`` are the kinds of samples in order, each with a noise floor of its own; empty in bundles without floors.
    ``pictures``: some samples as picture files.

    ``original_error`` is the error of scale of the original in its own dtype against its float64 run: a yardstick for every
    backend. It is None if the original could not be run in float64 and is its own reference. ``reference`` describes, in words
    for a report, which model computed the recorded float64 outputs.
    """

    file: str
    samples: Annotated[int, Meta(ge=1, le=1_000_000)]
    kind: Literal["test-set", "random"]
    seed: int
    original_error: float | None
    reference: Annotated[str, Meta(min_length=1)]
    parts: tuple[GoldenPart, ...] = ()
    pictures: tuple[GoldenPicture, ...] = ()
    axes: dict[str, Annotated[int, Meta(ge=1, le=65536)]] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.parts and sum(part.samples for part in self.parts) != self.samples:
            raise ValueError(f"the golden parts do not add up to {self.samples} samples")
        if any(picture.sample >= self.samples for picture in self.pictures):
            raise ValueError(f"a golden picture is of none of {self.samples} samples")


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX file of the bundle's network, in a precision of its own.

    ``error`` is the file's error of scale against the float64 reference, measured when the file was written; None if not
    recorded. ``accuracy`` is a share of 1 on a labelled set; None if not measured. ``made_by`` is free-form: the command, its
    version and its arguments. ``conversion``: how ``edgekit quantize`` made it; None for an exported file.

    ``inputs`` and ``golden``: what the file takes where that is not what the network takes, and golden samples of it, whose
    reference outputs are the file's own float64 values. Left out: those of the bundle.
    """

    name: str
    file: str
    precision: str
    allowance: Allowance
    error: float | None = None
    accuracy: Share | None = None
    made_by: dict[str, Any] = {}
    conversion: Conversion | None = None
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET
    golden: Golden | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if (self.inputs is msgspec.UNSET) != (self.golden is msgspec.UNSET):
            raise ValueError(f"the variant {self.name!r} has inputs of its own without golden samples, or these without inputs")

    def intake(self, preprocess: Preprocess | None) -> Intake | None:
        """How pictures become its input, ``preprocess`` being the bundle's; None for a bundle without one."""
        return AsDecoded(preprocess.brightest) if preprocess is not None and self.inputs else preprocess


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured at export, in ``file``.

    ``axes``: output -> the axis of its channels, by which the noise floors are kept. ``runtimes``: backend -> the facts of the
    runtimes whose noise was measured, such as ``{"onnxruntime": "1.32.0"}``, in ``runs`` runs on a ``machine`` like ``x86_64``.
    ``data``: the fingerprint of the data set whose pictures the original's predictions in ``file`` belong to.
    """

    file: str
    axes: dict[str, Annotated[int, Meta(ge=0)]]
    runtimes: dict[str, dict[str, str]]
    machine: str
    runs: Annotated[int, Meta(ge=0)]
    data: str | None = None


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Origin of the model: a factory and its arguments, the recipe that trained it, and its weights."""

    model: str
    args: dict[str, Any]
    recipe: dict[str, Any] | None
    weights_sha256: str
    weights_file: str | None

    def of_recipe(self, table: str) -> dict[str, Any]:
        """The recipe's ``table``, such as ``data``; empty where there is none, or something else: it may be of any release."""
        keys = (self.recipe or {}).get(table)
        return keys if isinstance(keys, dict) else {}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle as data; ``test_accuracy`` is a share of 1 on the whole test set, of the first
    variant's file in ONNX Runtime; None if it was not measured.

    ``schema`` is the form of this file; ``reads_from`` is the oldest schema whose readers understand it: they may skip every
    field unknown to them. The first of the ``variants`` is the default. ``provenance`` is absent from bundles of older
    edgekits, which have no bill of materials either.
    """

    schema: Annotated[int, Meta(ge=1)]
    reads_from: Annotated[int, Meta(ge=1)]
    name: str
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    preprocess: Preprocess | None
    labels: tuple[str, ...]
    source: Source
    opset: int
    fold: FoldReport
    test_accuracy: Share | None
    golden: Golden
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    tools: dict[str, str]
    notes: tuple[str, ...]
    files: dict[str, FileEntry]
    evidence: Evidence | None = None
    provenance: Provenance | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.reads_from > self.schema:
            raise ValueError(f"reads_from is {self.reads_from}, beyond its own schema {self.schema}")

    def variant(self, name: str = "") -> Variant:
        """The variant ``name``, or the first if ``name`` is empty; raises UsageError that lists the bundle's variants."""
        for variant in self.variants:
            if name in ("", variant.name):
                return variant
        names = [variant.name for variant in self.variants]
        raise UsageError(
            f"bundle {self.name} has no variant {name!r}", f"choose one of: {', '.join(names)}{did_you_mean(name, names)}"
        )

    @property
    def origin(self) -> Provenance:
        """The ``provenance``; that of a bundle of an older edgekit knows nothing."""
        return self.provenance if isinstance(self.provenance, Provenance) else Provenance()

    @property
    def accuracies(self) -> dict[str, float]:
        """Variant -> its accuracy, as a share of 1 on the whole test set, of those that have one."""
        first, *others = self.variants
        shares = {first.name: self.test_accuracy if first.accuracy is None else first.accuracy}
        shares |= {variant.name: variant.accuracy for variant in others}
        return {name: share for name, share in shares.items() if share is not None}

    def inputs_of(self, name: str = "") -> tuple[TensorSpec, ...]:
        """What the variant ``name`` takes."""
        own = self.variant(name).inputs
        return self.inputs if own is msgspec.UNSET else own

    def golden_of(self, name: str = "") -> Golden:
        """The golden samples of what the variant ``name`` takes."""
        own = self.variant(name).golden
        return self.golden if own is msgspec.UNSET else own

    def to_json(self) -> bytes:
        """Indented, in the order of the fields; the same manifest gives the same bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def files_of(variant: Variant) -> list[str]:
    """The names of the files that belong to a variant alone, its ONNX file first."""
    conversion = variant.conversion
    made = (conversion.outputs, conversion.ranges) if conversion is not None else ()
    own = () if variant.golden is msgspec.UNSET else (variant.golden.file,)
    return [variant.file, *(name for name in (*made, *own) if name is not None)]


def decode_manifest(content: bytes, path: Path) -> Manifest:
    """Read a manifest of any schema up to today's, or a newer one whose ``reads_from`` allows it; raises BundleError."""
    try:
        manifest = msgspec.convert(_in_todays_form(msgspec.json.decode(content, type=dict[str, Any]), path), Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as problem:
        raise BundleError(f"{path} is damaged: {problem}", FETCH_AGAIN) from None
    for spec in (*manifest.inputs, *manifest.outputs, *_own_inputs(manifest)):
        if not spec.shape:
            raise BundleError(f"{path} gives {spec.name!r} no axes, and samples are the first axis", FETCH_AGAIN)
        sizes = [axis for axis in spec.shape if isinstance(axis, int)]
        if spec.shape[0] == 0 or min(sizes, default=0) < 0:
            raise BundleError(f"{path} gives {spec.name!r} the shape {shape_text(spec.shape)}, which no tensor has", FETCH_AGAIN)
    _check_files(manifest, path)
    _check_variants(manifest.variants, path)
    return manifest


def _own_inputs(manifest: Manifest) -> Iterator[TensorSpec]:
    """The inputs of variants that have some of their own."""
    for variant in manifest.variants:
        if variant.inputs is not msgspec.UNSET:
            yield from variant.inputs


def json_schema() -> bytes:
    """The JSON schema of a manifest in today's form, from the structs above."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"edgekit manifest.json, schema {SCHEMA}"}
    schema = head | msgspec.json.schema(Manifest)
    for described in schema["$defs"].values():
        described["description"] = cleandoc(described["description"])  # Python 3.13 cleans docstrings itself
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _in_todays_form(document: dict[str, Any], path: Path) -> dict[str, Any]:
    schema = document.get("schema")
    if not isinstance(schema, int) or schema == SCHEMA:
        return document
    if schema < SCHEMA:
        return upgraded(document, schema)
    oldest = document.get("reads_from")
    if not isinstance(oldest, int) or oldest > SCHEMA:
        raise BundleError(f"{path} has schema {schema}, and this edgekit reads up to {SCHEMA}", "upgrade edgekit")
    readable: dict[str, Any] = only_known(document, Manifest)
    return readable


def _check_files(manifest: Manifest, path: Path) -> None:
    used = [manifest.golden.file, *(name for variant in manifest.variants for name in files_of(variant))]
    used += [manifest.source.weights_file] if manifest.source.weights_file else []
    used += [picture.file for picture in manifest.golden.pictures]
    used += [manifest.evidence.file] if manifest.evidence else []
    for name in (*manifest.files, *used):
        if not check_name(name) or name in (MANIFEST, *SIGNATURES):
            raise BundleError(f"{path} lists the file {name!r}, which is no plain name in its folder", "do not use this bundle")
    for name, what in ((CARD, "the model card"), (BOM, "the bill of materials")):
        if name in used:
            raise BundleError(f"{path} lists {name}, which is {what}, as a part of the network", "do not use this bundle")
    missing = sorted(set(used) - set(manifest.files))
    if missing:
        raise BundleError(f"{path} gives no checksum for {missing[0]}", FETCH_AGAIN)


def _check_variants(variants: Sequence[Variant], path: Path) -> None:
    """Raise BundleError unless every variant has a name and files of its own."""
    names = [variant.name for variant in variants]
    files = [name for variant in variants for name in dict.fromkeys(files_of(variant))]
    for name, count in Counter(names).items():
        if not check_name(name):
            raise BundleError(f"{path} calls a variant {name!r}, which is no plain name", FETCH_AGAIN)
        if name == EVERY:
            raise BundleError(f"{path} calls a variant {name!r}, which stands for all of them", FETCH_AGAIN)
        if count > 1:
            raise BundleError(f"{path} has two variants of the name {name!r}", FETCH_AGAIN)
    for file, count in Counter(files).items():
        if count > 1:
            raise BundleError(f"{path} has two variants of one file, {file}", FETCH_AGAIN)
