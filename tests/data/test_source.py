"""The table of data sets: one row for each kind that a recipe may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.data import SOURCES, picture_shape
from edgekit.errors import RecipeError
from edgekit.recipe import DATASETS, DataRecipe, load_recipe


def test_every_kind_that_a_recipe_may_name_has_its_row_and_its_rules(tmp_path: Path) -> None:
    assert set(SOURCES) == set(DATASETS)
    for kind in SOURCES:
        (tmp_path / "a.toml").write_text(
            f'name = "a"\n[data]\ndataset = "{kind}"\npath = "here"\nresize = 9\n[model]\nname = "lenet"\n'
        )
        assert load_recipe(tmp_path / "a.toml").data.dataset == kind
    (tmp_path / "a.toml").write_text('name = "a"\n[data]\ndataset = "other"\n[model]\nname = "lenet"\n')
    with pytest.raises(RecipeError, match="other"):
        load_recipe(tmp_path / "a.toml")


@pytest.mark.parametrize(("color", "channels"), [(None, 1), ("grey", 1), ("rgb", 3)])
def test_the_usual_color_of_a_kind_is_that_of_its_rules(color: str | None, channels: int) -> None:
    recipe = DataRecipe("fashion-mnist", color=color)  # type: ignore[arg-type]  # a parameter is no Literal
    assert picture_shape(recipe) == (channels, 28, 28, 10)
    assert DataRecipe("image-folder").pixel_color == "rgb"
