"""``edgekit.load``: a bundle in a program, from arrays and pictures of every kind, in threads and processes."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from PIL import Image

import edgekit
from edgekit.backends.fake import FakeSession
from edgekit.backends.tuned import FILE, keep_choice
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.state import kept
from edgekit.commands.predict import predict
from edgekit.errors import BundleError, DataError, MissingError, ModelError
from edgekit.model import Model, meaning_in
from edgekit.preprocess import PictureSource
from edgekit.setups import Setup
from edgekit.tensors import Array, BatchRange, Feed, TensorSpec
from tests.test_without_torch import TRAINING_ONLY, WITHOUT, without

IMAGE = TensorSpec("input", "float32", ("batch", 1, 28, 28))
LOGITS = TensorSpec("output", "float32", ("batch", 10))


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (50, 40)) -> Path:
    """A picture of noise with a bright band."""
    pixels = np.random.default_rng(seed).integers(0, 200, (*size, 3), np.uint8)
    pixels[: size[0] // 3, :, seed % 3] = 250
    Image.fromarray(pixels).save(path)
    return path


def faked(
    bundle: Path,
    run: Callable[[Feed], dict[str, Array]],
    backend: str = "torch",
    inputs: tuple[TensorSpec, ...] = (IMAGE,),
    outputs: tuple[TensorSpec, ...] = (LOGITS,),
) -> Model:
    """A Model whose session is the function ``run``."""
    opened = open_bundle(bundle)
    return Model(opened, Setup(backend), FakeSession(run, inputs, outputs), meaning_in(opened))


def sums(feed: Feed) -> dict[str, Array]:
    """A network whose outputs tell the samples apart."""
    return {"output": feed["input"].reshape(len(feed["input"]), -1)[:, :10]}


def test_labels_are_those_of_the_command(bundle: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with edgekit.load(bundle) as model:
        labelled = model.predict(path, top=4)
    (expected,) = predict(bundle, path, top=4).predictions
    assert labelled.guesses == expected.guesses
    assert (labelled.label, labelled.probability) == (expected.guesses[0].label, expected.guesses[0].probability)


def test_every_kind_of_source_gives_the_labels_of_the_file(bundle: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with Image.open(path) as image, Image.open(path) as unread:
        pixels = np.asarray(image)
        sources: list[PictureSource] = [str(path), path.read_bytes(), pixels, image, unread]
        with edgekit.load(bundle) as model:
            expected = model.predict(path)
            assert all(model.predict(source) == expected for source in sources)
            assert model.predict(picture(tmp_path / "b.png", 1)) != expected


def test_grey_and_transparent_arrays_are_pictures_too(bundle: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    with edgekit.load(bundle) as model:
        expected = model.predict(grey)
        assert model.predict(grey[:, :, None]) == model.predict(opaque) == expected
        assert model.predict(np.zeros((28, 28), np.uint8)) == model.predict(np.dstack([grey, grey, grey, np.zeros_like(grey)]))


def test_an_array_of_the_networks_own_size_needs_no_pillow(bundle: Path, environment: dict[str, str]) -> None:
    program = f"""{WITHOUT}
