"""A resolved recipe says everything, and is what a run folder holds."""

import pytest
import yaml

from transip.config import ModelSettings, Recipe, dump, load, parse
from transip.errors import InputError

MINIMAL = {"name": "run", "data": {"train": ["a.pack"]}, "training": {"steps": 10}}
TRAINED = ModelSettings(size="XS", width=96, heads=6, depth=3, l_max=3)


def tuned(**changes: object) -> Recipe:
    return parse(Recipe, {**MINIMAL, "init_from": "runs/first", **changes}, "recipe.yaml")


class TestResolving:
    def test_without_a_model_to_begin_with_nothing_is_left_to_resolve(self):
        recipe = parse(Recipe, MINIMAL, "recipe.yaml")
        assert recipe.resolve() == recipe

    def test_what_the_recipe_does_not_say_is_as_in_the_model(self):
        assert tuned().resolve(TRAINED).model == TRAINED

    def test_what_it_says_stays(self):
        model = tuned(model={"forces": "direct"}).resolve(TRAINED).model
        assert model == TRAINED.model_copy(update={"forces": "direct"})

    @pytest.mark.parametrize("given", [{"size": "S"}, {"preset": "default"}, {"size": "S", "depth": 4}])
    def test_what_its_size_or_preset_fills_in_counts_as_said(self, given):
        model = tuned(model=given).resolve(TRAINED).model
        assert (model.width, model.heads) == (128, 8)

    def test_a_resolved_recipe_stays_as_it_is(self):
        once = tuned(model={"forces": "direct"}).resolve(TRAINED)
        other = ModelSettings(size="M")
        assert once.resolve(other) == once == parse(Recipe, once.model_dump(mode="json"), "again").resolve(other)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"fine_tuning": {"frozen_blocks": 4}}, "frozen_blocks 4 exceeds the model's depth 3"),
            ({"model": {"forces": "direct"}, "objective": {"equigrad_weight": 0.1}}, "needs model.forces"),
            ({"model": {"width": 112}}, "width 112 must be an even multiple of heads 6"),
        ],
    )
    def test_what_does_not_fit_the_model_is_named(self, changes, message):
        with pytest.raises(InputError, match=rf"run, with the model of runs/first.*: .*{message}"):
            tuned(**changes).resolve(TRAINED)


class TestDumping:
    def test_all_settings_are_written_and_read_again(self, tmp_path):
        recipe = tuned(model={"forces": "direct"}).resolve(TRAINED)
        (tmp_path / "recipe.yaml").write_text(dump(recipe))
        assert load(Recipe, tmp_path / "recipe.yaml") == recipe
        values = yaml.safe_load(dump(recipe))
        assert values.pop("transip_format") == 1
        assert set(values) == set(Recipe.model_fields)
        assert set(values["model"]) == set(ModelSettings.model_fields)

    def test_a_recipe_of_a_newer_format_is_refused(self, tmp_path):
        (tmp_path / "recipe.yaml").write_text(dump(parse(Recipe, MINIMAL, "x")).replace("format: 1", "format: 2"))
        with pytest.raises(InputError, match=r"recipe\.yaml: has format 2, newer than format 1 .*\n.*upgrade transip"):
            load(Recipe, tmp_path / "recipe.yaml")
