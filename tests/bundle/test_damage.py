"""Every kind of damage to a bundle is named before any file is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import folder as bundling
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.errors import BundleError
from tests.bundle.editing import FILES, edit

CHECKED = tuple(name for name in FILES if name != "README.md")
"""Files that must be as they were written."""


@pytest.mark.parametrize("which", ["inputs", "outputs"])
def test_a_tensor_without_axes_is_refused_at_opening(bundle: Path, which: str) -> None:
    edit(bundle, lambda document: document[which][0].update(shape=[]))
    with pytest.raises(BundleError, match=r"manifest\.json gives '(in|out)put' no axes, and samples .* axis; get the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("shape", "told"), [([-1, 1, 28, 28], "-1x1x28x28"), ([0, 1, 28, 28], "0x1x28x28"), (["batch", -28], "batch x -28")]
)
@pytest.mark.parametrize("which", ["inputs", "outputs"])
def test_a_tensor_of_a_size_that_none_has_is_refused_at_opening(
    bundle: Path, which: str, shape: list[int | str], told: str
) -> None:
    edit(bundle, lambda document: document[which][0].update(shape=shape))
    with pytest.raises(BundleError, match=f"manifest.json gives '(in|out)put' the shape {told}, which no tensor has; get the"):
        open_bundle(bundle)


@pytest.mark.parametrize("share", [-0.1, 1.5, 2**70])
def test_an_accuracy_that_is_no_share_is_refused_at_opening(bundle: Path, share: float) -> None:
    def of_the_bundle(document: dict[str, Any]) -> None:
        document["test_accuracy"] = share

    edit(bundle, lambda document: document["variants"][0].update(accuracy=share))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*accuracy"):
        open_bundle(bundle)
    edit(bundle, lambda document: document["variants"][0].update(accuracy=0.5))
    open_bundle(bundle)
    edit(bundle, of_the_bundle)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*test_accuracy"):
        open_bundle(bundle)


@pytest.mark.parametrize("which", ["inputs", "outputs"])
def test_a_model_that_takes_or_gives_nothing_is_refused_at_opening(bundle: Path, which: str) -> None:
    edit(bundle, lambda document: document[which].clear())
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*length >= 1.*get the bundle again"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", CHECKED)
def test_a_truncated_file_is_named_and_not_read(bundle: Path, name: str, hashed: list[Path]) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} has {len(content) - 1} bytes where the manifest says {len(content)}"):
        open_bundle(bundle)
    assert bundle / name not in hashed


@pytest.mark.parametrize("name", CHECKED)
def test_one_flipped_bit_is_found_and_its_file_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not have the sha256"):
        open_bundle(bundle)


@pytest.mark.parametrize("change", [lambda text: text + "\nours\n", lambda text: text[:-9], lambda text: text.upper()])
def test_a_card_that_was_edited_is_a_note(bundle: Path, change: Callable[[str], str]) -> None:
    (bundle / "README.md").write_text(change((bundle / "README.md").read_text()))
    opened = open_bundle(bundle)
    assert opened.notes == ("README.md is not the model card that was written with the bundle; nothing depends on it",)
    assert opened.golden().inputs


def test_a_card_with_other_line_ends_is_a_note_that_says_so(bundle: Path) -> None:
    assert open_bundle(bundle).notes == ()
    (bundle / "README.md").write_bytes((bundle / "README.md").read_bytes().replace(b"\n", b"\r\n"))
    (note,) = open_bundle(bundle).notes
    assert "has other line ends than the model card" in note


@pytest.mark.parametrize("ends", [(b"\n", b"\r\n"), (b"\r\n", b"\n")])
def test_another_file_whose_line_ends_were_converted_is_refused_with_the_reason(bundle: Path, ends: tuple[bytes, bytes]) -> None:
    text = b"first" + ends[0] + b"second" + ends[0]
    manifest, files = open_bundle(bundle).manifest, {path.name: path.read_bytes() for path in bundle.iterdir()}
    del files["manifest.json"]
    write_bundle(bundle, manifest, {**files, "labels.txt": text})
    (bundle / "labels.txt").write_bytes(text.replace(*ends))
    with pytest.raises(BundleError, match=r"only the line ends of .*labels\.txt differ.*; add '\* -text' to a \.gitattributes"):
        open_bundle(bundle)


def test_a_size_that_lies_is_found(bundle: Path, hashed: list[Path]) -> None:
    edit(bundle, lambda document: document["files"]["model.onnx"].update(size=document["files"]["model.onnx"]["size"] + 1))
    with pytest.raises(BundleError, match=r"model\.onnx has \d+ bytes"):
        open_bundle(bundle)
    assert bundle / "model.onnx" not in hashed


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_not_followed(bundle: Path, tmp_path: Path, name: str, hashed: list[Path]) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name} is not a regular file"):
        open_bundle(bundle)
    assert bundle / name not in hashed


def test_a_pipe_in_place_of_a_file_is_not_waited_for(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is not a regular file"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b'{"schema": 1}', b"\xff\xfe", b'{"a": "\xff"}', b'{"a":' + b"[" * 100_000],
    ids=["empty", "list", "null", "cut", "keys missing", "not UTF-8", "text not UTF-8", "nested without end"],
)
def test_a_damaged_manifest_is_named(bundle: Path, content: bytes, hashed: list[Path]) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged") as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)
    assert hashed == []


def _unknown_key(document: dict[str, Any]) -> None:
    document["golden"]["sample"] = 3


def _no_variants(document: dict[str, Any]) -> None:
    document["variants"] = []


def _impossible_mean(document: dict[str, Any]) -> None:
    document["preprocess"]["mean"] = [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_unknown_key, "unknown field `sample`"), (_no_variants, "variants"), (_impossible_mean, r"need 1 value\(s\)")],
)
def test_a_manifest_with_wrong_values_is_named(bundle: Path, change: Callable[[dict[str, Any]], None], reason: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=rf"manifest\.json is damaged: .*{reason}"):
        open_bundle(bundle)


def test_a_manifest_of_no_schema_is_named(bundle: Path) -> None:
    for schema in (0, -1, True, "4", None, 4.5):
        edit(bundle, lambda document, schema=schema: document.update(schema=schema))  # type: ignore[misc]  # mypy does not infer defaults of a lambda
        with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*schema"):
            open_bundle(bundle)


def test_a_huge_manifest_is_not_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "read_bytes", lambda *_: pytest.fail("the manifest was read"))
    os.truncate(bundle / "manifest.json", (16 << 20) + 1)
    with pytest.raises(BundleError, match="larger than any manifest"):
        open_bundle(bundle)


OUTSIDE = ["../secret", "/etc/hostname", "sub/model.onnx", "..", ".", "", ".hidden", "a\\b", "a\nb", "a\0b", "manifest.json"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["files", "variant", "golden", "weights"])
def test_a_name_that_leaves_the_folder_is_refused_and_nothing_is_read(
    bundle: Path, name: str, place: str, hashed: list[Path]
) -> None:
    (bundle.parent / "secret").write_text("outside")

    def change(document: dict[str, Any]) -> None:
        if place == "files":
            document["files"][name] = document["files"]["model.onnx"]
        elif place == "variant":
            document["variants"][0]["file"] = name
        elif place == "golden":
            document["golden"]["file"] = name
        else:
            document["source"]["weights_file"] = name or "/"

    edit(bundle, change)
    with pytest.raises(BundleError, match="no plain name in its folder"):
        open_bundle(bundle)
    assert hashed == []


def test_a_file_that_is_used_but_has_no_checksum_is_refused(bundle: Path) -> None:
    edit(bundle, lambda document: document["files"].pop("model.onnx"))
    with pytest.raises(BundleError, match=r"no checksum for model\.onnx"):
        open_bundle(bundle)


def test_something_that_is_no_bundle_is_named(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"bundle {tmp_path / 'nothing'} does not exist"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle: it is a file, and a bundle is a folder"):
        open_bundle(bundle / "model.onnx")
    with pytest.raises(BundleError, match="is not a bundle: it is a device, and a bundle is a folder"):
        open_bundle(Path(os.devnull))
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(BundleError, match="ring is a link that leads nowhere; check the path"):
        open_bundle(tmp_path / "ring")


def test_a_folder_that_could_not_be_opened_is_let_go_although_its_error_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks into it, or writes in it, would wait for it."""
    with pytest.raises(BundleError) as kept:
        open_bundle(tmp_path)
    monkeypatch.setattr("edgekit.atomic.time.sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "nothing")
    assert kept.value


@pytest.mark.parametrize(
    ("put", "kind"),
    [
        (os.mkfifo, "pipe"),
        (os.mkdir, "folder"),
        (lambda path: path.symlink_to(os.devnull), "link"),
        (lambda path: path.symlink_to(path.name), "link"),
    ],
    ids=["pipe", "folder", "link to a device", "loop"],
)
def test_what_is_in_place_of_a_manifest_is_named(bundle: Path, put: Callable[[Path], object], kind: str) -> None:
    (bundle / "manifest.json").unlink()
    put(bundle / "manifest.json")
    with pytest.raises(
        BundleError, match=rf"is not a bundle: its manifest\.json is a {kind} in place of a file; give the folder"
    ):
        open_bundle(bundle)
    (bundle / "manifest.json").rename(bundle.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        open_bundle(bundle)
