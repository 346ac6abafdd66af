"""Engines are a cache: found again only by everything they depend on, whole, and by nobody while half-written."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.backends.tensorrt.build import build_engine
from edgekit.backends.tensorrt.engines import Engine, EngineKey, engine_path, find_engine, key_of, read_record, record_path, store
from edgekit.backends.tensorrt.flavour import TensorRT, find
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.errors import EngineError, OutputError
from edgekit.files import cache_root
from edgekit.tensors import BatchRange, TensorSpec
from tests.fake_trt import GPU, FakeTensorRT, layers_json
from tests.trt_listing import LISTINGS

OPTIONS = BuildOptions(profiles=(BatchRange(1, 2, 4), BatchRange(8, 8, 16)))


def onnx_file(bias: float = 0.0) -> OnnxFile:
    """A network small enough to be made in no time."""
    import numpy as np

    spec = (TensorSpec("input", "float32", ("batch", 4)),)
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])] for name in ("input", "output")]
    weights = [numpy_helper.from_array(np.eye(4, dtype=np.float32) + np.float32(bias), "w")]
    inputs, outputs = sides
    gemm = helper.make_node("Gemm", ["input", "w"], ["output"], name="gemm")
    graph = helper.make_graph([gemm], "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return OnnxFile(
        Path("model.onnx"), model.SerializeToString(), spec, (TensorSpec("output", "float32", ("batch", 4)),), "float32"
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    """TensorRT 10 on a machine with a GPU, and an empty cache; no two of its plans are equal."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return FakeTensorRT(LISTINGS[1]).install(monkeypatch)


@pytest.fixture
def trt(fake: FakeTensorRT) -> TensorRT:
    return find("tensorrt")


def made(trt: TensorRT, **more: Any) -> Engine:
    return build_engine(trt, onnx_file(), OPTIONS, **more)


def test_an_engine_is_built_once_and_found_afterwards(trt: TensorRT, fake: FakeTensorRT) -> None:
    first, second = made(trt), made(trt)
    assert (first.cached, second.cached) == (False, True)
    assert second.plan == first.plan
    assert second.record == first.record
    assert len(fake.builds) == 1
    assert find_engine(key_of(trt, onnx_file(), OPTIONS)) == second
    assert second.path == engine_path(second.record.key)
    assert second.path.is_relative_to(cache_root() / "engines")
    assert made(trt, rebuild=True).plan != first.plan


def test_the_plan_is_pure_and_its_facts_are_beside_it(trt: TensorRT) -> None:
    engine = made(trt)
    assert engine.path is not None
    assert engine.path.read_bytes() == engine.plan
    assert engine.record.plan_sha256 == hashlib.sha256(engine.plan).hexdigest()
    document = json.loads(record_path(engine.path).read_bytes())
    assert document["plan_bytes"] == len(engine.plan)
    assert document["key"]["onnx_sha256"] == hashlib.sha256(onnx_file().content).hexdigest()
    assert document["key"]["gpu"] == GPU["gpu"]
    assert document["key"]["options"]["profiles"][0] == {"min": 1, "opt": 2, "max": 4}


CHANGES: dict[str, Any] = {
    "onnx_sha256": "0" * 64,
    "precision": "float16",
    "flavour": "tensorrt-rtx",
    "version": "10.16.2",
    "gpu": "Another GPU",
    "compute_capability": "9.0",
    "multiprocessors": "8",
    "gpu_memory": "64 GiB",
    "system": "Linux aarch64",
    "tf32": "on",
    "recipe": 1,
    "inputs": (TensorSpec("input", "float32", ("batch", 5)),),
    "outputs": (TensorSpec("other", "float32", ("batch", 4)),),
    "cuda": "13.0",
    "driver": "580.1",
    "options": msgspec.structs.replace(OPTIONS, tf32=True),
    "converted": 3,
    "kept": ("gemm",),
}


def test_the_list_of_changes_is_the_whole_key() -> None:
    assert set(CHANGES) == {field.name for field in msgspec.structs.fields(EngineKey)}


