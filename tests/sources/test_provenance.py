"""Where a bundle comes from: licence, author, time, commit, data and training, in the manifest, the card and the ONNX file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from huggingface_hub import ModelCard

from edgekit.bundle.card import model_card
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.provenance import DataSet, Provenance
from edgekit.commands.export import export
from edgekit.commands.verify import verify
from edgekit.errors import RecipeError, UsageError
from edgekit.preprocess import Preprocess
from edgekit.recipe import load_recipe
from edgekit.sources import ExportOptions
from edgekit.sources.image_metadata import image_metadata
from edgekit.sources.provenance import moment
from tests.bundle.editing import edit
from tests.command_line import Command, banded_pictures, recipe_text, written
from tests.onnx.crafted import network

NO_GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
WHO = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *WHO, *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, in which the process is."""
    for name, value in NO_GIT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    folder = tmp_path / "project"
    (folder / "exported" / "net").mkdir(parents=True)
    written(folder / "model.py", "1")
    written(folder / "exported" / "net" / "model.onnx", "1")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    monkeypatch.chdir(folder)
    return folder


def front(card: str) -> Any:
    """The front matter of a model card, as Hugging Face's own library reads it."""
    return ModelCard(card).data


def metadata(bundle: Bundle) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(bundle.onnx_of()).metadata_props}


def test_a_recipes_training_and_data_stand_in_its_bundle(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    text = recipe_text(banded_pictures(tmp_path)) + '\n[export]\nlicense = "mit"\nauthor = "A  Lab"\n'
    recipe = written(tmp_path / "tiny.toml", text)
    assert run("train", recipe).code == 0
    assert run("export", recipe, "--output", "bundle").code == 0
    bundle = open_bundle(Path("bundle"))
    origin = bundle.manifest.origin
    assert (origin.license, origin.author, origin.created) == ("MIT", "A Lab", "")
    assert origin.data is not None
    assert origin.training is not None
    assert (origin.data.name, len(origin.data.sha256)) == ("pictures", 64)
    assert (origin.training.epochs, origin.training.seed, len(origin.training.initial_sha256)) == (2, 0, 64)
    assert origin.training.versions["torch"] == bundle.manifest.tools["torch"]
    assert str(tmp_path) not in (bundle.root / "manifest.json").read_text(encoding="utf-8")
    data = front((bundle.root / "README.md").read_text(encoding="utf-8"))
    assert data.license == "mit"
    assert data.pipeline_tag == "image-classification"
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type) == ("pictures", "accuracy")
    assert result.metric_value == bundle.manifest.test_accuracy
    first = (bundle.root / "manifest.json").read_bytes()
    assert run("export", recipe, "--output", "again").code == 0
    assert Path("again/manifest.json").read_bytes() == first
    assert run("export", recipe, "--output", "mine", "--license", "Apache-2.0", "--author", "Me").code == 0
    other = open_bundle(Path("mine")).manifest.origin
    assert (other.license, other.author) == ("Apache-2.0", "Me")


