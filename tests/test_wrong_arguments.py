"""What a program gives the package by mistake is one edgekit error, which says what to do, and never Python's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.errors import BundleError, DataError, EdgekitError, InputError, ModelError, UsageError
from edgekit.files import as_path

Call = Callable[[Path, Any], object]
NO_PATHS = {"None": None, "a number": 3, "bytes": b"lenet", "a NUL": "len\0et", "a list": [1]}
# (a sound bundle, what is given in place of a path)
TAKING_PATHS: dict[str, Call] = {
    "load": lambda bundle, given: edgekit.load(given),
    "predict": lambda bundle, given: edgekit.predict(given, bundle / "picture-0.png"),
    "verify": lambda bundle, given: edgekit.verify(given),
    "bisect": lambda bundle, given: edgekit.bisect(given),
    "evaluate": lambda bundle, given: edgekit.evaluate(given),
    "inspect": lambda bundle, given: edgekit.inspect(given),
    "report": lambda bundle, given: edgekit.report(given),
    "diff": edgekit.diff,
    "build": lambda bundle, given: edgekit.build(given),
    "pack": lambda bundle, given: edgekit.pack(given),
    "unpack": lambda bundle, given: edgekit.unpack(given),
    "web": lambda bundle, given: edgekit.web(given, "page"),
    "quantize": lambda bundle, given: edgekit.quantize(given),
    "export": lambda bundle, given: edgekit.export(given),
    "ship_bundle": lambda bundle, given: edgekit.ship_bundle(given, edgekit.Forms("models")),
    "train": lambda bundle, given: edgekit.train(given),
    "run": lambda bundle, given: edgekit.run(given),
    "runs": lambda bundle, given: edgekit.runs([given]),
    "one of runs": lambda bundle, given: edgekit.runs(given),
    "pictures of predict": lambda bundle, given: edgekit.predict(bundle, [given]),
}
TAKING_OUTPUTS: dict[str, Call] = {
    "pack": edgekit.pack,
    "web": edgekit.web,
    "quantize": lambda bundle, given: edgekit.quantize(bundle, "float16", output=given),
    "report": edgekit.report,
    "ship_bundle": lambda bundle, given: edgekit.ship_bundle(str(bundle), edgekit.Forms(triton=given)),
    "runs": lambda bundle, given: edgekit.runs(root=given),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("given", NO_PATHS)
@pytest.mark.parametrize("function", TAKING_PATHS)
def test_what_is_no_path_is_refused_in_one_sentence(bundle: Path, function: str, given: str) -> None:
    with pytest.raises(EdgekitError) as refusal:
        TAKING_PATHS[function](bundle, NO_PATHS[given])
    assert refusal.value.remedy
    assert "\n" not in str(refusal.value)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("given", [3, b"lenet", "len\0et", [1]], ids=str)
@pytest.mark.parametrize("function", TAKING_OUTPUTS)
def test_what_is_no_place_to_write_to_is_refused_and_nothing_is_written(bundle: Path, function: str, given: Any) -> None:
    with pytest.raises(EdgekitError) as refusal:
        TAKING_OUTPUTS[function](bundle, given)
    assert refusal.value.remedy
    assert list(Path().iterdir()) == []


def test_text_is_as_good_a_path_as_any(bundle: Path) -> None:
    edgekit.pack(str(bundle), "lenet.zip")
    edgekit.unpack("lenet.zip", "again")
    edgekit.ship_bundle("again", edgekit.Forms("models", "golden"))
    assert sorted(path.name for path in Path().iterdir()) == ["again", "golden", "lenet.zip", "models"]


def test_a_path_is_text_or_a_path_without_a_nul() -> None:
    assert as_path("a/b", "bundle") == as_path(Path("a/b"), "bundle") == Path("a/b")
    for given, said in {
        None: "bundle was given as None, which is no path; give it as text or as a pathlib.Path",
        "": "bundle was given as '', which is no path; give it as text or as a pathlib.Path",
        "a\0b": "bundle a\0b has a NUL in its name, which no file has; check the path",
    }.items():
        with pytest.raises(BundleError) as refusal:
            as_path(given, "bundle", BundleError)
        assert str(refusal.value) == said
    with pytest.raises(InputError, match=r"given as b'x+, which"):
        as_path(b"x" * 1000, "bundle")


@pytest.mark.parametrize("setup", [3, b"ort-cpu", [None], object()], ids=["a number", "bytes", "None in a list", "an object"])
def test_what_is_no_setup_is_refused(bundle: Path, setup: Any) -> None:
    for call in (edgekit.load, edgekit.verify):
        with pytest.raises(UsageError) as refusal:
            call(bundle, setup)
        assert refusal.value.remedy
    with pytest.raises(UsageError):
        edgekit.Setup(setup)


def test_what_a_model_cannot_run_is_refused(bundle: Path) -> None:
    image = np.zeros((1, 1, 28, 28), np.float32)
    with edgekit.load(bundle) as model:
        for feed in ([1], None, 3, "picture.png", np.float32(1), np.zeros(()), np.array([None]), {3: image}, {"input": [1]}, {}):
            with pytest.raises(ModelError) as refusal:
                model(feed)  # type: ignore[arg-type]
            assert refusal.value.remedy
        for picture in (None, 3, object(), "a\0b.png", "", [None], [3], np.zeros(()), np.zeros((0, 0), np.uint8)):
            with pytest.raises(DataError):
                model.predict(picture)  # type: ignore[call-overload]
        for top in (0, -1, "3", None):
            with pytest.raises(UsageError, match="is no number of labels"):
                model.predict(bundle / "picture-0.png", top=top)  # type: ignore[arg-type]
        for size in (0, -1, "8", None, 1.5):
            with pytest.raises(UsageError, match="is no batch size"):
                model.warm_up(size)  # type: ignore[arg-type]
        model.warm_up(np.int64(2))


@pytest.mark.parametrize("word", [None, 3, b"x"], ids=str)
def test_a_word_that_is_no_text_is_refused_like_a_misspelt_one(bundle: Path, word: Any) -> None:
    for call in (
        lambda: edgekit.verify(bundle, "ort-cpu", allow=[word]),
        lambda: edgekit.quantize(bundle, word),
        lambda: edgekit.fetch_data(word),
        lambda: edgekit.report(bundle, "r.html", word),
    ):
        with pytest.raises(UsageError) as refusal:
            call()
        assert refusal.value.remedy


def test_an_unknown_format_of_a_report_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="has no format 'pdf'; use one of html, md, json, junit"):
        edgekit.report(bundle, "r.pdf", "pdf")  # type: ignore[arg-type]
    assert list(Path().iterdir()) == []
