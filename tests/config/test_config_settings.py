"""Settings: mistakes are caught before any data are read, and named."""

import inspect

import pytest
import yaml
from pydantic import ValidationError

from transip import config
from transip.config import (
    PRESETS,
    SIZES,
    BatchSettings,
    LabelSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    Recipe,
    Settings,
    TrainingSettings,
    load,
    parse,
)
from transip.errors import InputError

KINDS = [kind for _, kind in inspect.getmembers(config, inspect.isclass) if issubclass(kind, Settings)]
MINIMAL = {"name": "run", "data": {"train": ["a.pack"]}, "training": {"steps": 10}}
LABELS = {"domains": [{"domain": "elytes", "structures": 5}, {"domain": "reactivity", "structures": 5}]}
POOL = {
    "data": {"train": ["a.pack"], "unlabelled": ["b.pack"]},
    "training": {"steps": 1, "batch": {"unlabelled": 4}},
}


def recipe(**changes: object) -> Recipe:
    return parse(Recipe, {**MINIMAL, **changes}, "recipe.yaml")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_explained(kind):
    assert kind.__doc__
    for name, field in kind.model_fields.items():
        assert field.description, f"{kind.__name__}.{name}"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Recipe, MINIMAL),
        (LabelSettings, LABELS),
        (ModelSettings, {}),
        (ObjectiveSettings, {}),
        (BatchSettings, {}),
        (OptimizerSettings, {}),
    ],
)
def test_settings_cannot_be_changed_and_survive_a_round_trip(kind, values):
    settings = parse(kind, values, "test")
    for name in kind.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, name, 1)
    assert parse(kind, settings.model_dump(mode="json"), "test") == settings


class TestMisspeltKeys:
    @pytest.mark.parametrize(
        ("values", "key", "near"),
        [
            ({"objectiv": {}}, "objectiv", "objective"),
            ({"training": {"stesp": 10}}, "training.stesp", "steps"),
            ({"model": {"widht": 64}}, "model.widht", "width"),
            ({"objective": {"latent": {"wieght": 1.0}}}, "objective.latent.wieght", "weight"),
            ({"training": {"steps": 1, "batch": {"atom": 5}}}, "training.batch.atom", "max_atoms"),
        ],
    )
    def test_the_nearest_is_suggested_at_every_depth(self, values, key, near):
        with pytest.raises(InputError, match=rf"recipe\.yaml: unknown setting '{key}'\n.*did you mean '{near}'\?"):
            recipe(**values)

    def test_also_within_lists(self):
        values = {"domains": [LABELS["domains"][0], {"domain": "elytes", "structures": 5, "max_atom": 4}]}
        with pytest.raises(InputError, match=r"'domains\.1\.max_atom'\n.*did you mean 'max_atoms'\?"):
            parse(LabelSettings, values, "labels.yaml")

    def test_without_a_near_one_all_are_listed(self):
        with pytest.raises(InputError, match=r"known settings here: .*batch.*optimizer.*trackers"):
            recipe(training={"steps": 1, "zzzz": 1})


class TestWrongValues:
    @pytest.mark.parametrize(
        ("changes", "where", "message"),
        [
            ({"training": {}}, "training", "give either training.steps or training.minutes"),
            ({"training": {"steps": 1, "minutes": 1}}, "training", "give either training.steps or training.minutes"),
            ({"model": {"width": 65, "heads": 4}}, "model", "width 65 must be an even multiple of heads 4"),
            ({"model": {"width": 36, "heads": 12}}, "model", "must be an even multiple"),
            ({"objective": {"latent": {"weight": 1}}}, "", "objective.latent.weight > 0 .* set objective.views to 2"),
            ({**POOL, "objective": {"views": 2}}, "", "data.unlabelled serves only the latent loss"),
            ({**POOL, "training": {"steps": 1}}, "", "set training.batch.unlabelled above 0"),
            (
                {**POOL, "data": {"train": ["a.pack"]}},
                "",
                "unlabelled 4 has nothing to draw from: give data.unlabelled",
            ),
            (
                {"objective": {"latent": {"weight": 1}, "views": 2, "augment": False}},
                "objective",
                "set objective.augment to true",
            ),
            (
                {"objective": {"equigrad_weight": 0.1}, "model": {"forces": "direct"}},
                "",
                "needs model.forces: conservative",
            ),
            ({"training": {"steps": 0}}, "training.steps", "greater than 0"),
            ({"training": {"steps": 1, "ema_decay": 1.5}}, "training.ema_decay", "less than or equal to 1"),
            ({"training": {"steps": 1, "precision": "fp8"}}, "training.precision", "'float32' or 'bf16'"),
            ({"training": {"steps": 1, "trackers": ["mlflow"]}}, "training.trackers.0", "'tensorboard' or 'wandb'"),
            ({"model": {"size": "XXL"}}, "model.size", "'XS', 'S', 'M' or 'L'"),
            ({"data": {}}, "data.train", "required"),
            ({"training": {"steps": 1, "seed": -1}}, "training.seed", "greater than or equal to 0"),
            ({"training": {"steps": 1, "seed": 2**32}}, "training.seed", "less than 4294967296"),
        ],
    )
    def test_are_named_with_their_setting(self, changes, where, message):
        with pytest.raises(InputError, match=rf"^recipe\.yaml, {where}:.*{message}"):
            recipe(**changes)

    def test_a_word_that_yaml_takes_for_false_is_to_be_quoted(self):
        domains = yaml.safe_load("[{domain: neutral_organics, structures: 1, smiles: [O, NO]}]")
        with pytest.raises(InputError, match=r"smiles\.1: .*\n  → write it in quotes"):
            parse(LabelSettings, {"domains": domains}, "labels.yaml")

    def test_the_corrected_settings_are_fine(self):
        recipe(model={"size": "XS"}, objective={"views": 2, "equigrad_weight": 0.1, "latent": {"weight": 1}})

    @pytest.mark.parametrize("views", [1, 2])
    def test_unlabelled_structures_have_two_views_by_themselves(self, views):
        assert recipe(**POOL, objective={"views": views, "latent": {"weight": 1}}).objective.views == views


