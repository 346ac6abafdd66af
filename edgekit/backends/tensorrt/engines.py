"""Engines are a cache, not an artefact: built where they run, found again only by everything that they depend on.

    <key>.plan         the plan alone, as trtexec and C++ programs load it
    <key>.plan.json    what it was built of, by what, for what, and its sha256
    timing-<...>.cache what a release of TensorRT measured on a GPU, for its next build

A plan without its record, or one that differs from it in anything, is built anew and never loaded.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.backends.tensorrt.flavour import TensorRT, runs_here
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.errors import EngineError, OutputError
from edgekit.files import cache_root, destination, opened, replacing
from edgekit.machine.cpu import system
from edgekit.machine.gpu import gpu_facts, tf32_fact, users_override
from edgekit.reports.build import LayerCount, PrecisionReport
from edgekit.tensors import TensorSpec

SCHEMA = 2
RECIPE = 3
"""To be raised when the same key would be built in another way, or judged by other rules."""
OF_THE_GPU, OF_THE_DRIVER = ("gpu", "compute_capability", "multiprocessors", "gpu_memory"), ("cuda", "driver")
WORDS = {
    "recipe": "edgekit's way to build",
    "inputs": "the inputs",
    "outputs": "the outputs",
    "tf32": "TF32",
    "gpu": "GPU",
    "kept": "the kept nodes",
}
MAX_RECORD_BYTES = 16 << 20


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a plan depends on; the fields about the GPU are empty where it was built for none in particular.

    Boards of one name differ in their multiprocessors and memory; ``tf32`` is what the options and CUDA's variable make of it.

    ``converted`` and ``kept`` are what the manifest says of a converted file, by which its engine is judged; None, and no nodes,
    for another file.
    """

    onnx_sha256: str
    precision: str
    flavour: str
    version: str
    gpu: str
    compute_capability: str
    multiprocessors: str
    gpu_memory: str
    cuda: str
    driver: str
    system: str
    tf32: str
    recipe: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: BuildOptions
    converted: int | None = None
    kept: tuple[str, ...] = ()

    def digest(self) -> str:
        """The same key gives the same file name."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


class EngineRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON beside a plan."""

    schema: int
    key: EngineKey
    plan_sha256: str
    plan_bytes: int
    seconds: float
    cold_seconds: float | None
    timing_cache: str
    layers: tuple[LayerCount, ...]
    precision: PrecisionReport
    notes: tuple[str, ...] = ()

    def profile_for(self, batch: int) -> int:
        """The index of the narrowest profile that takes ``batch``; raises EngineError naming those there are."""
        profiles = self.key.options.profiles
        fitting = [(sizes.max - sizes.min, index) for index, sizes in enumerate(profiles) if batch in sizes]
        if fitting:
            return min(fitting)[1]
        ranges = ", ".join(map(str, profiles)) or "none, its batch is fixed"
        raise EngineError(f"the engine takes no batch of {batch} (min:opt:max: {ranges})", f"build it with --batch {batch}")


class Engine(NamedTuple):
    """A plan that has just been checked, with its record; ``path`` is None for one that failed its check and was not kept."""

    path: Path | None
    plan: bytes
    record: EngineRecord
    cached: bool


def key_of(trt: TensorRT, model: OnnxFile, options: BuildOptions) -> EngineKey:
    """The key of an engine of ``model``, built on this machine by ``options``."""
    # beside a GPU that it does not know, RTX builds byte by byte what it builds without one
    facts = gpu_facts() if trt.flavour.needs_gpu or runs_here(trt) else {}
    return EngineKey(
        onnx_sha256=hashlib.sha256(model.content).hexdigest(),
        precision=model.precision,
        flavour=trt.flavour.name,
        version=trt.version,
        gpu=facts.get("gpu", ""),
        compute_capability=facts.get("compute capability", ""),
        multiprocessors=facts.get("multiprocessors", ""),
        gpu_memory=facts.get("gpu memory", ""),
        cuda=facts.get("cuda driver", ""),
        driver=facts.get("driver", ""),
        system=system(),
        tf32=tf32_fact(options.tf32, users_override()),
        recipe=RECIPE,
        inputs=model.inputs,
        outputs=model.outputs,
        options=options,
        converted=model.conversion.converted if model.conversion else None,
        kept=tuple(node.node for node in model.conversion.kept) if model.conversion else (),
    )


def engine_folder() -> Path:
    """Where the cache keeps engines and timing caches."""
    return cache_root() / "engines"


def engine_path(key: EngineKey) -> Path:
    """Where the cache keeps the engine of ``key``."""
    return engine_folder() / f"{key.digest()}.plan"


def find_engine(key: EngineKey, path: Path | None = None) -> Engine | None:
    """The engine of ``key`` in the cache, or at ``path``, if it is whole and matches in everything; else None."""
    path = path or engine_path(key)
    record = read_record(path)
    if record is None or record.key != key or record.precision.problems:
        return None
    try:
        if path.is_symlink() or path.stat().st_size != record.plan_bytes:
            return None
        with opened(path) as stream:
            plan = stream.read()
    except (OSError, MemoryError):
        return None
    # what is given back is what was hashed: the file may be replaced by another build meanwhile
    return Engine(path, plan, record, True) if hashlib.sha256(plan).hexdigest() == record.plan_sha256 else None


