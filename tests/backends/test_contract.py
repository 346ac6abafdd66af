"""The contract that every backend keeps: what each session says, gives and leaves alone."""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgekit.backends import open_session, table
from edgekit.backends.contract import Session
from edgekit.backends.fake import FakeSession
from edgekit.bundle.files import ModelFiles
from edgekit.tensors import Feed, sample_feed
from tests.ways import way


@pytest.fixture(params=["fake", "torch", "ort-cpu", "openvino"])
def backend(request: pytest.FixtureRequest, files: ModelFiles) -> Iterator[Session]:
    if request.param == "fake":
        facts = {"fake": "1", "threads": "1"}
        session: Session = FakeSession(
            lambda feed: {"output": feed["input"].reshape(-1, 784)[:, :10] * 2}, files.inputs, files.outputs, facts=facts
        )
    else:
        session = open_session(way(request.param, threads=1), files)
    with session as entered:
        assert entered is session
        yield entered


def feed_of(backend: Session, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    return sample_feed(backend.inputs, batch, seed)


def test_a_session_says_its_tensors(backend: Session, files: ModelFiles) -> None:
    assert backend.inputs == files.inputs
    assert backend.outputs == files.outputs


@pytest.mark.parametrize("batch", [1, 5])
def test_run_gives_the_named_outputs_in_their_shape_and_dtype(backend: Session, batch: int) -> None:
    outputs = backend.run(feed_of(backend, batch))
    assert list(outputs) == [spec.name for spec in backend.outputs]
    for spec in backend.outputs:
        assert outputs[spec.name].shape == spec.concrete(batch)
        assert str(outputs[spec.name].dtype) == spec.dtype


def test_the_caller_owns_the_outputs_and_keeps_the_inputs(backend: Session) -> None:
    feed, other = feed_of(backend, 5), feed_of(backend, 5, seed=1)
    before = {name: array.copy() for name, array in feed.items()}
    first = backend.run(feed)["output"]
    kept = first.copy()
    backend.run(other)
    np.testing.assert_array_equal(first, kept)  # a later run does not reach into it
    first.fill(np.nan)
    np.testing.assert_array_equal(backend.run(feed)["output"], kept)
    for name, array in before.items():
        np.testing.assert_array_equal(feed[name], array)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_bound_call_can_be_repeated_and_leaves_run_alone(backend: Session, batch: int) -> None:
    feed = feed_of(backend, batch)
    before = backend.run(feed)["output"]
    call = backend.bind(feed)
    assert [call(), call()] == [None, None]
    np.testing.assert_array_equal(backend.run(feed)["output"], before)


def test_the_table_says_which_backends_compute_on_a_gpu() -> None:
    assert [name for name, row in table().items() if row.on_gpu] == ["torch-cuda", "ort-cuda", "ort-tensorrt", "tensorrt"]


def test_a_session_that_several_threads_call_at_once_gives_each_its_own_outputs(
    request: pytest.FixtureRequest, backend: Session, files: ModelFiles
) -> None:
    kind = request.node.callspec.params["backend"]
    if kind != "fake":
        assert table()[kind].many_callers
    feeds = [feed_of(backend, 3, seed) for seed in range(8)]
    expected = [backend.run(feed)["output"] for feed in feeds]
    for own, outputs in zip(expected, called_at_once(backend, feeds), strict=True):
        for output in outputs:
            np.testing.assert_array_equal(output, own)


def test_bound_calls_of_several_threads_leave_each_other_alone(backend: Session) -> None:
    feeds = [feed_of(backend, 3, seed) for seed in range(4)]
    expected = [backend.run(feed)["output"] for feed in feeds]
    calls = [backend.bind(feed) for feed in feeds]
    with ThreadPoolExecutor(len(calls)) as threads:
        assert list(threads.map(lambda call: [call() for _ in range(5)], calls)) == [[None] * 5] * 4
    for feed, own in zip(feeds, expected, strict=True):
        np.testing.assert_array_equal(backend.run(feed)["output"], own)


def test_a_thread_may_call_a_session_after_a_bound_call_is_gone(backend: Session) -> None:
    """OpenVINO keeps a pointer to what was bound; with the request gone another thread's call crashes the process."""
    feed = feed_of(backend, 3)
    call = backend.bind(feed)
    call()
    del call
    (outputs,) = called_at_once(backend, [feed], rounds=20)
    expected = backend.run(feed)["output"]
    for output in outputs:
        np.testing.assert_array_equal(output, expected)


def test_the_check_of_many_callers_sees_a_session_with_one_buffer() -> None:
    buffer, together = np.zeros(3, np.float32), threading.Barrier(4)

    def function(feed: Feed) -> dict[str, np.ndarray]:
        buffer[:] = feed["x"]
        together.wait()  # all have written
        outputs = {"output": buffer.copy()}
        together.wait()  # all have read
        return outputs

    feeds = [{"x": np.full(3, seed, np.float32)} for seed in range(4)]
    outputs = called_at_once(FakeSession(function), feeds, rounds=2)
    wrong = [not np.array_equal(output, feed["x"]) for feed, own in zip(feeds, outputs, strict=True) for output in own]
    assert sum(wrong) == 6  # of each round the last writer's is right


def called_at_once(session: Session, feeds: list[dict[str, np.ndarray]], rounds: int = 10) -> list[list[np.ndarray]]:
    """The outputs of one thread for each feed, which all begin together and call ``run`` several times."""
    start = threading.Barrier(len(feeds))

    def caller(feed: Feed) -> list[np.ndarray]:
        start.wait()
        return [session.run(feed)["output"] for _ in range(rounds)]

    with ThreadPoolExecutor(len(feeds)) as threads:
        return list(threads.map(caller, feeds))


def test_the_table_says_whose_sessions_take_one_caller_at_a_time() -> None:
    assert [name for name, row in table().items() if not row.many_callers] == ["tensorrt"]


def test_facts_are_plain_strings(backend: Session) -> None:
    assert backend.facts
    assert all(type(key) is str and type(value) is str for key, value in backend.facts.items())


@pytest.mark.parametrize(("kind", "package"), [("torch", "torch"), ("ort-cpu", "onnxruntime"), ("openvino", "openvino")])
def test_facts_name_the_version_the_precision_and_the_threads(kind: str, package: str, files: ModelFiles) -> None:
    with open_session(way(kind, threads=1), files) as opened:
        assert importlib.import_module(package).__version__.startswith(opened.facts[package])
        assert opened.facts[package].count(".") == 2
        assert opened.facts["precision"] == "float32"
        assert opened.facts["threads"] == "1"
    with open_session(way(kind, threads=2), files) as opened:
        assert opened.facts["threads"] == "2"


def test_the_runtimes_agree_and_a_fake_that_computes_something_else_does_not(files: ModelFiles) -> None:
    feed = sample_feed(files.inputs, 3)
    with open_session(way("torch"), files) as torch, open_session(way("ort-cpu"), files) as ort:
        np.testing.assert_allclose(ort.run(feed)["output"], torch.run(feed)["output"], atol=1e-5)
        assert np.abs(ort.run(sample_feed(files.inputs, 3, 1))["output"] - torch.run(feed)["output"]).max() > 1e-5


def test_a_fake_backend_is_its_function() -> None:
    seen: list[Feed] = []

    def record(feed: Feed) -> dict[str, np.ndarray]:
        seen.append(feed)
        return {"y": feed["x"] + 1}

    fake = FakeSession(record)
    feed = {"x": np.zeros(2, np.float32)}
    np.testing.assert_array_equal(fake.run(feed)["y"], [1, 1])
    fake.bind(feed)()
    assert seen == [feed, feed]
