"""Files of older formats are brought up to the newest, step by step."""

import pytest
import yaml

from transip.config import Recipe, load
from transip.config.migrate import MODEL_MIGRATIONS, RECIPE_MIGRATIONS, migrate
from transip.errors import InputError


def renamed(values: dict) -> dict:
    """Format 2 calls `label` what format 1 called `name`."""
    return {"label" if key == "name" else key: value for key, value in values.items()}


def shouted(values: dict) -> dict:
    """Format 3 has the label in capitals."""
    return values | {"label": values["label"].upper()}


STEPS = (renamed, shouted)


@pytest.mark.parametrize(("version", "values"), [(1, {"name": "run"}), (2, {"label": "run"}), (3, {"label": "RUN"})])
def test_each_format_goes_through_the_steps_after_it(version, values):
    before = dict(values)
    assert migrate(values, version, STEPS, "here") == {"label": "RUN"}
    assert values == before


def test_a_newer_format_is_refused():
    with pytest.raises(InputError, match=r"here: has format 4, newer than format 3 (.|\n)*upgrade transip"):
        migrate({}, 4, STEPS, "here")


@pytest.mark.parametrize("version", [0, -1, None, "1", 1.0, True])
def test_what_is_no_number_of_a_format_is_refused(version):
    with pytest.raises(InputError, match="no valid format number"):
        migrate({}, version, STEPS, "here")


def test_the_formats_of_today():
    assert RECIPE_MIGRATIONS == MODEL_MIGRATIONS == ()


@pytest.mark.parametrize(("version", "key"), [(1, "size"), (2, "heads"), (None, "heads")])
def test_recipes_are_migrated_when_they_are_loaded(version, key, tmp_path, monkeypatch):
    """Also before overrides, which are in the words of today; without a number a recipe is of the newest format."""

    def moved(values: dict) -> dict:
        return values | {"model": {"heads": values["model"]["size"]}}

    monkeypatch.setattr("transip.config.loading.RECIPE_MIGRATIONS", (moved,))
    recipe = {"name": "x", "data": {"train": ["a.pack"]}, "model": {key: 2}, "training": {"steps": 1}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe | ({} if version is None else {"transip_format": version})))
    assert load(Recipe, file).model.heads == 2
    assert load(Recipe, file, ["model.heads=4"]).model.heads == 4