class TestFillingIn:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("preset", PRESETS)
    def test_sizes_and_presets_do_it(self, size, preset):
        found = ModelSettings.model_validate({"size": size, "preset": preset})
        for name, value in (SIZES[size] | PRESETS[preset]).items():
            assert getattr(found, name) == value

    def test_what_is_given_comes_first(self):
        found = ModelSettings.model_validate({"size": "M", "preset": "paper", "depth": 3, "num_local_layers": 1})
        assert (found.width, found.depth, found.angular_channels, found.num_local_layers) == (384, 3, 0, 1)

    def test_only_the_paper_has_absolute_positions_instead_of_distances(self):
        default, paper = (ModelSettings.model_validate({"preset": preset}) for preset in ("default", "paper"))
        assert default.distance_bias and default.rotary_values and not default.absolute_features
        assert paper.absolute_features and not paper.distance_bias and not paper.rotary_values
        with pytest.raises(InputError, match="a cutoff needs another preset"):
            parse(ModelSettings, {"preset": "paper", "cutoff": 5.0}, "test")

    def test_the_defaults_are_those_of_the_default_size(self):
        defaults = {name: field.default for name, field in ModelSettings.model_fields.items()}
        assert ModelSettings.model_validate({}).model_dump() == defaults

    def test_either_budget_will_do(self):
        assert TrainingSettings(minutes=1.5).steps is None
        assert TrainingSettings(steps=3).minutes is None


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "value"),
        [
            ("training.steps=20", lambda r: r.training.steps == 20),
            ("training.optimizer.learning_rate=1e-3", lambda r: r.training.optimizer.learning_rate == 1e-3),
            ("model.size=XS", lambda r: r.model.width == 64),
            ("objective.augment=false", lambda r: r.objective.augment is False),
            ("data.train=[a.pack, b.pack]", lambda r: r.data.train == ("a.pack", "b.pack")),
            ("training.early_stopping_patience=null", lambda r: r.training.early_stopping_patience is None),
            ("name=a=b", lambda r: r.name == "a=b"),
        ],
    )
    def test_are_read_as_yaml(self, path, override, value):
        assert value(load(Recipe, path, [override]))

    def test_the_last_one_counts(self, path):
        assert load(Recipe, path, ["training.steps=1", "training.steps=2"]).training.steps == 2

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("training.steps", r"has no '='(.|\n)*--set training\.steps=1000"),
            ("name.first=x", "'name' is a value, not a group of settings"),
            ("training.stesp=3", "did you mean 'steps'"),
            ("training.steps=many", r"training\.steps: .*integer"),
            ("training.steps=[", "is not YAML"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, path, override, message):
        with pytest.raises(InputError, match=message):
            load(Recipe, path, [override])


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("- a\n- b\n", "is not a recipe"),
            ("", "is not a recipe"),
            ("a: [", "is not YAML"),
            (b"\xff\xfe\x00", "is not YAML"),
            ("training: {seed: 7}\ntraining: {steps: 3}", "is not YAML: 'training' stands there twice"),
            ("data: {train: [a]}\ntraining:\n  steps: 3\n  steps: 4", r"is not YAML: 'steps' .* \(line 3 and after\)"),
        ],
    )
    def test_that_are_no_recipes_are_named(self, tmp_path, content, message):
        path = tmp_path / "bad.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=rf"bad\.yaml: {message}"):
            load(Recipe, path)

    def test_that_do_not_exist_are_named(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read"):
            load(Recipe, tmp_path / "nowhere.yaml")