import edgekit, numpy as np
print(edgekit.load(sys.argv[1], "ort-cpu").predict(np.zeros((28, 28, 1), np.uint8)).label)
"""
    done = without(f"{TRAINING_ONLY},onnx,PIL", str(bundle), environment=environment, program=program)
    assert done.stdout.startswith("class "), done.stderr


def test_a_camera_s_orientation_is_applied_once_to_a_picture_that_pillow_opened(bundle: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.png"
    Image.open(picture(tmp_path / "b.png")).save(path, exif=exif)
    preprocess = open_bundle(bundle).manifest.preprocess
    assert preprocess is not None
    with Image.open(path) as image:
        assert (preprocess.open(image) == preprocess.open(path)).all()
        assert (preprocess.open(path) != preprocess.open(tmp_path / "b.png")).any()
        again = edgekit.preprocess.load_image(path)
    assert (preprocess.open(again) == preprocess.open(path)).all()


def test_several_pictures_are_labelled_each_as_if_alone(bundle: Path, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    with edgekit.load(bundle) as model:
        alone = [model.predict(path, top=10) for path in paths]
        for several in (model.predict(paths, top=10), model.predict(iter(paths), top=10), model.predict(arrays, top=10)):
            assert [one.label for one in several] == [one.label for one in alone]
            for mine, expected in zip(several, alone, strict=True):
                probabilities = {guess.label: guess.probability for guess in expected.guesses}
                assert {guess.label: guess.probability for guess in mine.guesses} == pytest.approx(probabilities, rel=1e-4)
        assert model.predict([]) == []
    assert len({one.guesses for one in alone}) == 5


def test_outputs_are_those_of_a_bare_session(bundle: Path) -> None:
    array = np.random.default_rng(0).standard_normal((7, 1, 28, 28)).astype(np.float32)
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    with edgekit.load(bundle, "ort-cpu threads=1") as model:
        np.testing.assert_allclose(model(array), session.run(None, {"input": array})[0], rtol=1e-5, atol=1e-5)
        (output,) = model({"input": array}).values()
        assert (output == model(array)).all()


@pytest.mark.parametrize("samples", [1, 4, 9])
def test_a_fixed_batch_takes_any_number_of_samples(bundle: Path, samples: int) -> None:
    sizes = []

    def run(feed: Feed) -> dict[str, Array]:
        sizes.append(len(feed["input"]))
        return sums(feed)

    fixed = TensorSpec("input", "float32", (4, 1, 28, 28))
    array = np.arange(samples * 784, dtype=np.float32).reshape(samples, 1, 28, 28)
    assert (faked(bundle, run, inputs=(fixed,))(array) == sums({"input": array})["output"]).all()
    assert set(sizes) == {4}


class InRanges(FakeSession):
    """A session that refuses sizes outside its ranges, as an engine does."""

    ranges = (BatchRange(2, 2, 2), BatchRange(8, 8, 16))

    def run(self, feed: Feed) -> dict[str, Array]:
        assert any(len(feed["input"]) in allowed for allowed in self.ranges)
        return super().run(feed)


@pytest.mark.parametrize("samples", [1, 2, 5, 12, 40])
def test_ranges_of_batches_take_any_number_of_samples(bundle: Path, samples: int) -> None:
    opened = open_bundle(bundle)
    model = Model(opened, Setup("torch"), InRanges(sums, (IMAGE,), (LOGITS,)), meaning_in(opened))
    array = np.arange(samples * 784, dtype=np.float32).reshape(samples, 1, 28, 28)
    assert (model(array) == sums({"input": array})["output"]).all()


@pytest.mark.parametrize(
    ("feed", "part"),
    [
        (np.zeros((1, 1, 28, 28)), "takes float32 batch x 1 x 28 x 28, but was given float64"),
        (np.zeros((1, 28, 28), np.float32), "was given float32 1x28x28"),
        (np.zeros((1, 1, 28, 27), np.float32), "was given float32 1x1x28x27"),
        (np.zeros((0, 1, 28, 28), np.float32), "no samples"),
        ({"inputs": np.zeros((1, 1, 28, 28), np.float32)}, "inputs"),
        ({}, "takes the inputs ['input']"),
        ([[1.0]], "was given a list"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_a_sentence(bundle: Path, feed: Array, part: str) -> None:
    with edgekit.load(bundle) as model, pytest.raises(ModelError) as refusal:
        model(feed)
    assert part in str(refusal.value)
    assert refusal.value.remedy


def test_several_inputs_need_their_names_and_as_many_samples_each(bundle: Path) -> None:
    other = TensorSpec("mask", "float32", ("batch", 3))
    model = faked(bundle, sums, inputs=(IMAGE, other))
    image, mask = np.zeros((2, 1, 28, 28), np.float32), np.zeros((2, 3), np.float32)
    assert model({"input": image, "mask": mask})["output"].shape == (2, 10)
    with pytest.raises(ModelError, match="name -> array"):
        model(image)
    with pytest.raises(ModelError, match="was given 1 samples, and others 2"):
        model({"input": image, "mask": mask[:1]})


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (b"no picture", "is not a picture of a format that is read"),
        (np.zeros((28, 28, 3)), "is float64 28 x 28 x 3, not uint8"),
        (np.zeros((3, 28, 28), np.uint8), "transpose it by (1, 2, 0)"),
        (np.zeros((28, 0, 3), np.uint8), "28 x 0 x 3"),
        (7, "is a int"),
    ],
)
def test_what_is_no_picture_is_refused_and_among_several_by_its_number(bundle: Path, source: PictureSource, part: str) -> None:
    good = np.zeros((5, 5, 3), np.uint8)
    with edgekit.load(bundle) as model:
        with pytest.raises(DataError) as refusal:
            model.predict(source)
        assert part in str(refusal.value)
        with pytest.raises(DataError) as refusal:
            model.predict([good, source])
    assert str(refusal.value).startswith("picture number 2 ")


def test_a_file_that_is_missing_is_named(bundle: Path) -> None:
    with edgekit.load(bundle) as model:
        for pictures in ("nowhere.png", ["nowhere.png"]):
            with pytest.raises(DataError, match=r"picture nowhere\.png does not exist"):
                model.predict(pictures)


def test_outputs_that_are_not_finite_name_the_picture(bundle: Path) -> None:
    model = faked(bundle, lambda feed: {"output": np.full((len(feed["input"]), 10), np.nan, np.float32)})
    with pytest.raises(DataError, match="outputs for picture number 1 are not finite"):
        model.predict([np.zeros((5, 5, 3), np.uint8)])


def test_a_bundle_without_labels_takes_arrays_alone(bundle: Path) -> None:
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    write_bundle(bundle, msgspec.structs.replace(opened.manifest, labels=(), preprocess=None), contents)
    with edgekit.load(bundle) as model:
        assert model(np.zeros((1, 1, 28, 28), np.float32)).shape == (1, 10)
        with pytest.raises(BundleError, match="records no preprocessing or labels"):
            model.predict(np.zeros((28, 28, 1), np.uint8))


def test_a_closed_model_says_so_and_can_be_closed_again(bundle: Path) -> None:
    model = edgekit.load(bundle)
    model.close()
    model.close()
    assert "closed" in repr(model)
    for call in (lambda: model(np.zeros((1, 1, 28, 28), np.float32)), lambda: model.predict(np.zeros((2, 2), np.uint8))):
        with pytest.raises(ModelError, match="is closed; load it again"):
            call()


def test_a_damaged_bundle_and_a_missing_backend_are_refused(bundle: Path) -> None:
    with pytest.raises(MissingError):
        edgekit.load(bundle, "ort-tensorrt")
    (bundle / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        edgekit.load(bundle)


@pytest.fixture
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))


@pytest.mark.usefixtures("_own_state")
def test_what_tune_chose_is_obeyed_unless_a_setup_is_given(bundle: Path) -> None:
    opened = open_bundle(bundle)
    chosen = Setup("ort-cpu", "float32", 1, options={"optimisation": "basic"})
    assert keep_choice(opened, chosen, "median_ms", 1, "today")
    with edgekit.load(bundle) as model, edgekit.load(bundle, "ort-cpu threads=2") as other:
        assert (model.setup.threads, model.setup.options) == (1, {"optimisation": "basic"})
        assert model.facts["graph optimisation"] == "basic"
        assert (other.setup.threads, other.setup.options, other.backend) == (2, {}, "ort-cpu")
        assert not model.notes


@pytest.mark.usefixtures("_own_state")
def test_a_choice_of_another_machine_is_a_note(bundle: Path) -> None:
    opened = open_bundle(bundle)
    path = keep_choice(opened, Setup("ort-cpu", "float32", 1), "median_ms", 1, "today")
    assert path is not None
    document = json.loads(kept(opened, FILE) or b"")
    path.write_text(json.dumps(document | {"machine": {"cpu": "another"}}))
    with edgekit.load(bundle) as model:
        assert model.setup.threads is None
        assert "is ignored" in model.notes[0]


class Meeting:
    """A network in which two threads meet, where two may be inside of it at once; each waits so many seconds for the other."""

    def __init__(self, patience: float) -> None:
        self.met, self._barrier = False, threading.Barrier(2, timeout=patience)

    def __call__(self, feed: Feed) -> dict[str, Array]:
        try:
            self._barrier.wait()
            self.met = True
        except threading.BrokenBarrierError:  # nobody came
            pass
        return sums(feed)


@pytest.mark.parametrize(("backend", "together"), [("tensorrt", False), ("ort-cpu", True), ("torch-cuda", True)])
def test_threads_run_at_once_only_where_the_runtime_lets_them(bundle: Path, backend: str, together: bool) -> None:
    network = Meeting(600 if together else 0.5)
    model, array = faked(bundle, network, backend), np.zeros((1, 1, 28, 28), np.float32)
    threads = [threading.Thread(target=model, args=(array,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1200)
        assert not thread.is_alive()
    assert network.met == together


def test_threads_get_their_own_answers(bundle: Path, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    wrong: list[int] = []
    with edgekit.load(bundle, "ort-cpu threads=1") as model:
        expected = [model.predict(path) for path in paths]

        def label(place: int) -> None:
            wrong.extend(place for _ in range(25) if model.predict(paths[place]) != expected[place])

        threads = [threading.Thread(target=label, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len({one.guesses for one in expected}) == 4


def test_closing_waits_for_a_call_that_is_running(bundle: Path) -> None:
    inside, go, order = threading.Event(), threading.Event(), []

    def run(feed: Feed) -> dict[str, Array]:
        inside.set()
        go.wait(600)
        order.append("ran")
        return sums(feed)

    model = faked(bundle, run, "tensorrt")
    caller = threading.Thread(target=model, args=(np.zeros((1, 1, 28, 28), np.float32),))

    def close() -> None:
        model.close()
        order.append("closed")

    closer = threading.Thread(target=close)
    caller.start()
    inside.wait(600)
    closer.start()
    go.set()
    caller.join()
    closer.join()
    assert order == ["ran", "closed"]


def test_a_pickled_model_opens_the_same_bundle_with_the_same_setup(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    array = np.zeros((1, 1, 28, 28), np.float32)
    with edgekit.load(bundle.name, "ort-cpu threads=1 optimisation=basic") as model:
        content, expected = pickle.dumps(model), model(array)
    monkeypatch.chdir("/")
    with pickle.loads(content) as again:
        assert again.setup == model.setup
        assert (again(array) == expected).all()
    assert len(content) < 2000


def test_a_pickled_model_refuses_another_bundle_in_its_place(bundle: Path) -> None:
    with edgekit.load(bundle) as model:
        content = pickle.dumps(model)
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    write_bundle(bundle, msgspec.structs.replace(opened.manifest, name="another"), contents)
    with pytest.raises(BundleError, match="is another than the model was loaded from"):
        pickle.loads(content)


def test_a_pool_that_is_given_a_model_labels_as_it_does(bundle: Path, tmp_path: Path) -> None:
    with edgekit.load(bundle, "ort-cpu threads=1") as model:
        path = picture(tmp_path / "a.png")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(model.predict, (path,)) == model.predict(path)


def test_a_model_from_before_a_fork_says_so_and_does_not_wait_for_ever(bundle: Path, environment: dict[str, str]) -> None:
    program = f"""
