"""``edgekit web`` without a browser: what it replaces, what it refuses, and where its runtime comes from."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from edgekit.commands.web import web
from edgekit.errors import BundleError, InputError, MissingError, OutputError, UsageError
from edgekit.ship import onnxruntime_web
from edgekit.ship.onnxruntime_web import FETCH_SECONDS, FILES, PACKAGE, VERSION, web_runtime
from tests.command_line import Command, contents

HEAD = b"/*!\n * ONNX Runtime Web v9.9.9\n"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder that looks like the npm package's ``dist``."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(HEAD + name.encode())
    return folder


def package() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in FILES:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(HEAD)
            archive.addfile(entry, io.BytesIO(HEAD))
    return buffer.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``npm`` that gives the file which this names."""
    programs = tmp_path / "programs"
    programs.mkdir()
    given = tmp_path / "given.tgz"
    given.write_bytes(package())
    program = programs / "npm"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n/bin/cp {given} {PACKAGE}-{VERSION}.tgz\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return given


def pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{digest}")


def test_an_older_page_is_replaced_and_the_runtimes_version_is_told(bundle: Path, runtime: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    web(bundle, page, runtime=runtime)
    first = contents(page)
    (page / "picture-7.png").write_bytes(b"of an older bundle")
    report = web(bundle, page, runtime=runtime)
    assert contents(page) == first
    assert report.runtime == "9.9.9"
    assert {name for name, content in first.items() if content is not None} == set(report.files)


@pytest.mark.parametrize("name", ["notes.txt", "subfolder/notes.txt"])
def test_a_folder_of_somebody_elses_is_refused_and_left_as_it_is(bundle: Path, runtime: Path, tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / "mine", tmp_path / "page"):
        if folder.name == "page":
            web(bundle, folder, runtime=runtime)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
        before = contents(folder)
        with pytest.raises(OutputError, match="cannot write the page"):
            web(bundle, folder, runtime=runtime)
        assert contents(folder) == before


def test_nothing_is_written_into_the_bundle(bundle: Path, runtime: Path) -> None:
    before = contents(bundle)
    with pytest.raises(OutputError, match="a bundle is immutable"):
        web(bundle, bundle / "page", runtime=runtime)
    assert contents(bundle) == before


def test_bad_input_leaves_nothing_behind(bundle: Path, runtime: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    with pytest.raises(UsageError, match="no variant 'int7'"):
        web(bundle, page, variant="int7", runtime=runtime)
    (runtime / FILES[2]).unlink()
    with pytest.raises(InputError, match=FILES[2]):
        web(bundle, page, runtime=runtime)
    with pytest.raises(InputError, match=r"lacks ort\.wasm\.min\.js.*give the folder dist"):
        web(bundle, page, runtime=bundle)
    (bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        web(bundle, page, runtime=runtime)
    assert not page.exists()


def test_the_command_line_says_how_to_serve_the_page(run: Command, bundle: Path, runtime: Path, tmp_path: Path) -> None:
    result = run("web", bundle, tmp_path / "a page", "--runtime", runtime)
    assert result.code == 0
    assert f"python3 -m http.server --bind localhost --directory '{tmp_path / 'a page'}' 8000" in result.out.replace("\n", " ")
    assert run("web", bundle, tmp_path / "b", "--runtime", tmp_path / "nowhere").code == 2


def test_the_package_is_fetched_once_and_then_taken_from_the_cache(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, npm.read_bytes())
    assert web_runtime().version == "9.9.9"
    assert web_runtime().version == "9.9.9"
    assert (npm.parent / "calls").read_text().splitlines() == [f"pack --ignore-scripts {PACKAGE}@{VERSION}"]


def test_a_package_with_another_sha512_is_refused_and_not_kept(npm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has another sha512 than sha512-q0y"):
        web_runtime()
    assert not list((tmp_path / "cache").rglob("*.tgz"))


def test_a_damaged_package_in_the_cache_is_fetched_again(npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, npm.read_bytes())
    place = tmp_path / "cache" / "web" / f"{PACKAGE}-{VERSION}.tgz"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"half")
    assert web_runtime().version == "9.9.9"
    assert place.read_bytes() == npm.read_bytes()


def test_without_npm_or_without_a_network_the_remedy_is_the_folder(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = npm.parent / "programs" / "npm"
    program.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\necho 'npm error no such host' >&2\nexit 1\n")
    with pytest.raises(MissingError, match="could not be fetched: npm error no such host; give --runtime the folder dist"):
        web_runtime()
    program.unlink()
    with pytest.raises(MissingError, match=r"npm.*is not on the PATH; install it, or give --runtime"):
        web_runtime()


def test_npm_that_hangs_is_told_with_what_gives_it_longer(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    for given, seconds in (("1", FETCH_SECONDS), ("1000", 1000)):
        monkeypatch.setenv("EDGEKIT_SECONDS", given)
        with pytest.raises(MissingError) as caught:
            web_runtime()
        assert caught.value.reason.endswith(f"could not be fetched: npm takes longer than {seconds} s")
        assert caught.value.remedy.startswith("set EDGEKIT_SECONDS to the seconds that it may take, or give --runtime the folder")
