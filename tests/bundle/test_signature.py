"""Signatures of real tools: accepted where they are right, and the only strangers in a bundle's folder that pass."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.bundle.folder import open_bundle
from edgekit.bundle.signature import check_signature, open_signed
from edgekit.errors import BundleError, InputError, MissingError
from tests.bundle.editing import edit
from tests.command_line import Command, contents, damaged, flipped, written

NO_SSH = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def new_key(path: Path, kind: str = "ed25519") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path, "-C", "a comment"], check=True)
    return path


def sign(bundle: Path, key: Path, namespace: str = "bundle") -> Path:
    """As docs/hand-over.md says."""
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", str(key), str(bundle / "manifest.json")]
    subprocess.run(command, check=True, capture_output=True)
    return bundle / "manifest.json.sig"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public one is beside it."""
    return new_key(tmp_path / "id")


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


@NO_SSH
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_verify_accepts_the_signer_and_says_so(run: Command, bundle: Path, tmp_path: Path, kind: str) -> None:
    key = new_key(tmp_path / "id", kind)
    sign(bundle, key)
    result = run("verify", bundle, "--backend", "ort-cpu", "--public-key", public(key), "--json")
    assert result.code == 0, result.err
    assert f"it is signed: manifest.json.sig is by the key in {public(key)}" in result.document["notes"]
    unchecked = run("verify", bundle, "--backend", "ort-cpu")
    assert unchecked.code == 0
    assert "it has a signature (manifest.json.sig) that was not checked" in unchecked.out


def other_manifest(bundle: Path, key: Path) -> None:
    edit(bundle, lambda document: document.update(name="other"))


def other_signer(bundle: Path, key: Path) -> None:
    sign(bundle, new_key(key.with_name("other")))


def other_purpose(bundle: Path, key: Path) -> None:
    sign(bundle, key, "file")


def no_signature(bundle: Path, key: Path) -> None:
    written(bundle / "manifest.json.sig", "none")