@pytest.mark.parametrize("field", CHANGES)
def test_an_engine_that_differs_in_anything_is_not_found(trt: TensorRT, field: str) -> None:
    engine = made(trt)
    key = engine.record.key
    other = msgspec.structs.replace(key, **{field: CHANGES[field]})
    assert find_engine(other) is None
    assert find_engine(other, engine.path) is None  # not even where another's file is pointed at
    assert find_engine(key, engine.path) is not None
    assert engine_path(other) != engine_path(key)


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(BuildOptions)])
def test_every_option_is_part_of_the_key(trt: TensorRT, field: str) -> None:
    values = {"profiles": OPTIONS.profiles[:1], "workspace_mib": 7, "level": 5}
    other = msgspec.structs.replace(OPTIONS, **{field: values.get(field, True)})
    made(trt)
    assert find_engine(key_of(trt, onnx_file(), other)) is None


def test_another_gpu_or_driver_builds_anew(trt: TensorRT, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    for changed in GPU:
        made(trt)
        builds = len(fake.builds)
        monkeypatch.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda changed=changed: {**GPU, changed: "other"})
        assert not made(trt).cached
        assert len(fake.builds) == builds + 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "a bit flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "a link": link,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("side", ["plan", "record"])
def test_a_damaged_pair_is_rebuilt_and_never_given_out(trt: TensorRT, damage: str, side: str) -> None:
    engine = made(trt)
    assert engine.path is not None
    if (damage, side) == ("a bit flipped", "record"):  # which byte it hits decides whether it is JSON still
        record_path(engine.path).write_bytes(record_path(engine.path).read_bytes().replace(b'"seconds"', b'"secondz"'))
    else:
        DAMAGES[damage](engine.path if side == "plan" else record_path(engine.path))
    assert find_engine(engine.record.key) is None
    again = made(trt)
    assert not again.cached
    assert find_engine(engine.record.key) is not None


def edit(path: Path, *keys: str, value: Any) -> None:
    document = json.loads(record_path(path).read_bytes())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    record_path(path).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("plan_sha256",), "0" * 64),
        (("plan_bytes",), 1),
        (("plan_bytes",), "many"),
        (("schema",), 1),
        (("key", "driver"), "1"),
        (("key", "options", "tf32"), True),
        (("key", "options", "profiles"), [{"min": 8, "opt": 4, "max": 1}]),
        (("precision", "problems"), ["computes in float16"]),
        (("key", "new"), 1),
    ],
)
def test_a_record_that_somebody_edited_matches_nothing(trt: TensorRT, keys: tuple[str, ...], value: Any) -> None:
    engine = made(trt)
    assert engine.path is not None
    edit(engine.path, *keys, value=value)
    assert find_engine(engine.record.key) is None
    assert not made(trt).cached


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b" " * (17 << 20), b"null"])
def test_a_record_that_is_no_record_is_none(trt: TensorRT, content: bytes) -> None:
    engine = made(trt)
    assert engine.path is not None
    record_path(engine.path).write_bytes(content)
    assert read_record(engine.path) is None
    assert find_engine(engine.record.key) is None


def test_a_foreign_pair_under_the_right_name_is_not_given_out(trt: TensorRT) -> None:
    engine = made(trt)
    other = build_engine(trt, onnx_file(bias=1.0), OPTIONS)
    assert engine.path is not None
    assert other.path is not None
    engine.path.write_bytes(other.plan)
    record_path(engine.path).write_bytes(record_path(other.path).read_bytes())
    assert find_engine(engine.record.key) is None


def test_an_output_is_found_again_and_replaced_only_if_it_is_edgekits(trt: TensorRT, tmp_path: Path) -> None:
    place = tmp_path / "out" / "net.plan"
    first = made(trt, output=place)
    assert (first.path, first.cached) == (place, False)
    assert made(trt, output=place).cached
    other = build_engine(trt, onnx_file(bias=1.0), OPTIONS, output=place)
    assert not other.cached
    assert place.read_bytes() == other.plan
    assert sorted(os.listdir(place.parent)) == ["net.plan", "net.plan.json"]
    record_path(place).unlink()
    with pytest.raises(OutputError, match=r"net.plan is there and no engine of edgekit's; move it away"):
        made(trt, output=place)
    assert place.read_bytes() == other.plan


