"""The network of a recipe as training begins with it: with its initial weights, held against pictures and classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgekit.data import PictureShape
from edgekit.errors import ModelError, first_line
from edgekit.models.factory import build_module
from edgekit.models.finetune import start_from
from edgekit.recipe import Recipe
from edgekit.training.folder import model_args


class Initial(NamedTuple):
    """A model as training begins with it, and notes on the weights that it was given."""

    module: nn.Module
    notes: tuple[str, ...]


def build_model(recipe: Recipe, shape: PictureShape) -> Initial:
    """The recipe's model with its initial weights, on the CPU; raises ModelError unless it fits pictures and classes.

    Torch's generator is afterwards where training goes on from.
    """
    torch.manual_seed(recipe.train.seed)
    model = build_module(recipe.model.name, model_args(recipe, shape.classes, shape.channels))
    notes: tuple[str, ...] = ()
    if recipe.model.weights is not None:
        notes = start_from(model, recipe.model.weights, shape.classes, adapt_channels=recipe.model.adapt_channels)
    generator = torch.get_rng_state()
    _check_fit(model, recipe, shape)
    torch.set_rng_state(generator)
    return Initial(model, notes)


@torch.inference_mode()
def _check_fit(model: nn.Module, recipe: Recipe, pictures: PictureShape) -> None:
    """Raise ModelError unless the model takes two (black) pictures and gives one logit per class."""
    classes = pictures.classes
    images = torch.zeros(2, pictures.channels, pictures.height, pictures.width)
    shape = "x".join(map(str, images.shape[1:]))
    try:
        logits = model.eval()(images)
    except ModelError:
        raise
    except Exception as problem:
        reason = first_line(problem)
        raise ModelError(
            f"{recipe.model.name} does not take pictures of {shape}: {reason}", "see data and model.args"
        ) from problem
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, classes):
        returned = f"{'x'.join(map(str, logits.shape))} values" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(
            f"{recipe.model.name} gives {returned} for 2 pictures, but the data has {classes} classes",
            f"let it return logits of 2x{classes}, see model.args",
        )
