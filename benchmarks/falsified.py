"""Falsified manifests: each changes what a manifest says, and leaves every other file of the bundle as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]
Falsify: TypeAlias = Callable[[Document], object]


def tolerance(**values: float) -> Falsify:
    return lambda manifest: manifest["variants"][0]["allowance"]["tolerance"].update(values)


def pixels(**values: Any) -> Falsify:
    return lambda manifest: manifest["preprocess"].update(values)


def relabelled(change: Callable[[list[str]], list[str]]) -> Falsify:
    return lambda manifest: manifest.update(labels=change(list(manifest["labels"])))


def swapped(labels: list[str]) -> list[str]:
    return [labels[1], labels[0], *labels[2:]]


def scaled(factor: float) -> Falsify:
    def change(manifest: Document) -> None:
        settings = manifest["preprocess"]
        settings.update(mean=[factor * each for each in settings["mean"]], std=[factor * each for each in settings["std"]])

    return change


def batch_size(manifest: Document) -> None:
    for spec in (*manifest["inputs"], *manifest["outputs"]):
        spec["shape"][0] = 1


def as_half(manifest: Document) -> None:
    manifest["variants"][0].update(name="float16", precision="float16")
    manifest["variants"][0]["allowance"]["tolerance"].update(rtol=2e-2)


def one_part_less(manifest: Document) -> None:
    """The extreme pictures are said to be pictures like the others, which have a floor of their own."""
    parts = manifest["golden"]["parts"]
    parts[:] = [{"kind": "pictures", "samples": sum(part["samples"] for part in parts)}]


FALSIFIED: dict[str, Falsify] = {
    "mean and std of ImageNet": pixels(mean=[0.449], std=[0.226]),
    "mean and std of pixels in 0..255": scaled(255),
    "mean and std divided again": scaled(1 / 255),
    "no mean and std": pixels(mean=[0.0], std=[1.0]),
    "mean and std of -1..1": pixels(mean=[0.5], std=[0.5]),
    "mean a little off": pixels(mean=[0.29]),
    "std a little off": pixels(std=[0.36]),
    "mean and std swapped": pixels(mean=[0.353], std=[0.286]),
    "colour pictures": pixels(color="rgb", mean=[0.286] * 3, std=[0.353] * 3),
    "another height": pixels(height=33),
    "another width": pixels(width=27),
    "another white": pixels(white=4095.0),
    "no preprocessing": lambda manifest: manifest.update(preprocess=None),
    "labels reversed": relabelled(lambda labels: labels[::-1]),
    "labels sorted": relabelled(sorted),
    "labels swapped": relabelled(swapped),
    "labels moved by one": relabelled(lambda labels: [*labels[1:], labels[0]]),
    "a label too few": relabelled(lambda labels: labels[:-1]),
    "a label too many": relabelled(lambda labels: [*labels, "more"]),
    "labels in capitals": relabelled(lambda labels: [label.upper() for label in labels]),
    "no labels": relabelled(lambda labels: []),
    "an absolute tolerance of 1e9": tolerance(atol=1e9),
    "an absolute tolerance of 1e-3": tolerance(atol=1e-3),
    "a relative tolerance of 0.99": tolerance(rtol=0.99),
    "a relative tolerance of 1e-4": tolerance(rtol=1e-4),
    "top-1 of 0": tolerance(top1=0.0),
    "top-1 of 0.9": tolerance(top1=0.9),
    "the bar of float16": as_half,
    "precision float16": lambda manifest: manifest["variants"][0].update(precision="float16"),
    "precision bfloat16": lambda manifest: manifest["variants"][0].update(precision="bfloat16"),
    "another opset": lambda manifest: manifest.update(opset=17),
    "another weights' sha256": lambda manifest: manifest["source"].update(weights_sha256="0" * 64),
    "another model": lambda manifest: manifest["source"].update(model="resnet18"),
    "a norm that was kept": lambda manifest: manifest["fold"]["kept"].append(
        {"norm": "norm", "kind": "BatchNorm2d", "reason": "none", "nodes": 1, "obstacles": []}
    ),
    "another input's name": lambda manifest: manifest["inputs"][0].update(name="data"),
    "another output's name": lambda manifest: manifest["outputs"][0].update(name="scores"),
    "another input's dtype": lambda manifest: manifest["inputs"][0].update(dtype="float16"),
    "another output's dtype": lambda manifest: manifest["outputs"][0].update(dtype="float64"),
    "another input's shape": lambda manifest: manifest["inputs"][0]["shape"].__setitem__(2, 33),
    "more classes": lambda manifest: manifest["outputs"][0]["shape"].__setitem__(1, 11),
    "a fixed batch": batch_size,
    "a free height": lambda manifest: manifest["inputs"][0]["shape"].__setitem__(2, "height"),
    "fewer golden samples": lambda manifest: manifest["golden"].update(samples=1, parts=[]),
    "the original's error of 0": lambda manifest: manifest["golden"].update(original_error=0.0),
    "the original's error of 0.1": lambda manifest: manifest["golden"].update(original_error=0.1),
    "the file's error of 0.01": lambda manifest: manifest["variants"][0].update(error=0.01),
    "the file's error of 1e-12": lambda manifest: manifest["variants"][0].update(error=1e-12),
    "the report's error of 0.01": lambda manifest: manifest["fold"].update(error_exported=0.01),
    "an accuracy of 0.99": lambda manifest: manifest.update(test_accuracy=0.99),
    "an accuracy of 0.5": lambda manifest: manifest.update(test_accuracy=0.5),
    "golden pictures of another class": lambda manifest: manifest["golden"]["pictures"][0].update(
        label=(manifest["golden"]["pictures"][0]["label"] + 1) % 10
    ),
    "golden pictures of other samples": lambda manifest: manifest["golden"]["pictures"][0].update(sample=5),
    "floors of one part": one_part_less,
    "no runtime": lambda manifest: manifest["evidence"].update(runtimes={}),
    "precision banana": lambda manifest: manifest["variants"][0].update(precision="banana"),
    "a variant's accuracy of 0.999": lambda manifest: manifest["variants"][0].update(accuracy=0.999),
    "an accuracy a point higher": lambda manifest: manifest.update(test_accuracy=manifest["test_accuracy"] + 0.009),
    "no evidence": lambda manifest: manifest.update(evidence=None),
}
"""What it claims -> the change."""
NOT_CONTRADICTED = (
    "name", "notes", "tools", "source.args", "source.recipe's training settings", "fold.folded", "fold.error_float64",
    "golden.kind", "golden.seed", "golden.reference", "evidence.machine", "evidence.runs", "made_by",
)  # fmt: skip
"""Fields that nothing else in a bundle can contradict: what a reader is told. ``evidence.machine`` decides between
4 and 16 times the recorded noise, which the report states; both are far below the bar that a bundle may choose."""