def test_somebody_elses_json_beside_the_output_is_kept(trt: TensorRT, tmp_path: Path) -> None:
    (tmp_path / "net.plan.json").write_text("{}")
    with pytest.raises(OutputError, match=r"net.plan.json is there and no engine of edgekit's"):
        made(trt, output=tmp_path / "net.plan")
    assert (tmp_path / "net.plan.json").read_text() == "{}"


def test_a_check_that_fails_keeps_the_engine_that_was_there(trt: TensorRT, fake: FakeTensorRT, tmp_path: Path) -> None:
    place = tmp_path / "net.plan"
    good = made(trt, output=place)
    fake.information = layers_json("Half")
    bad = made(trt, output=place, rebuild=True)
    assert bad.path is None
    assert bad.record.precision.problems
    assert find_engine(good.record.key, place) is not None


def test_a_disk_that_is_full_for_the_record_leaves_no_plan_of_which_nobody_knows(
    trt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real = tmp_path / "net.plan", Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if content.startswith(b"{") and b"plan_sha256" in content:
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="free some disk space"):
        made(trt, output=place)
    assert list(tmp_path.glob("*net.plan*")) == []
    monkeypatch.setattr(Path, "write_bytes", real)
    assert made(trt, output=place).path == place


def test_a_build_that_is_ended_between_the_two_files_can_be_done_again(
    trt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real, replaced = tmp_path / "net.plan", os.replace, list[str]()

    def ended(source: Any, target: Any) -> None:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(str(target))
        real(source, target)

    with monkeypatch.context() as ending:
        ending.setattr(os, "replace", ended)
        with pytest.raises(KeyboardInterrupt):
            made(trt, output=place)
    assert replaced == [str(record_path(place))]
    assert made(trt, output=place).path == place


@pytest.mark.parametrize("name", ["plan", "record", "timing"])
def test_what_cannot_be_replaced_in_the_cache_is_found_before_the_build(trt: TensorRT, fake: FakeTensorRT, name: str) -> None:
    engine = made(trt)
    assert engine.path is not None
    place = {"plan": engine.path, "record": record_path(engine.path), "timing": timing_caches()[0]}[name]
    place.unlink()
    place.mkdir()
    with pytest.raises(OutputError, match="a folder of that name is there"):
        made(trt, rebuild=True)
    assert len(fake.builds) == 1


def test_a_failed_build_keeps_the_engine_that_was_there(trt: TensorRT, fake: FakeTensorRT) -> None:
    good = made(trt)
    fake.build_error = "no"
    with pytest.raises(EngineError):
        made(trt, rebuild=True)
    assert find_engine(good.record.key) == good._replace(cached=True)


def test_writers_at_the_same_time_never_give_out_a_mixed_pair(trt: TensorRT) -> None:
    """Two plans of one key are written over and over while others look: each look gives one of the two, whole, or nothing."""
    first = made(trt)
    second = made(trt, rebuild=True)
    assert first.plan != second.plan
    assert first.path is not None
    place, key, seen, failures = first.path, first.record.key, set(), list[BaseException]()
    writing = [threading.Event(), threading.Event()]

    def write(engine: Engine, done: threading.Event) -> None:
        try:
            for _ in range(60):
                store(place, engine.plan, engine.record)
        except BaseException as problem:
            failures.append(problem)
        done.set()

    def look() -> None:
        try:
            while not all(done.is_set() for done in writing):
                entry = find_engine(key)
                if entry is not None:
                    assert hashlib.sha256(entry.plan).hexdigest() == entry.record.plan_sha256
                    seen.add(entry.plan)
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=write, args=pair) for pair in zip((first, second), writing, strict=True)]
    threads += [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen <= {first.plan, second.plan}
    store(place, second.plan, second.record)
    entry = find_engine(key)
    assert entry is not None
    assert entry.plan == second.plan
    assert [name for name in os.listdir(place.parent) if name.startswith(".")] == []


# measurements of an earlier build


def timing_caches() -> list[Path]:
    return sorted((cache_root() / "engines").glob("timing-*.cache"))


def test_a_build_reuses_what_an_earlier_one_measured_and_says_what_it_took_without(
    trt: TensorRT, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([0.0, 30.0, 100.0, 104.0])  # the second build is quicker
    monkeypatch.setattr("edgekit.backends.tensorrt.builder.time.perf_counter", lambda: next(ticks))
    cold = made(trt).record
    assert (cold.timing_cache, cold.seconds, cold.cold_seconds) == ("new", 30.0, 30.0)
    (place,) = timing_caches()
    assert place.read_bytes() == b"measured"
    warm = made(trt, rebuild=True).record
    assert (warm.timing_cache, warm.seconds, warm.cold_seconds) == ("reused", 4.0, 30.0)
    assert fake.builds[1][1]._cache._content == b"measured"


def test_what_a_build_of_another_network_measured_is_reused_but_its_time_is_not_compared(trt: TensorRT) -> None:
    made(trt)
    record = build_engine(trt, onnx_file(bias=1.0), OPTIONS).record
    assert record.timing_cache == "reused"
    assert record.cold_seconds is None


def test_measurements_that_tensorrt_refuses_are_not_used(trt: TensorRT, fake: FakeTensorRT) -> None:
    made(trt)
    (place,) = timing_caches()
    place.write_bytes(b"foreign")
    record = made(trt, rebuild=True).record
    assert fake.builds[1][1]._cache._content == b""
    assert record.timing_cache == "new"
    assert record.cold_seconds == record.seconds


def test_measurements_that_cannot_be_read_only_cost_time(trt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    made(trt)
    (place,) = timing_caches()
    real = Path.read_bytes

    def sealed(path: Path) -> bytes:
        if path == place:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", sealed)
    assert made(trt, rebuild=True).record.timing_cache == "new"


def test_a_build_that_had_to_measure_something_says_that_it_did(trt: TensorRT, fake: FakeTensorRT) -> None:
    made(trt)
    assert made(trt, rebuild=True).record.timing_cache == "reused"
    fake.measures_more = True
    assert made(trt, rebuild=True).record.timing_cache == "extended"


def test_each_release_and_gpu_has_measurements_of_its_own(trt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    made(trt)
    monkeypatch.setattr("edgekit.backends.tensorrt.engines.gpu_facts", lambda: {**GPU, "gpu": "Another GPU"})
    assert made(trt).record.timing_cache == "new"
    build_engine(trt._replace(version="10.17.0"), onnx_file(), OPTIONS)
    assert len(timing_caches()) == 3


def test_a_flavour_that_measures_nothing_says_so_and_keeps_nothing(fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    record = made(find("tensorrt-rtx")).record
    assert record.timing_cache == "this flavour has none: nothing is measured in its builds"
    assert timing_caches() == []


def test_a_flavour_that_measures_nothing_needs_no_cache_beside_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert made(find("tensorrt-rtx"), output=tmp_path / "net.plan").path == tmp_path / "net.plan"


def test_a_variable_that_takes_tf32_away_makes_another_engine_where_it_was_asked_for(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    allowed = msgspec.structs.replace(OPTIONS, tf32=True)
    made(trt)
    build_engine(trt, onnx_file(), allowed)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert made(trt).cached
    without = build_engine(trt, onnx_file(), allowed)
    assert (without.cached, without.record.key.tf32) == (False, "off: NVIDIA_TF32_OVERRIDE=0 forces it")


# which profile a batch belongs to


@pytest.mark.parametrize(("batch", "index"), [(1, 0), (4, 0), (8, 1), (16, 1)])
def test_a_batch_has_its_profile(trt: TensorRT, batch: int, index: int) -> None:
    assert made(trt).record.profile_for(batch) == index


@pytest.mark.parametrize("batch", [0, 5, 7, 17])
def test_a_batch_below_between_or_above_the_profiles_is_refused_with_those_there_are(trt: TensorRT, batch: int) -> None:
    with pytest.raises(
        EngineError, match=rf"takes no batch of {batch} \(min:opt:max: 1:2:4, 8:8:16\); build it with --batch {batch}"
    ):
        made(trt).record.profile_for(batch)