import multiprocessing, numpy, edgekit
model = edgekit.load({str(bundle)!r}, "ort-cpu threads=4")
def call(number):
    try:
        model(numpy.zeros((1, 1, 28, 28), numpy.float32))
    except edgekit.errors.ModelError as problem:
        model.close()
        return str(problem)
model.warm_up()
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(call, [1])[0])
print(model(numpy.zeros((1, 1, 28, 28), numpy.float32)).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert "was loaded before this process was forked; load it in this process" in done.stdout, done.stderr
    assert done.stdout.endswith("(1, 10)\n")


def test_a_program_needs_one_runtime_alone(bundle: Path, environment: dict[str, str]) -> None:
    program = f"""{WITHOUT}
import edgekit, numpy as np
with edgekit.load(sys.argv[1]) as model:
    model.warm_up()
    print(model.backend, model.predict([np.zeros((40, 30, 3), np.uint8)] * 2)[1].label)
"""
    done = without(f"{TRAINING_ONLY},onnx,tensorrt_rtx,openvino", str(bundle), environment=environment, program=program)
    assert done.stdout.startswith("ort-cpu class "), done.stderr
    failing = without(f"{TRAINING_ONLY},onnxruntime", str(bundle), environment=environment, program=program)
    assert "MissingError: ort-cpu cannot run here" in failing.stderr


def test_warming_up_runs_each_of_the_sizes(bundle: Path) -> None:
    sizes = []

    def run(feed: Feed) -> dict[str, Array]:
        sizes.append(len(feed["input"]))
        return sums(feed)

    model = faked(bundle, run)
    model.warm_up()
    assert set(sizes) == {1}
    model.warm_up(2, 5)
    assert set(sizes) == {1, 2, 5}