@NO_SSH
@pytest.mark.parametrize("change", [other_manifest, other_signer, other_purpose, no_signature])
def test_nothing_is_run_of_what_another_has_signed_or_changed(
    run: Command, bundle: Path, key: Path, change: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(bundle, key)
    (bundle / "manifest.json.sig").unlink() if change in (other_signer, other_purpose) else None
    change(bundle, key)
    monkeypatch.setattr("edgekit.commands.verify.open_named", lambda *_: pytest.fail("the network was run"))
    result = run("verify", bundle, "--backend", "ort-cpu", "--public-key", public(key))
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"manifest.json.sig is not this bundle's signature by the key in {public(key)}: " in result.err
    assert "do not use this bundle" in result.err


@NO_SSH
def test_a_signed_manifest_covers_every_file(bundle: Path, key: Path) -> None:
    sign(bundle, key)
    damaged(bundle, "model.onnx", flipped)
    with pytest.raises(BundleError, match=r"model\.onnx does not have the sha256"):
        open_signed(bundle, public(key))


@NO_SSH
def test_a_manifest_that_changes_behind_the_check_is_found(bundle: Path, key: Path) -> None:
    opened = open_bundle(bundle)
    edit(bundle, lambda document: document.update(name="other"))
    sign(bundle, key)
    with pytest.raises(BundleError, match=r"was replaced while it was read|changed while it was read"):
        check_signature(opened, public(key))


@NO_SSH
def test_ssh_keygen_that_hangs_is_told_with_what_gives_it_longer(
    bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(words: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(words, timeout)

    sign(bundle, key)
    monkeypatch.setattr(subprocess, "run", hang)
    monkeypatch.setenv("EDGEKIT_SECONDS", "1")
    with pytest.raises(BundleError, match=r"ssh-keygen takes longer than 60 s to check .*; set EDGEKIT_SECONDS to the seconds"):
        open_signed(bundle, public(key))


@NO_SSH
def test_a_bundle_without_a_signature_or_with_a_link_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json\.sig for the key in .*; ask for a signed bundle"):
        open_signed(bundle, public(key))
    shutil.move(sign(bundle, key), tmp_path / "elsewhere")
    (bundle / "manifest.json.sig").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"has no manifest\.json\.sig"):
        open_signed(bundle, public(key))


@NO_SSH
def test_what_is_no_public_key_is_one_sentence(run: Command, bundle: Path, key: Path, tmp_path: Path) -> None:
    sign(bundle, key)
    injected = f"{public(key).read_text().strip()}\nbundle ssh-ed25519 {'A' * 68}"
    for path, sentence in (
        (key, "is a private key; give one line of OpenSSH's"),
        (written(tmp_path / "text", "hello"), "is no public key; give one line of OpenSSH's"),
        (written(tmp_path / "two", injected), "is no public key; give one line of OpenSSH's"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is not a regular file"),
    ):
        result = run("verify", bundle, "--public-key", path)
        assert (result.code, sentence in result.err) == (2, True), result.err


@NO_SSH
def test_without_the_program_it_says_what_to_install(bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign(bundle, key)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match="needs ssh-keygen, which is not installed; apt-get install openssh-client"):
        open_signed(bundle, public(key))


# OpenSSF's model-signing


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """A private key of model-signing's; its public one is beside it, with the suffix .pub."""
    pytest.importorskip("model_signing", reason="model-signing is not installed")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    encoding, no = serialization.Encoding.PEM, serialization.NoEncryption()
    written(tmp_path / "ec.pem", private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    written(tmp_path / "ec.pub", private.public_key().public_bytes(encoding, spki))
    return tmp_path / "ec.pem"


def model_signing(*words: object) -> None:
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def sign_folder(bundle: Path, pem: Path) -> None:
    model_signing("sign", "key", bundle, "--signature", bundle / "model.sig", "--private_key", pem)


def test_a_folder_that_is_signed_by_model_signing_passes_and_a_changed_one_does_not(
    run: Command, bundle: Path, pem: Path, tmp_path: Path
) -> None:
    sign_folder(bundle, pem)
    result = run("verify", bundle, "--backend", "ort-cpu", "--public-key", public(pem))
    assert result.code == 0, result.err
    assert f"it is signed: model.sig is by the key in {public(pem)}" in result.out
    edit(bundle, lambda document: document.update(name="other"))
    with pytest.raises(BundleError, match=r"model\.sig is not this bundle's signature by the key in .*ec\.pub: "):
        open_signed(bundle, public(pem))


def test_both_signatures_live_beside_each_other(bundle: Path, pem: Path, tmp_path: Path) -> None:
    sign_folder(bundle, pem)
    if shutil.which("ssh-keygen"):
        key = new_key(tmp_path / "id")
        sign(bundle, key)
        assert open_signed(bundle, public(key)).signed.startswith("it is signed: manifest.json.sig")
    assert open_signed(bundle, public(pem)).signed.startswith("it is signed: model.sig")


def test_a_signature_that_leaves_the_manifest_out_is_none(bundle: Path, pem: Path) -> None:
    ignored = ["--ignore-paths", bundle / "manifest.json"]
    model_signing("sign", "key", bundle, "--signature", bundle / "model.sig", "--private_key", pem, *ignored)
    with pytest.raises(BundleError, match=r"it does not cover manifest\.json; do not use this bundle"):
        open_signed(bundle, public(pem))


def test_another_key_of_model_signings_is_refused(bundle: Path, pem: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    sign_folder(bundle, pem)
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    path = written(tmp_path / "other.pub", stranger.public_bytes(serialization.Encoding.PEM, spki))
    with pytest.raises(BundleError, match="is not this bundle's signature"):
        open_signed(bundle, path)


def test_without_model_signing_it_says_what_to_install(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = written(tmp_path / "ec.pub", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    written(bundle / "model.sig", "{}")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "model_signing" else find(name))
    with pytest.raises(MissingError, match=r"this needs model_signing, .*\[sign\]"):
        open_signed(bundle, key)


# strangers, and writers


def test_no_other_file_in_the_folder_passes_unnoticed(run: Command, bundle: Path) -> None:
    for name in ("manifest.json.sig", "model.sig"):
        written(bundle / name, "")
    assert run("verify", bundle, "--backend", "ort-cpu").code == 0
    written(bundle / "libonnxruntime.so", "mine")
    (bundle / "more").mkdir()
    result = run("verify", bundle, "--backend", "ort-cpu", "--json")
    assert result.code == 1
    (check,) = [check for check in result.document["checks"] if check["code"] == "stray-files"]
    assert check["outcome"] == "fail"
    assert check["text"] == "the folder holds libonnxruntime.so, more, which the manifest does not list: move it out"
    assert run("verify", bundle, "--backend", "ort-cpu", "--allow", "stray-files").code == 0


def test_a_bundle_in_a_repository_of_git_passes_and_says_so(run: Command, bundle: Path) -> None:
    (bundle / ".git").mkdir()
    written(bundle / ".gitattributes", "* -text\n")
    result = run("verify", bundle, "--backend", "ort-cpu")
    assert result.code == 0
    assert "the folder holds .git, .gitattributes, which is git's and no part of the bundle" in result.out


def test_quantize_takes_a_signed_bundle_only_without_its_signature(run: Command, bundle: Path, tmp_path: Path) -> None:
    written(bundle / "model.sig", "signed")
    before = contents(bundle)
    for words in ((), ("--output", tmp_path / "new")):
        result = run("quantize", bundle, "--to", "float16", *words)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert "is signed (model.sig), and with one more file it is another bundle; add --drop-signature" in result.err
        assert contents(bundle) == before
        assert not (tmp_path / "new").exists()
    assert run("quantize", bundle, "--to", "float16", "--drop-signature", "--output", tmp_path / "new").code == 0
    assert contents(bundle) == before
    assert not (tmp_path / "new" / "model.sig").exists()
    assert run("quantize", bundle, "--to", "float16", "--drop-signature").code == 0
    assert not (bundle / "model.sig").exists()
    assert [variant.name for variant in open_bundle(bundle).manifest.variants] == ["float32", "float16"]


def test_dropping_a_signature_drops_nothing_else(run: Command, bundle: Path) -> None:
    written(bundle / "model.sig", "signed")
    written(bundle / "notes.txt", "measured on Tuesday")
    before = contents(bundle)
    result = run("quantize", bundle, "--to", "float16", "--drop-signature")
    assert (result.code, "it holds notes.txt, which is not part of a bundle" in result.err) == (2, True)
    assert contents(bundle) == before


def test_an_export_replaces_no_signed_bundle(run: Command, bundle: Path) -> None:
    written(bundle / "manifest.json.sig", "signed")
    before = contents(bundle)
    result = run("export", "lenet", "--output", bundle)
    assert (result.code, "it is signed (manifest.json.sig); choose another --output" in result.err) == (2, True)
    assert contents(bundle) == before


def test_a_manifest_cannot_list_its_own_signature(bundle: Path) -> None:
    written(bundle / "model.sig", "x")
    entry = {"sha256": "0" * 64, "size": 1}
    edit(bundle, lambda document: document["files"].update({"model.sig": entry}))
    with pytest.raises(BundleError, match=r"lists the file 'model\.sig'"):
        open_bundle(bundle)


def test_a_signature_that_is_too_large_is_not_read(bundle: Path, tmp_path: Path) -> None:
    key = written(tmp_path / "ec.pub", "-----BEGIN PUBLIC KEY-----\n")
    with (bundle / "model.sig").open("wb") as stream:
        os.truncate(stream.fileno(), 1 << 31)
    with pytest.raises(BundleError, match="is larger than any signature"):
        open_signed(bundle, key)
    with pytest.raises(InputError, match="does not exist"):
        open_signed(bundle, tmp_path / "none")
