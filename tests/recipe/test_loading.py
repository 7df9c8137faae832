"""Recipes: what they may say, and how a mistake is told."""

import json

import pytest
from pydantic import ValidationError

from kdcli.errors import RecipeError
from kdcli.recipe.data import DataConfig
from kdcli.recipe.loading import copy_recipe_with_absolute_paths, dump_recipe, load_recipe
from kdcli.recipe.recipe_lookup import shipped_recipe_paths, shipped_recipes_folder
from kdcli.recipe.schema import Recipe

MINIMAL = "name: mine\ndata:\n  dataset: owner/texts\nteacher:\n  model: owner/model\n"


@pytest.fixture
def written(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return str(path)

    return write


@pytest.mark.parametrize(
    "path", sorted(shipped_recipes_folder().rglob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_recipe_is_sound_and_survives_a_round_trip(path, tmp_path):
    recipe = load_recipe(str(path))
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(str(again)) == recipe


def test_a_recipe_is_found_by_name_and_by_path():
    assert load_recipe("clinc_plus") == load_recipe(str(shipped_recipe_paths()["clinc_plus"]))


def test_the_documented_run_to_the_letter():
    recipe = load_recipe("clinc_plus")
    fit = recipe.distill
    assert (recipe.seed, fit.batch_size, fit.epochs, fit.learning_rate) == (42, 48, 5, 2e-5)
    assert (fit.betas, fit.epsilon, fit.schedule) == ((0.9, 0.999), 1e-8, "linear")
    assert (recipe.student.drop_every, recipe.student.architecture) == (2, "distilbert")
    assert recipe.teacher.model == "google-bert/bert-base-uncased"
    assert (recipe.data.dataset, recipe.data.config) == ("clinc/clinc_oos", "plus")


def test_little_has_to_be_said(written):
    recipe = load_recipe(written(MINIMAL))
    assert recipe.teacher.fine_tune is None
    assert recipe.seed == 42
    with pytest.raises(ValidationError):
        recipe.seed = 1


def test_overrides_reach_lists_and_take_yaml(written):
    recipe = load_recipe(
        "clinc_plus",
        ["distill.losses.0.temperature=4", "student.drop_every=null", "student.keep_layers=[0, 5]"],
    )
    assert recipe.distill.losses[0].temperature == 4
    assert recipe.student.keep_layers == (0, 5)


def test_overrides_reach_lists_that_the_recipe_leaves_out(written):
    recipe = load_recipe(
        written(MINIMAL),
        ["distill.losses.0.temperature=4", "distill.betas.1=0.98", "evaluate.splits.1=train"],
    )
    assert [loss.weight for loss in recipe.distill.losses] == [0.5, 0.5]
    assert recipe.distill.losses[0].temperature == 4
    assert recipe.distill.betas == (0.9, 0.98)
    assert recipe.evaluate.splits == ("validation", "train")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("distill.epochs", "not of the form key=value"),
        ("distill.epohcs=1", "Did you mean epochs?"),
        ("distill.losses.7.weight=1", "there are 2 items"),
        ("seed.x=1", "has no keys below it"),
        ("evaluate.splits.0.x=1", "has no keys below it"),
        ("distill.losses.².weight=1", "there are 2 items"),
        ("data.0=1", "not a key that a recipe knows"),
        ("distill.losses=[", "is not YAML"),
        ("teacher.model=null", "teacher.model must be a valid string, not null"),
        ("distill.epochs=many", "must be a valid integer, not 'many'"),
    ],
)
def test_a_wrong_override_names_itself(override, says):
    with pytest.raises(RecipeError) as raised:
        load_recipe("clinc_plus", [override])
    assert str(raised.value).startswith(f"--set {override}")
    assert says in str(raised.value)


def test_paths_count_from_the_file_and_from_here_in_an_override(written, tmp_path, monkeypatch):
    (tmp_path / "texts.csv").touch()
    path = written(MINIMAL.replace("owner/texts", "texts.csv"))
    assert load_recipe(path).data.dataset == str(tmp_path / "texts.csv")
    here = tmp_path / "here"
    here.mkdir()
    (here / "other.csv").touch()
    monkeypatch.chdir(here)
    assert load_recipe(path, ["data.dataset=other.csv"]).data.dataset == str(here / "other.csv")
    assert load_recipe(path, ["data.dataset=owner/set"]).data.dataset == "owner/set"


@pytest.mark.parametrize("text", ["1e5", "12e45", "5", "null", "off", "12:30", "~", "[a]", "é"])
def test_text_that_looks_like_something_else_survives_a_round_trip(written, text):
    # A commit's short hash may well read as a number: 12e45.
    data = {"dataset": "owner/texts", "label": text, "revision": text}
    recipe = Recipe(name="mine", data=data, teacher={"model": "owner/model"})
    assert load_recipe(written(dump_recipe(recipe))) == recipe


def test_a_copy_works_from_where_it_is_put(tmp_path):
    copied = copy_recipe_with_absolute_paths("quickstart", tmp_path)
    assert load_recipe(str(copied)) == load_recipe("quickstart")
    with pytest.raises(RecipeError, match="exists"):
        copy_recipe_with_absolute_paths("quickstart", tmp_path)


@pytest.mark.parametrize(
    "path", ["./texts.csv", "texts.csv", "'texts.csv'", '"./texts.csv" # here']
)
def test_a_copy_finds_its_files_however_they_are_written(written, tmp_path, path):
    (tmp_path / "texts.csv").touch()
    original = written("# Its dataset: texts.csv\n" + MINIMAL.replace("owner/texts", path))
    copied = copy_recipe_with_absolute_paths(original, tmp_path / "copy.yaml")
    (tmp_path / "elsewhere").mkdir()
    moved = copied.rename(tmp_path / "elsewhere" / "copy.yaml")
    assert load_recipe(str(moved)) == load_recipe(original)
    assert moved.read_text().startswith("# Its dataset: texts.csv\n")


@pytest.mark.parametrize(("text", "says"), [("", "is empty"), ("- a\n", "holds no keys")])
def test_what_is_no_recipe_is_not_copied(written, tmp_path, text, says):
    with pytest.raises(RecipeError, match=says):
        copy_recipe_with_absolute_paths(written(text), tmp_path / "copy.yaml")
    with pytest.raises(RecipeError, match="There is no folder"):
        copy_recipe_with_absolute_paths("quickstart", tmp_path / "nowhere" / "copy.yaml")


def test_the_schema_is_for_editors_and_as_strict_as_the_loader():
    schema = json.loads(json.dumps(Recipe.model_json_schema()))
    assert schema["additionalProperties"] is False
    assert all(d["additionalProperties"] is False for d in schema["$defs"].values())


def test_another_teacher_without_a_model_is_the_first_with_another_seed(written):
    teacher = (
        "  revision: v1\n  fine_tune: {epochs: 3}\n  cross_fit_folds: 2\n  ensemble_with: [%s]\n"
    )
    several = "{seed: 7}, {seed: 8, fine_tune: {epochs: 4}}, {model: a/b, seed: 9}"
    first = load_recipe(written(MINIMAL + teacher % several)).teacher
    same, longer, other = first.ensemble_with
    assert (same.model, same.revision, same.fine_tune) == (
        first.model,
        first.revision,
        first.fine_tune,
    )
    assert (same.seed, same.cross_fit_folds, longer.fine_tune.epochs) == (7, None, 4)
    assert (other.model, other.revision, other.fine_tune) == ("a/b", None, None)
    with pytest.raises(RecipeError, match=r"teacher\.ensemble_with\.0\.model is missing"):
        load_recipe(written(MINIMAL + teacher % "{weight: 2}"))
    another = Recipe.model_json_schema()["$defs"]["AdditionalTeacherConfig"]
    assert "model" not in another.get("required", ())


def test_a_pair_has_no_two_ends_and_no_windows():
    data = {"dataset": "x", "text": ["premise", "hypothesis"]}
    for keep in ("head", "tail", None):
        assert DataConfig.model_validate({**data, "truncation": keep}).truncation == keep
    for keep in ("both", "windows"):
        with pytest.raises(ValueError, match="single texts, not for pairs"):
            DataConfig.model_validate({**data, "truncation": keep})
