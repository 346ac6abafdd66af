"""Helpers of tests of ``edgekit build``: its result, and a check that a refusal leaves no files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.bundle.folder import open_bundle, write_bundle


class Result(NamedTuple):
    code: int
    document: dict[str, Any]
    err: str


Command = Callable[..., Result]


def with_model(bundle: Path, model: OnnxFile | bytes) -> Path:
    """The bundle with its ONNX file replaced and a matching manifest."""
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    content = model if isinstance(model, bytes) else model.content
    manifest = opened.manifest
    if isinstance(model, OnnxFile):
        manifest = msgspec.structs.replace(manifest, inputs=model.inputs)
    write_bundle(bundle, manifest, {**contents, opened.variant().file: content})
    return bundle


def written() -> list[str]:
    return sorted(str(path) for root in (Path("../cache"), Path()) for path in root.rglob("*") if path.is_file())


def refused(run: Command, *args: object, kind: str = "EngineError") -> str:
    """The message of a build that must fail with exit code 2, in one sentence, and leave no files."""
    before = written()
    result = run(*args)
    assert result.code == 2
    assert result.document["error"]["kind"] == kind
    message = str(result.document["error"]["message"])
    assert "\n" not in message
    assert "; " in message  # what to do
    assert written() == before
    return message
