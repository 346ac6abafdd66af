"""Pictures that are held out: the same ones whatever their order, none of them trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from torch import Tensor
from torch.nn import Module

from edgekit.data import load_dataset
from edgekit.data.pictures import Pictures, divided
from edgekit.errors import DataError
from edgekit.recipe import DataRecipe
from edgekit.training.batches import Batches, predictions
from edgekit.training.fit import fit
from tests.networks import dataset
from tests.training.test_loop import recipe


def contents(pictures: Pictures) -> set[bytes]:
    return {image.tobytes() for image in pictures.images}


def test_held_out_pictures_are_not_trained_on_and_none_is_lost() -> None:
    whole = dataset(60).train
    train, held = divided(whole, 20)
    assert held is not None
    assert (len(train), len(held)) == (40, 20)
    assert not contents(train) & contents(held)
    assert contents(train) | contents(held) == contents(whole)
    labels = {image.tobytes(): label for image, label in zip(whole.images, whole.labels, strict=True)}
    for part in (train, held):
        assert [labels[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_which_pictures_are_held_out_does_not_depend_on_their_order_and_hardly_on_others() -> None:
    whole = dataset(60).train
    order = np.random.default_rng(0).permutation(60)
    shuffled = Pictures(whole.images[order], whole.labels[order])
    fewer = Pictures(whole.images[:59], whole.labels[:59])
    parts = [divided(pictures, 20)[1] for pictures in (whole, shuffled, fewer)]
    held = [contents(part) for part in parts if part is not None]
    assert held[0] == held[1]
    assert len(held[0] & held[2]) >= 19


def test_without_a_holdout_all_are_trained_on() -> None:
    whole = dataset(6).train
    assert divided(whole, 0) == (whole, None)


@pytest.mark.parametrize("count", [5, 6, 100])
def test_a_holdout_that_leaves_nothing_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"data\.holdout = {count} leaves nothing of 6 training pictures; lower it"):
        divided(dataset(6).train, count)


def test_a_recipes_holdout_shows_in_the_data_and_its_hash(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = np.random.default_rng(number + 100 * (name == "b")).integers(0, 256, (4, 4), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    plain, held = (load_dataset(DataRecipe("image-folder", str(tmp_path), 4, "grey", holdout=count)) for count in (0, 8))
    assert held.holdout is not None
    assert len(held.train) == len(plain.train) - 8
    assert held.sha256() != plain.sha256()
    assert "; 8 more are held out to watch the training" in held.report().lines()[0]
    assert sum(row.held_out for row in held.report().classes) == 8
    assert not any(row.held_out for row in plain.report().classes)


def test_an_epoch_reports_the_accuracy_on_held_out_pictures_and_the_test_set_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(96)
    train, held = divided(data.train, 32)
    read: list[int] = []

    def counted(model: Module, batches: Batches, *settings: Any) -> Tensor:
        read.append(len(batches))
        return predictions(model, batches, *settings)

    monkeypatch.setattr("edgekit.training.finish.predictions", counted)
    report = fit(recipe(), msgspec.structs.replace(data, train=train, holdout=held), tmp_path / "run")
    assert read == [len(data.test)]
    assert [epoch.test_accuracy for epoch in report.epochs] == [None] * 3
    assert report.holdout_accuracy == report.epochs[-1].holdout_accuracy
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["test_accuracy"]) for line in lines] == [(1, None), (2, None), (3, None)]