def test_an_onnx_file_says_who_made_it_once_in_words_of_onnxs_own(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    model = onnx.load(path)
    for key, value in (("Model_Author", "before"), ("model_license", "before"), ("mine", "stays")):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    export(str(path), tmp_path / "bundle", ExportOptions(license="(mit or apache-2.0)", author="Jürgen"))
    bundle = open_bundle(tmp_path / "bundle")
    entries = metadata(bundle)
    assert entries["mine"] == "stays"
    assert {key: value for key, value in entries.items() if key.casefold().startswith("model_")} == {
        "model_author": "Jürgen", "model_license": "(MIT OR Apache-2.0)",
    }  # fmt: skip
    card = (bundle.root / "README.md").read_text(encoding="utf-8")
    assert (front(card).license, front(card).license_name) == ("other", "(mit-or-apache-2.0)")
    assert "By Jürgen. Licence: (MIT OR Apache-2.0). " in card


@pytest.mark.parametrize(("field", "what"), [("license", "licence"), ("author", "author")])
def test_verify_finds_another_licence_or_author_in_the_manifest_than_in_the_file(tmp_path: Path, field: str, what: str) -> None:
    options = ExportOptions(license="MIT", author="Ada")
    export(str(network(tmp_path / "net.onnx")), tmp_path / "bundle", options)
    assert verify(tmp_path / "bundle", ["ort-cpu"]).passed
    edit(tmp_path / "bundle", lambda document: document["provenance"].update({field: "Zlib"}))
    (failed,) = [check for check in verify(tmp_path / "bundle", ["ort-cpu"]).checks if check.outcome == "fail"]
    assert (failed.code, failed.text.partition(" in the ONNX")[0]) == (
        "license", f"the {what} is 'Zlib' in manifest.json, and {getattr(options, field)!r}",
    )  # fmt: skip


def test_pixels_are_described_in_onnxs_words_where_these_say_it() -> None:
    grey = Preprocess("grey", 28, 28, (0.5,), (0.5,))
    assert image_metadata(grey) == {
        "Image.BitmapPixelFormat": "Gray8", "Image.ColorSpaceGamma": "SRGB", "Image.NominalPixelRange": "Normalized_1_1",
    }  # fmt: skip
    measured = Preprocess("rgb", 28, 28, (0.48, 0.45, 0.40), (0.22, 0.22, 0.22))
    assert image_metadata(measured) == {"Image.BitmapPixelFormat": "Rgb8", "Image.ColorSpaceGamma": "SRGB"}


def test_the_commit_counts_what_bundles_are_made_of_and_not_bundles(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    bundle = Path("exported") / "net"
    assert moment(bundle) == ("", commit, False)
    written(project / "exported" / "net" / "model.onnx", "2")
    written(project / "untracked.txt", "mine")
    assert moment(bundle) == ("", commit, False)
    assert moment(Path("exported/other")) == ("", commit, False)
    assert moment(Path("elsewhere")) == ("", commit, True)
    written(project / "model.py", "2")
    assert moment(bundle) == ("", commit, True)
    git(project, "add", "model.py")
    assert moment(bundle) == ("", commit, True)


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.chdir(tmp_path)
    assert moment(tmp_path / "bundle") == ("", "", False)


def test_the_date_is_that_of_the_environment_or_left_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert moment(Path("exported/net")).created == "2023-11-14T22:13:20+00:00"
    for wrong in ("yesterday", "1e9", "9" * 30, "1_0", "٣"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UsageError, match="which is no time; give whole seconds since 1970, or unset it"):
            moment(Path("exported/net"))


def test_a_licence_that_nobody_knows_is_refused_before_the_long_work(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.sources.drafting.trace", lambda *_: pytest.fail("the model was traced"))
    monkeypatch.setattr("edgekit.sources.onnx_file._reference", lambda *_: pytest.fail("the file was run"))
    for source in ("lenet", network(tmp_path / "net.onnx")):
        result = run("export", source, "--license", "Apache 2", "--output", tmp_path / "out")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1 + result.err.count("1/"))
        assert "--license 'Apache 2' is no SPDX licence; write one like Apache-2.0 or MIT" in result.err
        assert not (tmp_path / "out").exists()
    recipe = written(tmp_path / "tiny.toml", recipe_text() + '\n[export]\nlicense = "GPL"\n')
    with pytest.raises(RecipeError, match=r"export\.license 'GPL' is no SPDX licence"):
        load_recipe(recipe)


def test_the_front_matter_of_a_manifest_from_anywhere_is_yaml(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    name = 'a: "b" # c\n---\u2028\x7f\U0001f600 {x}'
    origin = Provenance("LicenseRef-Ours", "Eve\n---", data=DataSet(name))
    strange = msgspec.structs.replace(manifest, name=name, provenance=origin, test_accuracy=0.5)
    data = front(model_card(strange))
    assert (data.license, data.license_name) == ("other", "licenseref-ours")
    (result,) = data.eval_results
    assert result.dataset_name.startswith('a: "b" # c')
    assert result.metric_value == 0.5


def test_what_is_known_to_the_hub_bears_its_name_there(repository: Path) -> None:
    manifest = open_bundle(repository / "exported" / "edgenet").manifest
    origin = Provenance("Apache-2.0", data=DataSet("fashion-mnist", "0" * 64))
    data = front(model_card(msgspec.structs.replace(manifest, provenance=origin)))
    assert data.datasets == ["zalando-datasets/fashion_mnist"]
    assert {result.metric_name: result.metric_value for result in data.eval_results} == {
        f"top-1 of {name}": share for name, share in manifest.accuracies.items()
    }
    assert len(manifest.accuracies) == 4
