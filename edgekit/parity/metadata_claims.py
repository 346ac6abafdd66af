"""What a manifest says of a network's origin and meaning, held against the metadata of its ONNX files and its recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import msgspec

from edgekit.decoding import CHANNELS
from edgekit.onnx.declared import Declared
from edgekit.parity.evidenced import Evidenced
from edgekit.preprocess import Preprocess
from edgekit.reports.verify import Check


def weights(seen: Evidenced) -> Iterator[Check]:
    """The weights' sha256 is that of the weights' file, and of the files' metadata."""
    source = seen.manifest.source
    stored = [seen.manifest.files[source.weights_file].sha256] if source.weights_file else []

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.weights_sha256")
        wrong = any(sha256 != source.weights_sha256 for sha256 in ([] if said is None else [said]) + stored)
        return "the weights' sha256 in the manifest is not that of the weights" if wrong else ""

    yield from seen.told_by_each("weights", problem)


def model(seen: Evidenced) -> Iterator[Check]:
    """The model's name is that in the files' metadata and in the recipe."""
    source = seen.manifest.source
    recipe = source.of_recipe("model").get("name", source.model)

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.source")
        wrong = next((name for name in (said, recipe) if name not in (None, source.model)), None)
        return f"the manifest says the model is {source.model}, and the file or the recipe says {wrong}" if wrong else ""

    yield from seen.told_by_each("model", problem)


def license_(seen: Evidenced) -> Iterator[Check]:
    """Licence and author are those of the files' metadata, under ONNX's own names."""
    origin = seen.manifest.origin

    def problem(file: Declared) -> str:
        for what, key, mine in (("licence", "model_license", origin.license), ("author", "model_author", origin.author)):
            said = file.metadata.get(key)
            if mine and said != mine:
                return f"the {what} is {mine!r} in manifest.json, and {said or 'not known'!r} in the ONNX file"
        return ""

    yield from seen.told_by_each("license", problem)


def labels(seen: Evidenced) -> Iterator[Check]:
    """The labels are those of the files' metadata, and there is one for each class."""
    mine, classes = list(seen.manifest.labels), seen.manifest.outputs[0].shape[-1]

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.labels")
        if mine and classes != len(mine):
            return f"there are {len(mine)} labels for {classes} classes"
        if (said is not None or (mine and "edgekit.version" in file.metadata)) and mine != _decoded(said):
            return _other_labels(mine, _decoded(said))
        if seen.golden.labels is not None and seen.golden.labels.max(initial=-1) >= max(len(mine), 1):
            return "a golden picture is of a class that the manifest does not name"
        return ""

    yield from seen.told_by_each("labels", problem)


def _other_labels(mine: Sequence[str], true: Sequence[str]) -> str:
    """A sentence with the first label that differs in two lists that are not the same."""
    if len(mine) != len(true):
        return f"manifest.json has {len(mine)} labels, and the ONNX file {len(true)}"
    places = [place for place, (label, other) in enumerate(zip(mine, true, strict=True)) if label != other]
    first = places[0]
    return f"label {first} is {mine[first]!r} in manifest.json, and {true[first]!r} in the ONNX file ({len(places)} differ)"


def _decoded(text: str | None) -> list[str]:
    try:
        value = json.loads(text or "[]")
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def preprocess(seen: Evidenced) -> Iterator[Check]:
    """The preprocessing is that of the files' metadata, of the recipe, and fits the input."""
    mine = seen.manifest.preprocess
    shape = seen.manifest.inputs[0].shape
    recipe = seen.manifest.source.of_recipe("data")

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.preprocess")
        if mine is None:
            return "the file records a preprocessing, and the manifest none" if said else ""
        if shape[1:] != (CHANNELS[mine.color], mine.height, mine.width):
            return f"the preprocessing gives {CHANNELS[mine.color]}x{mine.height}x{mine.width}, and the input is {shape}"
        if (said or "edgekit.version" in file.metadata) and (other := _other_preprocess(mine, said)):
            return other
        if wrong := next((key for key in ("mean", "std") if recipe.get(key) not in (None, [*getattr(mine, key)])), None):
            return f"{wrong} is {[*getattr(mine, wrong)]} in manifest.json, and {recipe[wrong]} in its recipe"
        if recipe.get("color") not in (None, mine.color):
            return f"the manifest says {mine.color} pictures, and the recipe {recipe['color']}"
        return ""

    yield from seen.told_by_each("preprocess", problem)


def _other_preprocess(mine: Preprocess, said: str | None) -> str:
    """A sentence with the fields that differ from what the file's metadata ``said``; empty if none does."""
    try:
        true = msgspec.json.decode(said or "", type=Preprocess)
    except (msgspec.DecodeError, ValueError):
        return "the manifest has a preprocessing, and the ONNX file records none that can be read"
    here, there = (msgspec.json.decode(msgspec.json.encode(each)) for each in (mine, true))
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return " and ".join(f"{key} is {here.get(key)} in manifest.json, and {there.get(key)} in the ONNX file" for key in keys)