def flavour_of_engine(path: Path) -> str:
    """The flavour that built the engine at ``path``; raises EngineError where no record of edgekit's says."""
    return _record_of(path).key.flavour


def file_of_engine(path: Path) -> str:
    """The sha256 of the ONNX file that the engine at ``path`` was built of; raises EngineError where no record says."""
    return _record_of(path).key.onnx_sha256


def open_engine(trt: TensorRT, model: OnnxFile, path: Path) -> Engine:
    """The engine at ``path``, or where it points to, and no other; raises EngineError that says in what it does not fit."""
    key = _record_of(path).key
    local = key_of(trt, model, key.options)
    if key.onnx_sha256 != local.onnx_sha256:
        other = key.precision != model.precision
        raise EngineError(
            f"{path} is an engine of another file than {model.path}"
            + (f" (the engine is {key.precision}, the file {model.precision})" if other else ""),
            "give the bundle that it was built of" + (", and its --variant" if other else ""),
        )
    may_differ = _may_differ(trt, key, local)
    differing = [
        field for field in key.__struct_fields__ if field not in may_differ and getattr(key, field) != getattr(local, field)
    ]
    if differing:
        differences = ", ".join(
            f"{WORDS.get(field, field.replace('_', ' '))} {_differences(key, local, field)}" for field in differing
        )
        raise EngineError(f"{path} was built for something else ({differences})", build_again(path, model, key.options))
    engine = find_engine(key, Path(os.path.realpath(path)))
    if engine is None:
        raise EngineError(f"{path} is not the plan that its record tells of", build_again(path, model, key.options))
    return engine


def _record_of(path: Path) -> EngineRecord:
    """Raises EngineError that says what is missing."""
    place = Path(os.path.realpath(path))
    record = read_record(place) if path.name not in ("", "..") and os.path.isfile(place) else None
    if record is not None:
        return record
    if not os.path.isfile(place):
        problem = "is not a file" if os.path.exists(place) else "does not exist"
    elif not os.path.exists(record_path(place)):
        problem = f"is not an engine that edgekit built: its record {record_path(place).name} is not beside it"
    else:
        problem = f"is not an engine that this edgekit built: {record_path(place).name} is not a record of its own"
    raise EngineError(f"engine {str(path)!r} {problem}", "make it with edgekit build --output")


def _may_differ(trt: TensorRT, key: EngineKey, local: EngineKey) -> tuple[str, ...]:
    """Fields in which a loadable engine may differ from this machine: by its options, or because RTX compiles when it runs."""
    if trt.flavour.compiles_late and not key.gpu:
        return (*OF_THE_GPU, *OF_THE_DRIVER)
    release = ("version", *OF_THE_DRIVER) if key.version.partition(".")[0] == local.version.partition(".")[0] else ()
    return (*(OF_THE_GPU if key.options.hardware_compatible else ()), *(release if key.options.version_compatible else ()))


def _differences(key: EngineKey, local: EngineKey, field: str) -> str:
    built, now = getattr(key, field), getattr(local, field)
    return "differ" if isinstance(built, tuple) else f"{built or 'none'} there, {now or 'none'} here"


def build_again(path: Path, model: OnnxFile, options: BuildOptions) -> str:
    """The remedy for an engine that was given and does not do."""
    variant = ["--variant", model.variant] if model.variant else []
    return f"build it again: {' '.join(['edgekit build BUNDLE', *variant, *options.flags(), '--output', str(path)])}"


def store(path: Path, plan: bytes, record: EngineRecord) -> None:
    """Both are on the disk before either takes its place; until both have, the pair does not match and nobody loads it."""
    place = record_path(path)
    drop_links(path, place)
    # the record takes its place first: one without a plan is known for edgekit's own, and may be replaced
    with replacing(path) as temporary, replacing(place) as beside:
        temporary.write_bytes(plan)
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def drop_links(*places: Path) -> None:
    """A link is no engine's, see ``find_engine``, and what it points to is not ours to replace."""
    for place in places:
        if place.is_symlink():
            place.unlink()


def record_path(path: Path) -> Path:
    """``x.plan`` -> ``x.plan.json``."""
    return path.with_name(f"{path.name}.json")


def read_record(path: Path) -> EngineRecord | None:
    """The record beside the plan at ``path``; None where there is none, or none of this edgekit's."""
    try:
        place = record_path(path)
        if place.is_symlink() or place.stat().st_size > MAX_RECORD_BYTES:
            return None
        with opened(place) as stream:
            record = msgspec.json.decode(stream.read(), type=EngineRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if record.schema == SCHEMA else None


def check_names_a_file(path: Path) -> None:
    """Raise OutputError where neither an engine nor its record could ever be written: a folder, a pipe, an endless name."""
    if path.name == "-":
        raise OutputError("no engine is written to stdout, because its record goes beside it", "give --output a file's name")
    destination(path)
    destination(record_path(path))


def check_engine_replaceable(path: Path) -> None:
    """Raise OutputError unless ``path`` is free or an engine that edgekit put there."""
    for place in (path, record_path(path)):
        if (place.exists() or place.is_symlink()) and read_record(path) is None:
            raise OutputError(
                f"cannot write {path}: {place.name} is there and no engine of edgekit's",
                "move it away or choose another --output",
            )
