"""Starting a training from weights whose classes or input channels may differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.models.finetune import start_from


def net(channels: int, classes: int, seed: int, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    layers = (
        nn.Conv2d(channels, width, 3),
        nn.BatchNorm2d(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )
    return nn.Sequential(*layers).eval()


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Weights for colour pictures of 9 classes, in a checkpoint as training scripts write it."""
    path = tmp_path / "weights.pth"
    torch.save({"model": {f"module.{key}": value for key, value in net(3, 9, 1).state_dict().items()}}, path)
    return str(path)


def test_weights_that_fit_are_loaded_whole(weights: str) -> None:
    model = net(3, 9, 2)
    notes = start_from(model, weights, 9)
    assert all(torch.equal(value, net(3, 9, 1).state_dict()[key]) for key, value in model.state_dict().items())
    assert not any("anew" in text for text in notes)


def test_a_head_of_other_classes_begins_anew_and_is_named(weights: str) -> None:
    model = net(3, 5, 2)
    notes = start_from(model, weights, 5)
    assert "4 begins anew: the file has 9 classes, the data 5" in notes
    assert torch.equal(model.get_parameter("0.weight"), net(3, 9, 1).get_parameter("0.weight"))
    assert torch.equal(model.get_parameter("4.weight"), net(3, 5, 2).get_parameter("4.weight"))


def test_input_channels_are_adapted_only_when_asked(weights: str) -> None:
    with pytest.raises(ModelError, match=r"are for 3 input channels \(0.weight\), and the pictures have 1; .*adapt_channels"):
        start_from(net(1, 9, 2), weights, 9)
    model, grey = net(1, 9, 2), torch.rand(2, 1, 8, 8)
    notes = start_from(model, weights, 9, adapt_channels=True)
    assert "0.weight was adapted from 3 input channels to 1" in notes
    torch.testing.assert_close(model(grey), net(3, 9, 1)(grey.expand(2, 3, 8, 8)))


def test_grey_weights_give_the_same_on_a_colour_picture_without_colour(tmp_path: Path) -> None:
    torch.save(net(1, 9, 1).state_dict(), tmp_path / "grey.pth")
    model, grey = net(3, 9, 2), torch.rand(2, 1, 8, 8)
    start_from(model, str(tmp_path / "grey.pth"), 9, adapt_channels=True)
    torch.testing.assert_close(model(grey.expand(2, 3, 8, 8)), net(1, 9, 1)(grey))


def test_another_width_is_no_head(weights: str) -> None:
    with pytest.raises(ModelError, match=r"0.weight is \(4, 3, 3, 3\) in the file and \(5, 3, 3, 3\) in the model"):
        start_from(net(3, 9, 2, width=5), weights, 9, adapt_channels=True)


def test_a_layer_of_another_size_than_the_classes_is_no_head(weights: str) -> None:
    with pytest.raises(ModelError, match=r"4.weight is \(9, 4\) in the file and \(5, 4\) in the model"):
        start_from(net(3, 5, 2), weights, 6)


def test_a_grouped_layer_inside_is_never_adapted(tmp_path: Path) -> None:
    def net_of(groups: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=groups), nn.Flatten(), nn.LazyLinear(2))

    grouped, plain = net_of(4), net_of(1)
    for model in (grouped, plain):
        model(torch.zeros(1, 3, 8, 8))
    torch.save(grouped.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"1\.weight"):
        start_from(plain, str(tmp_path / "w.pth"), 2, adapt_channels=True)
